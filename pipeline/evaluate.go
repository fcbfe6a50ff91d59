package pipeline

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"

	"github.com/penstock/penstock/events"
)

// Evaluate decides what becomes of the match. If `when` is false for every trigger that wants the event, the Skip says so.
// An expression that fails on the event's data is an *EvalError: another delivery of the event would fail in the same way. Any
// other error is the machine's, and another delivery may fare better.
func (m Match) Evaluate() (Plan, *Skip, error) {
	vars := map[string]any{"event": eventVariables(m.Event)}
	var skip *Skip
	var failed error
	var poison *EvalError
	for _, a := range append([]alternative{{m.Trigger, m.Captures}}, m.others...) {
		vars["object"] = orEmpty(a.captures)
		holds, err := a.trigger.holds(m.Event.Kind, vars)
		switch {
		case err != nil && !errors.As(err, &poison):
			return Plan{}, nil, err // another delivery may find that this trigger holds, so no later one may decide now
		case err != nil:
			failed = cmp.Or(failed, err)
		case !holds:
			if skip == nil {
				skip = &Skip{Reason: "when is false: " + a.trigger.when.text, Expression: a.trigger.when.text, Position: a.trigger.when.position}
			}
		default:
			plan, err := m.plan(a.trigger, vars)
			return plan, nil, err
		}
	}
	if failed != nil {
		return Plan{}, nil, failed
	}
	return Plan{}, skip, nil
}

func (t *Trigger) holds(k events.Kind, vars map[string]any) (bool, error) {
	if t.when == nil {
		return true, nil
	}
	v, err := t.when.eval(k, vars)
	if err != nil {
		return false, err
	}
	b, ok := v.(types.Bool)
	if !ok {
		return false, t.when.failed(show(v), errors.New("when must give true or false"))
	}
	return bool(b), nil
}

func (m Match) plan(t *Trigger, vars map[string]any) (Plan, error) {
	p, k := m.Pipeline, m.Event.Kind
	plan := Plan{Pipeline: p.Name, Purpose: p.Purpose, Owner: p.Owner, Version: p.Version, Dedupe: p.Dedupe, Identity: m.Event.Identity()}
	if t.identity != nil {
		id, err := t.messageIdentity(m.Event, vars)
		if err != nil {
			return Plan{}, err
		}
		plan.Identity = id
	}
	plan.Key = plan.Identity
	if p.Key.set() {
		key, err := p.Key.render(k, vars)
		if err != nil {
			return Plan{}, err
		}
		if key == "" || len(key) > maxKeyLen {
			return Plan{}, &EvalError{Position: p.Key.Position, Expression: p.Key.Text, Value: quote(key), Err: fmt.Errorf("a key has 1 to %d bytes, not %d", maxKeyLen, len(key))}
		}
		plan.Key = key
	}
	vars["run"] = map[string]any{"pipeline": p.Name, "key": plan.Key}

	if w := p.Workflow; w != nil {
		plan.Workflow = &PlannedWorkflow{w.Type, w.TaskQueue}
	}
	if s := p.Signal; s != nil {
		id, err := s.WorkflowID.render(k, vars)
		if err != nil {
			return Plan{}, err
		}
		if err := checkWorkflowID(id); err != nil {
			return Plan{}, &EvalError{Position: s.WorkflowID.Position, Expression: s.WorkflowID.Text, Value: quote(id), Err: err}
		}
		plan.Signal = &PlannedSignal{WorkflowID: id, Name: s.Name}
		if s.Start != nil {
			plan.Signal.Start = &PlannedWorkflow{s.Start.Type, s.Start.TaskQueue}
		}
	}
	var deferred []use
	for _, s := range p.Steps {
		job, refs, err := s.Dataflow.job(k, vars)
		if err != nil {
			return Plan{}, err
		}
		deferred = append(deferred, refs...)
		plan.Steps = append(plan.Steps, PlannedStep{Name: s.Name, Needs: s.Needs, Job: job, Timeout: s.Timeout, Retry: s.Retry})
	}
	plan.Vars = pickVars(vars, deferred)
	return plan, nil
}

// MessageIdentityPrefix begins the identities that triggers give by their own `id`, and no others.
const MessageIdentityPrefix = "pubsub-id:"

// messageIdentity is the identity that the trigger's `id` gives a message. Its form is not one that events.Event.Identity makes.
func (t *Trigger) messageIdentity(e *events.Event, vars map[string]any) (string, error) {
	v, err := t.identity.eval(e.Kind, vars)
	if err != nil {
		return "", err
	}
	id, err := format(v)
	if err == nil && (id == "" || len(id) > maxKeyLen/2) {
		err = fmt.Errorf("an identity has 1 to %d bytes, not %d", maxKeyLen/2, len(id))
	}
	if err != nil {
		return "", t.identity.failed(show(v), err)
	}
	return MessageIdentityPrefix + e.PubSub.Topic + "#" + id, nil
}

// job renders the launch request as far as the event allows, and returns what the rest uses.
func (d *Dataflow) job(k events.Kind, vars map[string]any) (Job, []use, error) {
	j := Job{Template: d.Template, Classic: d.Classic, Environment: maps.Clone(d.Environment), Location: d.Location, Streaming: d.Streaming}
	var deferred []use
	each := func(in string, values map[string]Value) (map[string]string, error) {
		var out map[string]string
		for _, name := range slices.Sorted(maps.Keys(values)) {
			v := values[name]
			if v.uses("steps") {
				j.Deferred = append(j.Deferred, Deferred{In: in, Name: name, Text: v.Text, Position: v.Position})
				for _, s := range v.segments {
					if s.expr != nil {
						deferred = append(deferred, s.expr.refs...)
					}
				}
				continue
			}
			s, err := v.render(k, vars)
			if err == nil && in == "labels" {
				err = checkLabel(v.Position, v.Text, s)
			}
			if err != nil {
				return nil, err
			}
			if out == nil {
				out = map[string]string{}
			}
			out[name] = s
		}
		return out, nil
	}
	var err error
	if j.Parameters, err = each("parameters", d.Parameters); err != nil {
		return Job{}, nil, err
	}
	if j.Labels, err = each("labels", d.Labels); err != nil {
		return Job{}, nil, err
	}
	return j, deferred, nil
}

// pickVars copies what the references use, so that a run's input does not carry the whole event.
func pickVars(vars map[string]any, refs []use) Vars {
	refs = slices.Clone(refs)
	slices.SortStableFunc(refs, func(a, b use) int { return cmp.Compare(len(b.path), len(a.path)) })
	var out Vars
	for _, ref := range refs {
		if ref.root == "steps" {
			continue
		}
		if out == nil {
			out = Vars{}
		}
		switch from := vars[ref.root].(type) {
		case map[string]any:
			to, ok := out[ref.root].(map[string]any)
			if !ok {
				to = map[string]any{}
				out[ref.root] = to
			}
			pick(to, from, ref.path)
		case map[string]string: // captures: few and short
			out[ref.root] = from
		}
	}
	return out
}

// Render fills in the values that waited for the results of earlier steps. vars are the plan's Vars, steps the results by name.
// The job that it returns has no Deferred. An expression that fails, or gives what no label may be, is an *EvalError.
func (j Job) Render(vars map[string]any, steps map[string]StepResultVars) (Job, error) {
	if len(j.Deferred) == 0 {
		return j, nil
	}
	all, err := restore(vars)
	if err != nil {
		return Job{}, err
	}
	all = maps.Clone(all)
	if all == nil {
		all = map[string]any{}
	}
	for _, name := range []string{"event", "object", "run"} {
		if all[name] == nil {
			all[name] = map[string]any{}
		}
	}
	results := map[string]any{}
	for name, s := range steps {
		results[name] = s.variables()
	}
	all["steps"] = results

	j.Parameters, j.Labels = maps.Clone(j.Parameters), maps.Clone(j.Labels)
	for _, d := range j.Deferred {
		s, err := d.render(all)
		if err != nil {
			return Job{}, err
		}
		switch d.In {
		case "parameters":
			if j.Parameters == nil {
				j.Parameters = map[string]string{}
			}
			j.Parameters[d.Name] = s
		case "labels":
			if err := checkLabel(d.Position, d.Text, s); err != nil {
				return Job{}, err
			}
			if j.Labels == nil {
				j.Labels = map[string]string{}
			}
			j.Labels[d.Name] = s
		default:
			return Job{}, fmt.Errorf("render %s: a deferred value in %q is from a newer version", d.Name, d.In)
		}
	}
	j.Deferred = nil
	return j, nil
}

// render compiles the text again: it was checked when the file was read, and its types are those of the values by now.
func (d Deferred) render(vars map[string]any) (string, error) {
	failed := func(source, value string, err error) error {
		return &EvalError{Position: d.Position, Expression: source, Value: value, Err: err}
	}
	segments, bad := split(d.Text)
	if bad != nil {
		return "", failed(d.Text, "", errors.New(bad.message))
	}
	return join(segments, d.Position, d.Text, func(s segment) (string, error) {
		source := strings.TrimSpace(s.source)
		env := environment(events.KindGeneric)
		parsed, issues := env.Parse(s.source)
		if issues.Err() != nil {
			return "", failed(source, "", issues.Err())
		}
		program, err := env.Program(parsed, programOptions...)
		if err != nil {
			return "", failed(source, "", err)
		}
		v, err := run(program, vars)
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			return "", fmt.Errorf("evaluate %s: %w", source, err)
		case err != nil:
			return "", failed(source, "", err)
		}
		text, err := format(v)
		if err != nil {
			return "", failed(source, show(v), err)
		}
		return text, nil
	})
}

func (s StepResultVars) variables() map[string]any {
	metrics := s.Metrics
	if metrics == nil {
		metrics = map[string]int64{}
	}
	return map[string]any{"jobId": s.JobID, "jobName": s.JobName, "state": s.State, "metrics": metrics, "error": s.Error,
		"parameters": orEmpty(s.Parameters), "attempts": int64(s.Attempts)}
}

func checkLabel(p Position, source, value string) error {
	if labelValueRule.re.MatchString(value) {
		return nil
	}
	return &EvalError{Position: p, Expression: source, Value: quote(value), Err: fmt.Errorf("it is not %s: %s", labelValueRule.says, labelValueRule.hint)}
}

// checkWorkflowID says whether Temporal's Go client can send the ID: it refuses what is not printable ASCII, and the server takes
// 1,000 bytes.
func checkWorkflowID(id string) error {
	if id == "" || len(id) > 1000 {
		return fmt.Errorf("a workflow ID has 1 to 1,000 bytes, not %d", len(id))
	}
	for i := range len(id) {
		if id[i] < 0x20 || id[i] > 0x7e {
			return errors.New("a workflow ID takes printable ASCII only")
		}
	}
	return nil
}
