package pipeline

import (
	"fmt"
	"sync"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/ext"

	"github.com/penstock/penstock/events"
)

// environment returns the CEL environment for one kind of event.
func environment(k events.Kind) *cel.Env { return environments[k]() }

var environments = map[events.Kind]func() *cel.Env{
	events.KindStorage:   sync.OnceValue(func() *cel.Env { return newEnvironment(events.KindStorage) }),
	events.KindPubSub:    sync.OnceValue(func() *cel.Env { return newEnvironment(events.KindPubSub) }),
	events.KindJobStatus: sync.OnceValue(func() *cel.Env { return newEnvironment(events.KindJobStatus) }),
	events.KindGeneric:   sync.OnceValue(func() *cel.Env { return newEnvironment(events.KindGeneric) }),
}

func newEnvironment(k events.Kind) *cel.Env {
	registry, err := types.NewRegistry()
	if err != nil {
		panic(fmt.Sprintf("pipeline: make CEL's type registry: %v", err)) // no input can cause it
	}
	provider := &fieldProvider{Registry: registry, structs: map[string][]variable{"event": eventFields[k], "run": runFields, "step": stepResultFields}}
	e, err := cel.NewEnv(append(textLibrary(),
		cel.CustomTypeAdapter(registry), cel.CustomTypeProvider(provider),
		cel.Variable("event", types.NewObjectType("event")), cel.Variable("object", cel.MapType(cel.StringType, cel.StringType)),
		cel.Variable("run", types.NewObjectType("run")), cel.Variable("steps", cel.MapType(cel.StringType, types.NewObjectType("step"))),
		cel.OptionalTypes(), ext.Encoders(), labelFunction,
		cel.CrossTypeNumericComparisons(true), cel.DefaultUTCTimeZone(true),
		cel.ParserExpressionSizeLimit(maxExprLength), cel.ExpressionNodeLimit(maxExprNodes), cel.ParserRecursionLimit(maxExprDepth), cel.RegexProgramSizeLimit(maxRegexSize),
		cel.ASTValidators(cel.ValidateComprehensionNestingLimit(maxExprNesting), cel.ValidateRegexLiterals(), cel.ValidateTimestampLiterals(), cel.ValidateDurationLiterals()),
	)...)
	if err != nil {
		panic(fmt.Sprintf("pipeline: make CEL's environment: %v", err))
	}
	return e
}

// fieldProvider gives CEL the fields of our own types, so that a field that does not exist is found when a file is linted.
// Their values are maps.
type fieldProvider struct {
	*types.Registry
	structs map[string][]variable
}

// FindStructType is types.Provider's.
func (p *fieldProvider) FindStructType(name string) (*types.Type, bool) {
	if _, ok := p.structs[name]; ok {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

// FindStructFieldNames is types.Provider's.
func (p *fieldProvider) FindStructFieldNames(name string) ([]string, bool) {
	if fields, ok := p.structs[name]; ok {
		return fieldNames(fields), true
	}
	return p.Registry.FindStructFieldNames(name)
}

// FindStructFieldType is types.Provider's. A field without accessors is read from a map.
func (p *fieldProvider) FindStructFieldType(name, field string) (*types.FieldType, bool) {
	fields, ok := p.structs[name]
	if !ok {
		return p.Registry.FindStructFieldType(name, field)
	}
	for _, f := range fields {
		if f.name == field {
			return &types.FieldType{Type: f.celType}, true
		}
	}
	return nil, false
}

// labelFunction is label(x): x as a label's value.
var labelFunction = cel.Function("label",
	cel.Overload("label_dyn", []*cel.Type{cel.DynType}, cel.StringType, cel.UnaryBinding(func(v ref.Val) ref.Val {
		s, err := format(v)
		if err != nil {
			return types.WrapErr(err)
		}
		return types.String(labelSafe(s))
	})))

// labelSafe makes any text a label's value: ASCII letters in lower case, every other run of characters as one _, cut to 63.
func labelSafe(s string) string {
	b := make([]byte, 0, maxLabelLen)
	for i := 0; i < len(s) && len(b) < maxLabelLen; i++ {
		c := s[i]
		switch {
		case c >= 'A' && c <= 'Z':
			b = append(b, c-'A'+'a')
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '-', c == '_':
			b = append(b, c)
		case len(b) == 0 || b[len(b)-1] != '_':
			b = append(b, '_')
		}
	}
	return string(b)
}
