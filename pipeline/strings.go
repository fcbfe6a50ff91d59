package pipeline

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
)

// maxMadeText bounds what replace and join make, in bytes. cel-go's own functions of these names make it all before they are
// charged for it: two replaces make a 5 kB message 125 GB.
const maxMadeText = 1 << 20

// function is a function on text that expressions have beside CEL's standard ones. Their names and meanings are those of
// cel-go's string functions. https://pkg.go.dev/cel.dev/cel-go/ext#Strings
type function struct {
	name string
	id   string // of the overload
	args []*cel.Type
	ret  *cel.Type
	call func(args []ref.Val) ref.Val
}

var textFunctions = []function{
	{"lowerAscii", "text_lower", []*cel.Type{cel.StringType}, cel.StringType, func(a []ref.Val) ref.Val { return types.String(mapASCII(str(a[0]), 'A', 'Z', 'a'-'A')) }},
	{"upperAscii", "text_upper", []*cel.Type{cel.StringType}, cel.StringType, func(a []ref.Val) ref.Val { return types.String(mapASCII(str(a[0]), 'a', 'z', 'A'-'a')) }},
	{"trim", "text_trim", []*cel.Type{cel.StringType}, cel.StringType, func(a []ref.Val) ref.Val { return types.String(strings.TrimSpace(str(a[0]))) }},
	{"replace", "text_replace", []*cel.Type{cel.StringType, cel.StringType, cel.StringType}, cel.StringType, func(a []ref.Val) ref.Val { return replace(str(a[0]), str(a[1]), str(a[2])) }},
	{"split", "text_split", []*cel.Type{cel.StringType, cel.StringType}, cel.ListType(cel.StringType), func(a []ref.Val) ref.Val {
		return types.NewStringList(types.DefaultTypeAdapter, strings.Split(str(a[0]), str(a[1])))
	}},
	{"split", "text_split_limit", []*cel.Type{cel.StringType, cel.StringType, cel.IntType}, cel.ListType(cel.StringType), func(a []ref.Val) ref.Val {
		return types.NewStringList(types.DefaultTypeAdapter, strings.SplitN(str(a[0]), str(a[1]), num(a[2])))
	}},
	{"join", "text_join", []*cel.Type{cel.ListType(cel.StringType)}, cel.StringType, func(a []ref.Val) ref.Val { return joinTexts(a[0], "") }},
	{"join", "text_join_separator", []*cel.Type{cel.ListType(cel.StringType), cel.StringType}, cel.StringType, func(a []ref.Val) ref.Val { return joinTexts(a[0], str(a[1])) }},
	{"substring", "text_substring", []*cel.Type{cel.StringType, cel.IntType}, cel.StringType, func(a []ref.Val) ref.Val {
		return substring(str(a[0]), num(a[1]), utf8.RuneCountInString(str(a[0])))
	}},
	{"substring", "text_substring_end", []*cel.Type{cel.StringType, cel.IntType, cel.IntType}, cel.StringType, func(a []ref.Val) ref.Val { return substring(str(a[0]), num(a[1]), num(a[2])) }},
	{"indexOf", "text_index", []*cel.Type{cel.StringType, cel.StringType}, cel.IntType, func(a []ref.Val) ref.Val { return index(str(a[0]), strings.Index(str(a[0]), str(a[1]))) }},
	{"lastIndexOf", "text_last_index", []*cel.Type{cel.StringType, cel.StringType}, cel.IntType, func(a []ref.Val) ref.Val { return index(str(a[0]), strings.LastIndex(str(a[0]), str(a[1]))) }},
}

// textLibrary declares the functions on text.
func textLibrary() []cel.EnvOption {
	var options []cel.EnvOption
	for _, f := range textFunctions {
		options = append(options, cel.Function(f.name, cel.MemberOverload(f.id, f.args, f.ret, cel.FunctionBinding(func(args ...ref.Val) ref.Val { return f.call(args) }))))
	}
	return options
}

// byBytes charges every call for the bytes of text that it reads and makes, and comparisons for the entries of lists and maps.
// CEL's own costs go by overload, which is not known where an operand's type is not: event.data + event.data costs 1 there,
// however long it is.
type byBytes struct{}

// CallCost is cost.ActualCostEstimator's.
func (byBytes) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	n := uint64(10)
	if function == "size" { // it reads nothing
		n = 1
		return &n
	}
	add := func(v ref.Val) {
		switch v := v.(type) {
		case types.String:
			n += uint64(len(v))
		case types.Bytes:
			n += uint64(len(v))
		case traits.Sizer:
			switch function {
			case operators.Equals, operators.NotEquals, operators.In, "split", "join":
				n += 10 * uint64(num(v.Size()))
			}
		}
	}
	add(result)
	for _, v := range args {
		add(v)
	}
	n /= 10
	return &n
}

func str(v ref.Val) string {
	s, _ := v.(types.String) // the overload's type
	return string(s)
}

func num(v ref.Val) int {
	i, _ := v.(types.Int) // the overload's type
	return int(i)
}

func mapASCII(s string, from, to byte, by int) string {
	b := []byte(s)
	for i, c := range b {
		if c >= from && c <= to {
			b[i] = byte(int(c) + by)
		}
	}
	return string(b)
}

func replace(s, old, with string) ref.Val {
	n := strings.Count(s, old)
	if made := len(s) + n*(len(with)-len(old)); made > maxMadeText && made > len(s) {
		return types.NewErr("replace would make %d bytes, more than %d", made, maxMadeText)
	}
	return types.String(strings.ReplaceAll(s, old, with))
}

func joinTexts(v ref.Val, separator string) ref.Val {
	l, ok := v.(traits.Lister)
	if !ok {
		return types.NewErr("join takes a list of strings")
	}
	var b strings.Builder
	for it, first := l.Iterator(), true; it.HasNext() == types.True; first = false {
		s, ok := it.Next().(types.String)
		if !ok {
			return types.NewErr("join takes a list of strings")
		}
		if !first {
			b.WriteString(separator)
		}
		b.WriteString(string(s))
		if b.Len() > maxMadeText {
			return types.NewErr("join would make more than %d bytes", maxMadeText)
		}
	}
	return types.String(b.String())
}

func substring(s string, from, to int) ref.Val {
	runes := []rune(s)
	if from < 0 || to < from || to > len(runes) {
		return types.WrapErr(fmt.Errorf("substring %d to %d is outside the %d characters", from, to, len(runes)))
	}
	return types.String(string(runes[from:to]))
}

// index turns a byte offset into one in characters.
func index(s string, at int) ref.Val {
	if at < 0 {
		return types.Int(-1)
	}
	return types.Int(utf8.RuneCountInString(s[:at]))
}
