package pipeline

import (
	"context"
	"slices"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types/ref"

	"github.com/penstock/penstock/events"
)

// MatchPattern matches a name against a pattern without captures; ok is false for another pattern or a bad one.
func MatchPattern(pattern, name string) (matches, ok bool) {
	p, bad := parsePattern(pattern)
	if bad != nil || len(p.captures) > 0 {
		return false, false
	}
	_, matches = p.match(name)
	return matches, true
}

// Candidates counts the triggers that matching looks at.
func Candidates(s *Set, e *events.Event) int { return len(s.candidates(e)) }

// EnvironmentNames returns the names of the environment's fields by kind of template, sorted.
func EnvironmentNames() map[string][]string {
	names := map[string][]string{}
	for _, f := range flexEnvironment {
		if environmentNames[f.name] != classicOnly {
			names["flex"] = append(names["flex"], f.name)
		}
		if environmentNames[f.name] != flexOnly {
			names["classic"] = append(names["classic"], f.name)
		}
	}
	slices.Sort(names["flex"])
	slices.Sort(names["classic"])
	return names
}

// NoTime has the trigger's `when` be evaluated by a machine that has no time for it.
func NoTime(t *Trigger) {
	for kind := range t.when.programs {
		t.when.programs[kind] = noTime{}
	}
}

type noTime struct{ cel.Program }

func (noTime) ContextEval(context.Context, any) (ref.Val, *cel.EvalDetails, error) {
	return nil, nil, context.DeadlineExceeded
}
