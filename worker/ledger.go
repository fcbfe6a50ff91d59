package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/runs"
)

const (
	// recordWithin bounds how long a run stays open for its final record.
	recordWithin = 10 * time.Minute
	// mostClaim is how long one call of the activity that claims a key goes on at most
	// before the run shows why: seldom, as each leaves events in its history.
	mostClaim = time.Hour
)

// Ledger is the part of ledger.Ledger that the activities use.
type Ledger interface {
	Acquire(ctx context.Context, mine ledger.Claim, state func(context.Context, ledger.Claim) (ledger.ChainState, error)) (ledger.Decision, error)
	Finish(ctx context.Context, r ledger.Record) error
	Read(ctx context.Context, deployment, pipeline, key string) (ledger.Entry, error)
}

var errNoLedger = errors.New("this worker has no ledger, and the one that began the run had; set PENSTOCK_LEDGER on every worker of the deployment")

// claimReply is the output of claim.
type claimReply struct {
	// Taken says that another run has or had the key; nil: this one holds it.
	Taken *runs.Taken `json:"taken,omitempty"`
	// After says that an earlier run held the key, so that job names may not be new.
	After bool `json:"after,omitempty"`
	// Expired says that the earlier run's claim had expired and that it left no record: the
	// jobs that it is done with, from before At, are not this run's.
	Expired bool `json:"expired,omitempty"`
	// At is when this run claimed the key, at first.
	At time.Time `json:"at,omitzero"`
	// Earlier holds what the newest record of the key says of each step, with its last attempt alone.
	Earlier map[string]runs.StepResult `json:"earlier,omitempty"`
	// Retried says that the record is that of the chain which this run retries.
	Retried bool `json:"retried,omitempty"`
}

// claim claims a run's key, or takes it over where the ledger's rules allow it.
func (a *Activities) claim(ctx context.Context, mine ledger.Claim) (claimReply, error) {
	if a.Ledger == nil {
		return claimReply{}, errNoLedger
	}
	d, err := a.Ledger.Acquire(ctx, mine, a.chainState)
	var damaged *ledger.DamagedError
	if errors.Is(err, ledger.ErrInvalid) || errors.As(err, &damaged) {
		return claimReply{}, temporal.NewNonRetryableApplicationError(err.Error(), "Ledger", err)
	}
	if err != nil {
		return claimReply{}, err
	}
	held := d.Entry.Claim
	if d.Verdict != ledger.Mine {
		taken := &runs.Taken{RunID: held.RunID, Chain: held.Chain, Identity: held.Identity, ByAnotherEvent: d.KeyTaken, OfferRetry: d.OfferRetry, Reason: d.Reason}
		if d.Entry.Record != nil {
			taken.Outcome = d.Entry.Record.Outcome
		}
		return claimReply{Taken: taken}, nil
	}
	reply := claimReply{After: held.After != "", Expired: hadExpired(held), At: held.At}
	if d.Earlier != nil {
		reply.Retried = d.Earlier.Chain == mine.Retries
		reply.Earlier = make(map[string]runs.StepResult, len(d.Earlier.Steps))
		for _, s := range d.Earlier.Steps {
			if last, ok := s.Last(); ok {
				s.Attempts = []runs.JobResult{last} // numbers go on from it
				reply.Earlier[s.Name] = s
			}
		}
	}
	return reply, nil
}

// hadExpired says whether a claim took the place of one that had expired without a record,
// and is no retry of that: such a claim alone does not go on with its predecessor's Since.
func hadExpired(c ledger.Claim) bool {
	return c.After != "" && c.After != c.LastRecord && c.After != c.Retries && c.Since.Equal(c.At)
}

// chainState says what became of the chain of executions that holds a key.
func (a *Activities) chainState(ctx context.Context, c ledger.Claim) (ledger.ChainState, error) {
	d, err := a.Temporal.DescribeWorkflowExecution(ctx, c.RunID, "")
	var gone *serviceerror.NotFound
	switch info := d.GetWorkflowExecutionInfo(); {
	case errors.As(err, &gone):
		return ledger.ChainUnknown, nil
	case err != nil:
		return "", fmt.Errorf("describe the run %s: %w", c.RunID, err)
	case info.GetFirstRunId() != c.Chain:
		// One execution alone is open under an ID, and the newest is of another chain.
		return ledger.ChainClosed, nil
	case info.GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING:
		return ledger.ChainOpen, nil
	}
	return ledger.ChainClosed, nil
}

// finish writes a run's final record. unsure says that the run asked for its key and does
// not know that it has it: beside another's claim its record would be the key's newest, and
// tell of a run that did nothing.
func (a *Activities) finish(ctx context.Context, record ledger.Record, unsure bool) error {
	if a.Ledger == nil {
		return errNoLedger
	}
	var err error
	if unsure {
		var entry ledger.Entry
		entry, err = a.Ledger.Read(ctx, record.Deployment, record.Pipeline, record.Key)
		switch {
		case errors.Is(err, ledger.ErrNotFound):
			err = nil
		case err == nil && entry.Claim.Chain != record.Chain:
			return nil
		case err == nil && entry.Claim.After != "" && !attempted(record.Steps):
			// It has taken the key over and did not come to hear of it: as the newest record,
			// this would hide the attempt numbers that whoever has the key next goes on from.
			return nil
		}
	}
	if err == nil {
		err = a.Ledger.Finish(ctx, record)
	}
	var damaged *ledger.DamagedError
	if errors.Is(err, ledger.ErrInvalid) || errors.As(err, &damaged) {
		return temporal.NewNonRetryableApplicationError(err.Error(), "Ledger", err)
	}
	return err
}

func attempted(steps []runs.StepResult) bool {
	return slices.ContainsFunc(steps, func(s runs.StepResult) bool { return len(s.Attempts) > 0 })
}

// chain is Temporal's first run ID, which reset, retry policy and continue-as-new keep.
func chain(info *workflow.Info) string {
	if info.FirstRunID == "" { // in Temporal's test environment alone
		return info.WorkflowExecution.RunID
	}
	return info.FirstRunID
}

// claim claims the key of a run that asks for it, before anything is launched. Unless
// the run holds the key then, it is being stopped.
func (r *run) claim(keepsLedger bool) {
	if r.in.Dedupe == nil {
		return
	}
	if !keepsLedger {
		r.refuse("the pipeline asks for dedupe, and the worker has no ledger to claim the key in; set PENSTOCK_LEDGER on the worker to a bucket (gs://BUCKET/PREFIX), then run penstock retry")
		return
	}
	now, info := workflow.Now(r.ctx), workflow.GetInfo(r.ctx)
	mine := ledger.Claim{
		Deployment: r.in.Deployment, Pipeline: r.in.Pipeline, Key: r.in.Key, RunID: r.id, Chain: chain(info),
		Identity: r.in.Identity, At: now, Retries: r.in.Retries,
	}
	if keep := r.in.Dedupe.Keep; keep > 0 {
		mine.Expires = now.Add(keep)
	}
	reply, err := r.ask(mine)
	switch {
	case r.stop != "": // and nothing begins any more, whoever holds the key
	case err != nil:
		r.refuse("the key could not be claimed: " + reason(err))
	case reply.Taken != nil:
		r.taken = reply.Taken
		r.stopAll(stopTaken)
	default:
		r.holds = true
		if reply.Expired {
			r.anew = reply.At
		}
		r.fresh = r.fresh && !reply.After
		for _, s := range r.steps {
			r.goOn(s, reply)
		}
	}
}

// goOn has a step go on from what the ledger knows of it, and the run's input does not:
// that has nothing where the run that is retried had only found the key taken.
func (r *run) goOn(s *step, reply claimReply) {
	last, ok := reply.Earlier[s.Name].Last()
	known, begun := s.lastAttempt()
	if !ok || begun && known.Attempt >= last.Attempt {
		return
	}
	s.attempts = append(s.attempts, last)
	again := r.in.Earlier[s.Name].Outcome == runs.OutcomePending // whoever retries asked for it
	if reply.Retried && !begun && !again && reply.Earlier[s.Name].Outcome == runs.OutcomeSucceeded {
		s.outcome = runs.OutcomeSucceeded
	}
}

// ask asks for the key until the ledger answers, or the run is stopped: a run that is
// cancelled does not wait for a ledger that is gone. What it waits for can be seen.
func (r *run) ask(mine ledger.Claim) (reply claimReply, err error) {
	answered := false
	defer func() { answered = true }()
	ctx, abandon := workflow.WithCancel(r.ctx)
	workflow.Go(r.ctx, func(c workflow.Context) {
		_ = workflow.Await(c, func() bool { return r.stop != "" || answered }) // c is never cancelled
		abandon()
	})
	waiting := "the ledger to answer the claim of the key"
	for within := time.Minute; ; within = min(2*within, mostClaim) {
		for _, s := range r.steps {
			s.waiting = waiting
		}
		err = workflow.ExecuteActivity(workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
			StartToCloseTimeout: r.timing.Call, ScheduleToCloseTimeout: max(within, r.timing.Call), WaitForCancellation: true,
			RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: mostBackoff},
		}), activityClaim, mine).Get(r.ctx, &reply)
		var said *temporal.ApplicationError
		if err == nil || r.stop != "" || errors.As(err, &said) && said.NonRetryable() {
			return reply, err
		}
		waiting = "the ledger to answer the claim of the key; so far: " + reason(err)
	}
}

// stopTaken is why the steps of a run do not begin whose key another run has.
const stopTaken = "key-taken"

// refuse fails the run before any step began.
func (r *run) refuse(why string) {
	if r.stop == "" {
		r.failure = why
		r.stopAll(runs.StopFailing)
	}
}

// finish writes the final record. A run whose record cannot be written ends all the
// same, and says so.
func (r *run) finish(result *runs.RunResult) {
	info := workflow.GetInfo(r.ctx)
	record := ledger.Record{
		Deployment: r.in.Deployment, Pipeline: r.in.Pipeline, Key: r.in.Key, RunID: r.id, Chain: chain(info),
		Execution: info.WorkflowExecution.RunID, Identity: r.in.Identity, Decision: "started", Config: r.in.Config,
		Outcome: result.Outcome, Error: result.Error, Started: info.WorkflowStartTime, Ended: workflow.Now(r.ctx), Steps: result.Steps,
	}
	if r.in.Retries != "" {
		record.Decision = "retry"
	}
	ctx := workflow.WithActivityOptions(r.ctx, workflow.ActivityOptions{
		StartToCloseTimeout: r.timing.Call, ScheduleToCloseTimeout: recordWithin,
		RetryPolicy: &temporal.RetryPolicy{InitialInterval: time.Second, MaximumInterval: mostBackoff},
	})
	if err := workflow.ExecuteActivity(ctx, activityFinish, record, r.in.Dedupe != nil && !r.holds).Get(r.ctx, nil); err != nil {
		result.Note = joinNotes(result.Note, "the ledger has no final record of this run: "+reason(err))
	}
}

// reason is what an activity said, without what Temporal puts before it.
func reason(err error) string {
	var said *temporal.ApplicationError
	if errors.As(err, &said) {
		return said.Message()
	}
	return err.Error()
}
