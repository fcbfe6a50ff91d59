package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"github.com/penstock/penstock/events"
)

// Value is text that may hold ${ } expressions. `$${` stands for a literal ${.
type Value struct {
	// Text is the value as in the file, its quotes undone.
	Text     string
	Position Position

	segments []segment
}

// segment is a part of a value: literal text, or an expression.
type segment struct {
	literal string
	source  string // of the expression
	offset  int    // of source in the value's text
	expr    *expression
}

func (v Value) set() bool { return v.Position.Line > 0 }

// uses says whether an expression of the value mentions the variable.
func (v Value) uses(root string) bool {
	for _, s := range v.segments {
		if s.expr != nil && s.expr.uses(root) {
			return true
		}
	}
	return false
}

func (v Value) dynamic() bool {
	for _, s := range v.segments {
		if s.expr != nil {
			return true
		}
	}
	return false
}

// splitError is a ${ } that cannot be taken apart, and where in the text.
type splitError struct {
	offset        int
	message, hint string
}

// split takes text apart at its ${ }. An expression ends at the brace that closes it, not at one in its strings.
func split(text string) ([]segment, *splitError) {
	var out []segment
	var literal strings.Builder
	for i := 0; i < len(text); {
		switch {
		case strings.HasPrefix(text[i:], "$${"):
			literal.WriteString("${")
			i += 3
		case strings.HasPrefix(text[i:], "${"):
			end := closing(text, i+2)
			if end < 0 {
				return nil, &splitError{i, "a ${ is not closed", "close it with }, or write $${ for the text ${"}
			}
			if literal.Len() > 0 {
				out = append(out, segment{literal: literal.String()})
				literal.Reset()
			}
			out = append(out, segment{source: text[i+2 : end], offset: i + 2})
			i = end + 1
		default:
			literal.WriteByte(text[i])
			i++
		}
	}
	if literal.Len() > 0 {
		out = append(out, segment{literal: literal.String()})
	}
	return out, nil
}

// closing returns the offset of the brace that closes an expression which begins at i, or -1. It knows as much of CEL as that
// takes: strings ('…', "…", triple-quoted, raw), comments and braces.
func closing(text string, i int) int {
	depth := 0
	for i < len(text) {
		switch c := text[i]; c {
		case '{':
			depth++
			i++
		case '}':
			if depth == 0 {
				return i
			}
			depth--
			i++
		case '"', '\'':
			i = skipString(text, i)
		case '/': // a comment ends with its line
			if strings.HasPrefix(text[i:], "//") {
				if end := strings.IndexByte(text[i:], '\n'); end >= 0 {
					i += end
				} else {
					return -1
				}
			}
			i++
		default:
			i++
		}
	}
	return -1
}

func skipString(text string, i int) int {
	raw := false
	for j := i - 1; j >= 0 && j >= i-2; j-- { // r, R, and with b in either order
		switch text[j] {
		case 'r', 'R':
			raw = true
		case 'b', 'B':
			continue
		}
		break
	}
	quote := text[i : i+1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(text[i:], triple) {
		quote = triple
	}
	for i += len(quote); i < len(text); {
		switch {
		case text[i] == '\\' && !raw:
			i += 2
		case strings.HasPrefix(text[i:], quote):
			return i + len(quote)
		default:
			i++
		}
	}
	return len(text)
}

// templated reads a value with ${ } and compiles its expressions.
func (r *reader) templated(v *value, scopes []scope, at place) Value {
	out := Value{Text: v.text, Position: r.at(v.node)}
	locate := r.locator(v.node)
	segments, bad := split(v.text)
	if bad != nil {
		r.report(locate(bad.offset), Error, bad.hint, "%s: %s", at.where, bad.message)
		return out
	}
	for i := range segments {
		s := &segments[i]
		if s.source == "" && s.literal != "" {
			continue
		}
		s.expr = r.compile(s.source, scopes, at, func(offset int) Position { return locate(s.offset + offset) })
	}
	out.segments = segments
	return out
}

// render evaluates the value's expressions and joins its parts.
func (v Value) render(k events.Kind, vars map[string]any) (string, error) {
	return join(v.segments, v.Position, v.Text, func(s segment) (string, error) {
		result, err := s.expr.eval(k, vars)
		if err != nil {
			return "", err
		}
		text, err := format(result)
		if err != nil {
			return "", s.expr.failed(show(result), err)
		}
		return text, nil
	})
}

func join(segments []segment, position Position, source string, each func(segment) (string, error)) (string, error) {
	var b strings.Builder
	for _, s := range segments {
		part := s.literal
		if s.source != "" {
			var err error
			if part, err = each(s); err != nil {
				return "", err
			}
		}
		b.WriteString(part)
		if b.Len() > maxRenderedLen {
			return "", &EvalError{Position: position, Expression: source, Err: fmt.Errorf("it gives more than %d KiB", maxRenderedLen>>10)}
		}
	}
	return b.String(), nil
}

// show is a value for an error message.
func show(v ref.Val) string {
	s, err := format(v)
	if err != nil {
		return v.Type().TypeName()
	}
	return quote(s)
}

// format writes the value of an expression as text: text as it is, whole numbers without a fraction, times in RFC 3339 (UTC),
// durations as CEL does (90s), lists and maps as JSON.
func format(v ref.Val) (string, error) {
	switch v := v.(type) {
	case types.String:
		if !utf8.ValidString(string(v)) {
			return "", errors.New("it is not valid UTF-8")
		}
		return string(v), nil
	case types.Int:
		return strconv.FormatInt(int64(v), 10), nil
	case types.Uint:
		return strconv.FormatUint(uint64(v), 10), nil
	case types.Bool:
		return strconv.FormatBool(bool(v)), nil
	case types.Double:
		return formatDouble(float64(v))
	case types.Timestamp:
		return v.UTC().Format(time.RFC3339Nano), nil
	case types.Duration:
		return strconv.FormatFloat(v.Seconds(), 'f', -1, 64) + "s", nil
	case types.Null:
		return "", errors.New("the value is null")
	case types.Bytes:
		return "", errors.New("bytes cannot be written as text: use base64.encode(x), or string(x) for UTF-8")
	}
	plain, err := plainValue(v)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(plain); err != nil {
		return "", fmt.Errorf("write a %s as JSON: %w", v.Type().TypeName(), err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// plainValue turns lists and maps into Go's, for JSON.
func plainValue(v ref.Val) (any, error) {
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Uint:
		return uint64(v), nil
	case types.Double, types.String, types.Timestamp, types.Duration, types.Bytes:
		s, err := format(v)
		if _, isNumber := v.(types.Double); isNumber {
			return json.Number(s), err
		}
		return s, err
	case traits.Mapper:
		out := map[string]any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			key := it.Next()
			name, err := format(key)
			if err != nil {
				return nil, err
			}
			if out[name], err = plainValue(v.Get(key)); err != nil {
				return nil, err
			}
		}
		return out, nil
	case traits.Lister:
		out := []any{}
		for it := v.Iterator(); it.HasNext() == types.True; {
			x, err := plainValue(it.Next())
			if err != nil {
				return nil, err
			}
			out = append(out, x)
		}
		return out, nil
	}
	return nil, fmt.Errorf("a %s cannot be written as text", v.Type().TypeName())
}

func formatDouble(f float64) (string, error) {
	switch {
	case math.IsNaN(f) || math.IsInf(f, 0):
		return "", fmt.Errorf("the number is %v", f)
	case f == math.Trunc(f) && math.Abs(f) < 1<<53:
		return strconv.FormatInt(int64(f), 10), nil
	}
	return strconv.FormatFloat(f, 'g', -1, 64), nil
}
