package pipeline

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/ast"
	"cel.dev/cel-go/common/operators"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"github.com/penstock/penstock/events"
)

// The bounds of an expression. A pipelines file may be written by anyone who may change data pipelines, and it is evaluated in
// the functions that everyone's events pass: no expression may hold them up.
const (
	maxExprLength  = 2048 // characters
	maxExprNodes   = 2000 // after macros are expanded
	maxExprDepth   = 60
	maxExprNesting = 2 // comprehensions within comprehensions
	maxExprCost    = 1_000_000
	// maxExprTime is a net below the cost limit, which stops an expression long before. Unlike cost it depends on the machine, so
	// to run into it says nothing about the event.
	maxExprTime  = 10 * time.Second
	maxRegexSize = 1000 // instructions of the compiled expression
)

// expression is a compiled CEL expression. Its checked program differs by the kind of event, as the fields of `event` do.
type expression struct {
	text     string
	position Position
	programs map[events.Kind]cel.Program
	refs     []use
}

// use is a use of a variable: root.path[0].path[1]…, as far as the names are constant.
type use struct {
	root string
	path []string
	id   int64
}

func (e *expression) uses(root string) bool {
	return slices.ContainsFunc(e.refs, func(r use) bool { return r.root == root })
}

// scope is what one trigger gives to expressions.
type scope struct {
	kind     events.Kind
	captures []string
	trigger  Position

	// anyCapture says that the object pattern is bad, so that its captures are not known. Its expressions are checked for the rest.
	anyCapture bool
}

// place is where an expression stands and what it may see there.
type place struct {
	where   string
	sees    []string // of event, object, run and steps
	steps   []string // whose results it may use
	hidden  []string // steps that exist, but are not needed by this one
	self    string   // the step that the expression belongs to
	result  []*cel.Type
	resultA string
}

var variables = []string{"event", "object", "run", "steps"}

// whyUnseen says why a variable is missing in places.
var whyUnseen = map[string]string{
	"object": "object holds the captures of an object pattern, which is matched before a message's identity is known",
	"run":    "there is no run yet when this is evaluated",
	"steps":  "no step has run yet when this is evaluated",
}

// compile checks the text of an expression for every trigger that may bring it an event. locate finds a byte of the text in the file.
func (r *reader) compile(text string, scopes []scope, at place, locate func(offset int) Position) *expression {
	e := &expression{text: strings.TrimSpace(text), position: locate(indentation(text)), programs: map[events.Kind]cel.Program{}}
	before := len(r.problems)
	if strings.TrimSpace(text) == "" {
		r.report(locate(0), Error, "write an expression, for example event.name", "%s has an empty expression", at.where)
		return nil
	}
	for i, s := range scopes {
		if _, done := e.programs[s.kind]; !done {
			env := environment(s.kind)
			checked, issues := env.Compile(text)
			if issues.Err() != nil {
				r.celProblems(env, text, issues, s, at, locate)
				if len(r.problems) > before {
					return nil
				}
			}
			if len(at.result) > 0 && !slices.ContainsFunc(at.result, checked.OutputType().IsExactType) && checked.OutputType() != cel.DynType {
				r.report(e.position, Error, "", "%s must be %s, and %s is of type %s", at.where, at.resultA, quote(e.text), cel.FormatCELType(checked.OutputType()))
				return nil
			}
			if hint, bad := unprintable[checked.OutputType().Kind()]; bad && len(at.result) == 0 {
				r.report(e.position, Error, hint, "%s in %s cannot be written as text: it is of type %s", quote(e.text), at.where, cel.FormatCELType(checked.OutputType()))
				return nil
			}
			program, err := env.Program(checked, programOptions...)
			if err != nil {
				r.report(e.position, Error, "", "%s in %s: %v", quote(e.text), at.where, err)
				return nil
			}
			e.programs[s.kind] = program
			if i == 0 {
				e.refs = references(checked.NativeRep().Expr())
			}
			r.checkUses(e, checked, text, at, locate)
		}
		r.checkCaptures(e, environment(s.kind), text, s, at, locate)
		if len(r.problems) > before {
			return nil // one trigger's problems are enough to begin with: the next one's are mostly the same
		}
	}
	return e
}

var unprintable = map[types.Kind]string{
	types.NullTypeKind: "",
	types.BytesKind:    "write base64.encode(x), or string(x) for UTF-8",
	types.TypeKind:     "",
	types.OpaqueKind:   "an optional value needs .orValue(x)",
	types.StructKind:   "name one of its fields",
}

func indentation(s string) int { return len(s) - len(strings.TrimLeft(s, " \t\r\n")) }

// checkUses reports variables that the place does not have, and steps that it may not see.
func (r *reader) checkUses(e *expression, checked *cel.Ast, text string, at place, locate func(int) Position) {
	for _, u := range e.refs {
		where := func() Position { return locate(offsetOf(checked, u.id, text)) }
		if !slices.Contains(at.sees, u.root) {
			r.report(where(), Error, whyUnseen[u.root], "%s is not known in %s, which sees %s", u.root, at.where, strings.Join(at.sees, ", "))
			continue
		}
		if u.root != "steps" {
			continue
		}
		switch {
		case len(u.path) == 0:
			r.report(where(), Error, `write steps.NAME, or steps["NAME"] for a name with a dash`, "steps in %s needs a step's name", at.where)
		case u.path[0] == at.self:
			r.report(where(), Error, "", "%s uses the result of its own step", at.where)
		case slices.Contains(at.hidden, u.path[0]):
			r.report(where(), Error, fmt.Sprintf("add it: needs: [%s]", u.path[0]), "%s uses the result of step %s, which this step does not need", at.where, u.path[0])
		case !slices.Contains(at.steps, u.path[0]):
			hint := suggest(u.path[0], append(slices.Clone(at.steps), at.hidden...))
			for _, s := range append(slices.Clone(at.steps), at.hidden...) {
				if strings.HasPrefix(s, u.path[0]+"-") {
					hint = fmt.Sprintf("a dash is a minus in an expression: write steps[%q]", s)
				}
			}
			r.report(where(), Error, hint, "%s uses the result of step %s, which there is not", at.where, u.path[0])
		}
	}
}

// checkCaptures reports captures that the trigger's pattern does not make.
func (r *reader) checkCaptures(e *expression, env *cel.Env, text string, s scope, at place, locate func(int) Position) {
	var parsed *cel.Ast
	for _, u := range e.refs {
		if u.root != "object" || !slices.Contains(at.sees, "object") {
			continue
		}
		if parsed == nil {
			parsed, _ = env.Parse(text) // it was parsed before
		}
		p := locate(offsetOf(parsed, u.id, text))
		of := fmt.Sprintf("the trigger in line %d", s.trigger.Line)
		switch {
		case s.anyCapture:
		case s.kind != events.KindStorage:
			r.report(p, Error, "every trigger must give what the expressions use", "object in %s holds the captures of an object pattern, and %s is not a storage trigger", at.where, of)
		case len(u.path) > 0 && !slices.Contains(s.captures, u.path[0]):
			hint := fmt.Sprintf("write {%s} in its object pattern", u.path[0])
			if near := suggest(u.path[0], s.captures); strings.HasPrefix(near, "did") {
				hint = near
			}
			r.report(p, Error, hint, "%s uses the capture %s, which the object pattern of %s does not make", at.where, u.path[0], of)
		}
	}
}

// celProblems reports what CEL's parser and checker found, in our words where theirs would not help.
func (r *reader) celProblems(env *cel.Env, text string, issues *cel.Issues, s scope, at place, locate func(int) Position) {
	parsed, _ := env.Parse(text) // nil if that is what failed
	for i, issue := range issues.Errors() {
		if i == 10 {
			return
		}
		offset := offsetIn(text, issue.Location.Line(), issue.Location.Column())
		message, hint := firstLine(issue.Message), ""
		if strings.Contains(message, "!error!") {
			continue // a consequence of another
		}
		switch {
		case undefinedRE.MatchString(message):
			name := undefinedRE.FindStringSubmatch(message)[1]
			message = fmt.Sprintf("there is no field %s", name)
			if parsed != nil {
				if sel := findExpr(parsed.NativeRep().Expr(), issue.ExprID); sel != nil && sel.Kind() == ast.SelectKind {
					if root, path := chain(sel.AsSelect().Operand()); root != "" {
						owner := strings.Join(append([]string{root}, path...), ".")
						message = fmt.Sprintf("%s has no field %s", owner, name)
						hint = suggest(name, fieldsOf(root, len(path), s.kind))
						if root == "event" {
							message = fmt.Sprintf("a %s event has no field %s", s.kind, name)
						}
						// CEL points at the dot.
						if i := strings.Index(text[offset:], name); i >= 0 && i <= 2 {
							offset += i
						}
					}
				}
			}
		case undeclaredRE.MatchString(message):
			name := undeclaredRE.FindStringSubmatch(message)[1]
			message, hint = fmt.Sprintf("%s is not known", name), suggest(name, at.sees)
			if m := dashedRE.FindStringSubmatch(text); m != nil && strings.Contains(m[0], name) {
				hint = fmt.Sprintf("a dash is a minus in an expression: write steps[%q]", m[1])
			}
		case strings.HasPrefix(message, "found no matching overload"):
			hint = "the types do not go together: convert with string(x), int(x) or double(x)"
		case strings.HasPrefix(message, "Syntax error"):
			hint = "it is not a CEL expression"
			if strings.Contains(text, "${") {
				hint = "write the expression without ${ }"
			} else if strings.Contains(message, "'='") || assignRE.MatchString(text) {
				hint = "equality is =="
			}
		}
		r.report(locate(offset), Error, hint, "%s: %s", at.where, message)
		if strings.HasPrefix(message, "Syntax error") {
			return // what follows a syntax error seldom helps
		}
	}
}

var (
	undefinedRE  = regexp.MustCompile(`^undefined field '([^']*)'`)
	undeclaredRE = regexp.MustCompile(`^undeclared reference to '([^']*)'`)
	dashedRE     = regexp.MustCompile(`steps\.([a-z][a-z0-9]*(?:-[a-z0-9]+)+)`)
	assignRE     = regexp.MustCompile(`[^=!<>]=[^=]`)
)

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return strings.TrimSuffix(s, " (in container '')")
}

func fieldsOf(root string, depth int, k events.Kind) []string {
	switch {
	case root == "event" && depth == 0:
		return fieldNames(eventFields[k])
	case root == "run" && depth == 0:
		return fieldNames(runFields)
	case root == "steps" && depth == 1:
		return fieldNames(stepResultFields)
	}
	return nil
}

// offsetOf returns where in text the expression with that id begins.
func offsetOf(a *cel.Ast, id int64, text string) int {
	if a == nil {
		return 0
	}
	l := a.NativeRep().SourceInfo().GetStartLocation(id)
	return offsetIn(text, l.Line(), l.Column())
}

// offsetIn turns CEL's line (from 1) and column (from 0, in characters) into a byte offset.
func offsetIn(text string, line, col int) int {
	start := 0
	for ; line > 1; line-- {
		i := strings.IndexByte(text[start:], '\n')
		if i < 0 {
			return len(text)
		}
		start += i + 1
	}
	for i := range text[start:] {
		if col <= 0 {
			return start + i
		}
		col--
	}
	return len(text)
}

// references lists the variables that an expression uses, each with the constant names that follow it.
func references(e ast.Expr) []use {
	var all []use
	var visit func(e ast.Expr)
	visit = func(e ast.Expr) {
		if root, path := chain(e); root != "" {
			if slices.Contains(variables, root) {
				all = append(all, use{root, path, rootID(e)})
			}
			return
		}
		for _, c := range children(e) {
			visit(c)
		}
	}
	visit(e)
	return all
}

// chain takes apart a.b["c"].d; root is empty for anything else.
func chain(e ast.Expr) (root string, path []string) {
	switch e.Kind() {
	case ast.IdentKind:
		return strings.TrimPrefix(e.AsIdent(), "."), nil
	case ast.SelectKind:
		root, path = chain(e.AsSelect().Operand())
		return root, append(path, e.AsSelect().FieldName())
	case ast.CallKind:
		c := e.AsCall()
		switch c.FunctionName() {
		case operators.Index, operators.OptIndex, operators.OptSelect:
			if len(c.Args()) == 2 && c.Args()[1].Kind() == ast.LiteralKind {
				if name, ok := c.Args()[1].AsLiteral().(types.String); ok {
					root, path = chain(c.Args()[0])
					return root, append(path, string(name))
				}
			}
		}
	}
	return "", nil
}

func rootID(e ast.Expr) int64 {
	for {
		switch {
		case e.Kind() == ast.SelectKind:
			e = e.AsSelect().Operand()
		case e.Kind() == ast.CallKind:
			e = e.AsCall().Args()[0]
		default:
			return e.ID()
		}
	}
}

func children(e ast.Expr) []ast.Expr {
	switch e.Kind() {
	case ast.SelectKind:
		return []ast.Expr{e.AsSelect().Operand()}
	case ast.CallKind:
		c := e.AsCall()
		if c.IsMemberFunction() {
			return append([]ast.Expr{c.Target()}, c.Args()...)
		}
		return c.Args()
	case ast.ListKind:
		return e.AsList().Elements()
	case ast.MapKind:
		var all []ast.Expr
		for _, entry := range e.AsMap().Entries() {
			all = append(all, entry.AsMapEntry().Key(), entry.AsMapEntry().Value())
		}
		return all
	case ast.StructKind:
		var all []ast.Expr
		for _, entry := range e.AsStruct().Fields() {
			all = append(all, entry.AsStructField().Value())
		}
		return all
	case ast.ComprehensionKind:
		c := e.AsComprehension()
		return []ast.Expr{c.IterRange(), c.AccuInit(), c.LoopCondition(), c.LoopStep(), c.Result()}
	}
	return nil
}

func findExpr(e ast.Expr, id int64) ast.Expr {
	if e.ID() == id {
		return e
	}
	for _, c := range children(e) {
		if found := findExpr(c, id); found != nil {
			return found
		}
	}
	return nil
}

var programOptions = []cel.ProgramOption{
	cel.EvalOptions(cel.OptOptimize), // compiles constant regular expressions once
	cel.CostLimit(maxExprCost), cel.CostTracking(byBytes{}), cel.InterruptCheckFrequency(100),
}

// eval runs the program of an expression for one kind of event.
func (e *expression) eval(k events.Kind, vars map[string]any) (ref.Val, error) {
	p := e.programs[k]
	if p == nil {
		return nil, e.failed("", fmt.Errorf("it was not compiled for %s events", k))
	}
	v, err := run(p, vars)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("evaluate %s: %w", e.text, err)
	case err != nil:
		return nil, e.failed("", err)
	}
	return v, nil
}

func (e *expression) failed(value string, err error) *EvalError {
	return &EvalError{Position: e.position, Expression: e.text, Value: value, Err: err}
}

func run(p cel.Program, vars map[string]any) (ref.Val, error) {
	ctx, cancel := context.WithTimeout(context.Background(), maxExprTime)
	defer cancel()
	v, _, err := p.ContextEval(ctx, vars)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, fmt.Errorf("not done in %v: %w", maxExprTime, ctx.Err())
	case err != nil:
		return nil, explainEval(err)
	}
	return v, nil
}

var noKeyRE = regexp.MustCompile(`^no such key: (.*)$`)

func explainEval(err error) error {
	if m := noKeyRE.FindStringSubmatch(err.Error()); m != nil {
		return fmt.Errorf("the event has no %s; guard it with has(…), or optionally with .?%s and orValue(…): %w", m[1], m[1], err)
	}
	if strings.Contains(err.Error(), "cost limit") {
		return fmt.Errorf("it takes more work than an expression may: %w", err)
	}
	return err
}
