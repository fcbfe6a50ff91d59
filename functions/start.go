package functions

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// Bounds of what a workflow gets. Temporal takes 2 MB a payload, and a run hands its input on to its jobs' workflows, in
// history each time.
const (
	maxEventData = 1 << 20     // bytes of an event's data that a workflow gets
	maxInput     = 3 << 20 / 2 // bytes of an input as encoded: that data in base64, and what surrounds it
	maxRetained  = 64 << 10    // bytes of an event as encoded that a run keeps for a retry
)

// start starts the run of a plan, or finds that it was started.
func (r *receiver) start(ctx context.Context, d *delivery, e *events.Event, plan *pipeline.Plan, decision Decision) Decision {
	if !utf8.ValidString(plan.Key) {
		decision.Reason = "the key is not valid UTF-8, so a run's input cannot hold it: hash or encode it in the pipeline's key"
		return r.bury(d, decision)
	}
	decision.RunID = runs.RunID(r.settings.deployment, plan.Pipeline, plan.Key)
	for {
		leader := false
		v, _, _ := r.starts.Do(decision.RunID, func() (any, error) {
			leader = true
			if r.memory.startedBy(decision.RunID, plan.Identity) {
				decision.Outcome, decision.Remembered = Duplicate, true
				return decision, nil
			}
			return r.startOnce(ctx, d, e, plan, decision), nil
		})
		got := v.(Decision)
		switch {
		case leader:
			return got
		case got.Outcome == Undecided: // a failure is a failure for all that waited
			decision.Outcome, decision.Reason = Undecided, got.Reason
			return decision
		}
		// Who waited with the same event finds it remembered in the next round; another event with the same key asks.
	}
}

// startOnce asks Temporal to start the run.
func (r *receiver) startOnce(ctx context.Context, d *delivery, e *events.Event, plan *pipeline.Plan, decision Decision) Decision {
	workflow, options, input, err := r.request(e, plan)
	if err != nil {
		decision.Reason = err.Error()
		return r.bury(d, decision)
	}
	options.ID = decision.RunID
	options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE
	options.WorkflowExecutionErrorWhenAlreadyStarted = true

	c, err := r.temporal(ctx)
	if err != nil {
		return undecided(decision, err)
	}
	_, err = c.ExecuteWorkflow(ctx, options, workflow, input)
	var already *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case err == nil:
		decision.Outcome = Started
	case errors.As(err, &already):
		return r.alreadyStarted(ctx, c, plan, decision)
	case refused(err):
		decision.Reason = fmt.Sprintf("Temporal refuses the start of workflow %s: %v", workflow, err)
		return r.bury(d, decision)
	default:
		return undecided(decision, fmt.Errorf("start workflow %s: %w", workflow, err))
	}
	r.memory.remember(decision.RunID, plan.Identity)
	return decision
}

// alreadyStarted tells a duplicate from another event with the same key. Only a key of the pipeline's own can be shared by
// events, so only then it costs a call.
func (r *receiver) alreadyStarted(ctx context.Context, c temporal, plan *pipeline.Plan, decision Decision) Decision {
	if plan.Key != plan.Identity {
		starter, err := startedBy(ctx, c, decision.RunID)
		if err != nil {
			return undecided(decision, fmt.Errorf("the run was started already; ask which event started it: %w", err))
		}
		if starter != plan.Identity {
			decision.Outcome = KeyTaken
			decision.Reason = "another event started the run of this key: " + starter
			if starter == "" {
				decision.Reason = "a workflow with this ID was started by something else than an event"
			}
			return decision
		}
	}
	decision.Outcome = Duplicate
	r.memory.remember(decision.RunID, plan.Identity)
	return decision
}

// startedBy reads from a run's memo which event started it; empty when the memo does not say.
func startedBy(ctx context.Context, c temporal, runID string) (string, error) {
	answer, err := c.DescribeWorkflowExecution(ctx, runID, "")
	if err != nil {
		return "", err
	}
	payload := answer.GetWorkflowExecutionInfo().GetMemo().GetFields()[runs.MemoIdentity]
	if payload == nil {
		return "", nil
	}
	var identity string
	if err := converter.GetDefaultDataConverter().FromPayload(payload, &identity); err != nil {
		return "", fmt.Errorf("read memo %q of workflow %s: %w", runs.MemoIdentity, runID, err)
	}
	return identity, nil
}

// request says what to start for a plan. The ID and the policies are the caller's. An error is the event's or the
// pipeline's fault.
func (r *receiver) request(e *events.Event, plan *pipeline.Plan) (workflow string, options client.StartWorkflowOptions, input any, err error) {
	options = client.StartWorkflowOptions{
		Memo: runs.Memo(runs.About{
			Pipeline: plan.Pipeline, Purpose: plan.Purpose, Owner: plan.Owner, Key: plan.Key, Identity: plan.Identity, Config: plan.Version,
		}),
		StaticSummary: runs.Summary(plan.Purpose),
	}
	if plan.Workflow != nil {
		options.TaskQueue = plan.Workflow.TaskQueue
		input, err = eventInput(e)
		return plan.Workflow.Type, options, input, err
	}
	workflow = runs.TypeOf(plan.Steps)
	options.TaskQueue = runs.TaskQueue(r.settings.deployment)
	input, err = payload("the run's input", runs.RunInput{
		Version:    runs.RecordVersion,
		Deployment: r.settings.deployment,
		Pipeline:   plan.Pipeline,
		Purpose:    plan.Purpose,
		Owner:      plan.Owner,
		Key:        plan.Key,
		Identity:   plan.Identity,
		Config:     plan.Version,
		Project:    r.settings.project,
		Location:   r.settings.location,
		Steps:      plan.Steps,
		Vars:       plan.Vars,
		Dedupe:     plan.Dedupe,
		Event:      retained(e),
	})
	return workflow, options, input, err
}

// retained is the event where the run keeps it, so that a retry can render a later version of the pipelines file: that of an
// object's change, which is small and says nothing but where the data is. What else comes is somebody's data, of which a
// run keeps what its pipeline uses; a retry takes such an event from a file.
func retained(e *events.Event) *events.Event {
	if e.Kind != events.KindStorage {
		return nil
	}
	if encoded, err := json.Marshal(e); err != nil || len(encoded) > maxRetained {
		return nil // none that Cloud Storage sends, and no reason to refuse it
	}
	return e
}

// Signal is the payload of a pipeline's signal.
type Signal struct {
	// Identity is the event's. Signals arrive at least once: a receiver drops an identity that it has seen.
	Identity string        `json:"identity"`
	Event    *events.Event `json:"event"`
}

// signal sends an event to a workflow of the user's own.
func (r *receiver) signal(ctx context.Context, d *delivery, e *events.Event, plan *pipeline.Plan, decision Decision) Decision {
	target := plan.Signal
	decision.RunID = target.WorkflowID
	if err := fits(e); err != nil {
		decision.Reason = err.Error()
		return r.bury(d, decision)
	}
	arg, err := payload("the signal", Signal{Identity: plan.Identity, Event: e})
	if err != nil {
		decision.Reason = err.Error()
		return r.bury(d, decision)
	}
	c, err := r.temporal(ctx)
	if err != nil {
		return undecided(decision, err)
	}
	if target.Start == nil {
		err = c.SignalWorkflow(ctx, target.WorkflowID, "", target.Name, arg)
	} else {
		starting := *plan
		starting.Workflow = target.Start
		workflow, options, input, inputErr := r.request(e, &starting)
		if inputErr != nil {
			decision.Reason = inputErr.Error()
			return r.bury(d, decision)
		}
		options.ID = target.WorkflowID
		// A closed workflow does not take the signal. Rejecting duplicates would drop it; the pipeline asks for a new one.
		options.WorkflowIDReusePolicy = enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE
		_, err = c.SignalWithStartWorkflow(ctx, target.WorkflowID, target.Name, arg, options, workflow, input)
	}
	switch {
	case err == nil:
		decision.Outcome = Signalled
		return decision
	case refused(err):
		decision.Reason = fmt.Sprintf("Temporal refuses the signal %q to workflow %s: %v", target.Name, target.WorkflowID, err)
		return r.bury(d, decision)
	case target.Start == nil && noOpenWorkflow(err):
		decision.Reason = fmt.Sprintf("no open workflow %s to signal %q: %v", target.WorkflowID, target.Name, err)
		return r.bury(d, decision)
	default:
		return undecided(decision, fmt.Errorf("signal %q to workflow %s: %w", target.Name, target.WorkflowID, err))
	}
}

func undecided(decision Decision, err error) Decision {
	decision.Outcome, decision.Reason = Undecided, err.Error()
	return decision
}

// fits says whether the event's data may go into a workflow's history.
func fits(e *events.Event) error {
	size := len(e.Data)
	if e.PubSub != nil {
		size = len(e.PubSub.Data)
	}
	if size > maxEventData {
		return fmt.Errorf("the event's data is %d bytes, past the %d that a workflow can be given: put the data into an object and send its name", size, maxEventData)
	}
	return nil
}

// eventInput is the input of a workflow of the user's own.
func eventInput(e *events.Event) (converter.RawValue, error) {
	if err := fits(e); err != nil {
		return converter.RawValue{}, err
	}
	return payload("the event", e)
}

// payload encodes a value once, to know its size before Temporal does.
func payload(what string, value any) (converter.RawValue, error) {
	p, err := converter.GetDefaultDataConverter().ToPayload(value)
	if err != nil {
		return converter.RawValue{}, fmt.Errorf("encode %s: %w", what, err)
	}
	if size := len(p.GetData()); size > maxInput {
		return converter.RawValue{}, fmt.Errorf("%s is %d bytes, past the %d that a workflow can be given: use less of the event in the pipeline", what, size, maxInput)
	}
	return converter.NewRawValue(p), nil
}
