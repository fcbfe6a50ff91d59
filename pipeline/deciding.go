package pipeline

import (
	"maps"
	"slices"
)

// Deciding names the fields of event that decide whether the pipeline runs for an event, and under which key or for which
// workflow: those that `when` of any trigger, a message's `id`, `key` and a signal's workflow ID use. An empty name among them
// means event as a whole. Parameters and labels are not looked at. The names are sorted.
func (p *Pipeline) Deciding() []string {
	fields := map[string]bool{}
	take := func(e *expression) {
		if e == nil {
			return
		}
		for _, u := range e.refs {
			switch {
			case u.root != "event":
			case len(u.path) == 0:
				fields[""] = true
			default:
				fields[u.path[0]] = true
			}
		}
	}
	for i := range p.On {
		take(p.On[i].when)
		take(p.On[i].identity)
	}
	values := []Value{p.Key}
	if p.Signal != nil {
		values = append(values, p.Signal.WorkflowID)
	}
	for _, v := range values {
		for _, s := range v.segments {
			take(s.expr)
		}
	}
	return slices.Sorted(maps.Keys(fields))
}

// Prefix is what the name of every object begins with that the trigger's pattern matches; empty where that can be any.
func (t *StorageTrigger) Prefix() string {
	if t.pattern == nil {
		return ""
	}
	return t.pattern.prefix
}
