package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"

	"github.com/penstock/penstock/runs"
)

// history is what the events of one workflow tell of a run or of one of its jobs.
type history struct {
	s *Service

	runInput *runs.RunInput // of a run's workflow
	jobInput *runs.JobInput // of a job's workflow
	children []*child       // in the order in which they were begun
	cancels  []CancelRequest

	closed  bool
	outcome runs.Outcome // once closed
	problem string       // why it ended other than well, in Temporal's words
	result  *commonpb.Payload

	job       runs.JobState  // of a job's workflow
	launching map[int64]bool // the scheduled calls that may tell of the job
	claiming  map[int64]bool // the scheduled calls that claim the run's key
	claimed   bool           // one of them said that the run has it
	// known is what the ledger said of each step then, with its last attempt alone; retried says that it said so of the run that
	// this one retries.
	known   map[string]runs.StepResult
	retried bool
}

// child is a job's workflow as its run's history knows it.
type child struct {
	id     string
	input  runs.JobInput
	result *runs.JobResult
	closed bool
	ended  string // how, when it left no result
}

// CancelRequest is one request to cancel a run.
type CancelRequest struct {
	Time   time.Time `json:"time,omitzero"`
	By     string    `json:"by,omitempty"` // the identity of the client
	Reason string    `json:"reason,omitempty"`
}

// history reads the events of a workflow's execution; an empty execution means the newest.
func (s *Service) history(ctx context.Context, id, execution string) (*history, error) {
	return s.readHistory(ctx, id, execution, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
}

// end reads the last event of an execution that is over, which has its result.
func (s *Service) end(ctx context.Context, id, execution string) (*history, error) {
	return s.readHistory(ctx, id, execution, enumspb.HISTORY_EVENT_FILTER_TYPE_CLOSE_EVENT)
}

func (s *Service) readHistory(ctx context.Context, id, execution string, which enumspb.HistoryEventFilterType) (*history, error) {
	// A history has up to 50 MB, in as many calls as it has pages: each has its own bound.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	bound := time.AfterFunc(callTimeout, func() { cancel(fmt.Errorf("a page took more than %v: %w", callTimeout, context.DeadlineExceeded)) })
	defer bound.Stop()
	h := &history{s: s, launching: map[int64]bool{}, claiming: map[int64]bool{}}
	events := s.temporal.GetWorkflowHistory(ctx, id, execution, false, which)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
				err = fmt.Errorf("%w (%w)", cause, err)
			}
			return nil, fmt.Errorf("read the history of workflow %s: %w", id, err)
		}
		bound.Reset(callTimeout)
		h.add(event)
	}
	return h, nil
}

// add takes in the next event.
func (h *history) add(event *historypb.HistoryEvent) {
	var at time.Time
	if t := event.GetEventTime(); t != nil {
		at = t.AsTime()
	}
	switch event.GetEventType() {
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED:
		h.start(event.GetWorkflowExecutionStartedEventAttributes())
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED:
		a := event.GetWorkflowExecutionCancelRequestedEventAttributes()
		h.cancels = append(h.cancels, CancelRequest{Time: at, By: a.GetIdentity(), Reason: a.GetCause()})

	case enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED:
		a := event.GetStartChildWorkflowExecutionInitiatedEventAttributes()
		c := &child{id: a.GetWorkflowId()}
		if h.s.read(firstOf(a.GetInput()), &c.input) && c.input.JobName != "" {
			h.children = append(h.children, c)
		}
	case enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED:
		// Its ID was taken: the run sees to that, and begins it again.
		id := event.GetStartChildWorkflowExecutionFailedEventAttributes().GetWorkflowId()
		h.children = slices.DeleteFunc(h.children, func(c *child) bool { return c.id == id && !c.closed })
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED:
		a := event.GetChildWorkflowExecutionCompletedEventAttributes()
		if c := h.end(a.GetWorkflowExecution(), "left no result"); c != nil {
			var r runs.JobResult
			if h.s.read(firstOf(a.GetResult()), &r) {
				c.result = &r
			}
		}
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_FAILED:
		a := event.GetChildWorkflowExecutionFailedEventAttributes()
		h.end(a.GetWorkflowExecution(), message(a.GetFailure()))
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_CANCELED:
		h.end(event.GetChildWorkflowExecutionCanceledEventAttributes().GetWorkflowExecution(), "the job's workflow was cancelled")
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TIMED_OUT:
		h.end(event.GetChildWorkflowExecutionTimedOutEventAttributes().GetWorkflowExecution(), "the job's workflow timed out")
	case enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED:
		h.end(event.GetChildWorkflowExecutionTerminatedEventAttributes().GetWorkflowExecution(), "the job's workflow was terminated")

	case enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
		switch name := event.GetActivityTaskScheduledEventAttributes().GetActivityType().GetName(); {
		case slices.Contains(jobTellers, name):
			h.launching[event.GetEventId()] = true
		case name == keyClaimer:
			h.claiming[event.GetEventId()] = true
		}
	case enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
		a := event.GetActivityTaskCompletedEventAttributes()
		if h.launching[a.GetScheduledEventId()] {
			h.told(firstOf(a.GetResult()))
		}
		if h.claiming[a.GetScheduledEventId()] {
			h.holds(firstOf(a.GetResult()))
		}
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED:
		a := event.GetWorkflowExecutionSignaledEventAttributes()
		var status runs.JobStatus
		if a.GetSignalName() == runs.SignalStatus && h.s.read(firstOf(a.GetInput()), &status) && status.JobID == h.job.JobID && status.JobID != "" {
			h.seen(status.State, status.StateTime)
		}

	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED:
		h.close(runs.OutcomeSucceeded, "")
		h.result = firstOf(event.GetWorkflowExecutionCompletedEventAttributes().GetResult())
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
		failure := event.GetWorkflowExecutionFailedEventAttributes().GetFailure()
		h.close(runs.OutcomeFailed, message(failure))
		h.result = firstOf(failure.GetApplicationFailureInfo().GetDetails())
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED:
		h.close(runs.OutcomeCancelled, "")
		h.result = firstOf(event.GetWorkflowExecutionCanceledEventAttributes().GetDetails())
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TIMED_OUT:
		h.close(runs.OutcomeTimedOut, "the workflow's own timeout ended it")
	case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED:
		a := event.GetWorkflowExecutionTerminatedEventAttributes()
		problem := "it was terminated"
		if a.GetIdentity() != "" {
			problem += " by " + a.GetIdentity()
		}
		if a.GetReason() != "" {
			problem += ": " + a.GetReason()
		}
		h.close(Terminated, problem)
	}
}

func (h *history) start(a *historypb.WorkflowExecutionStartedEventAttributes) {
	switch a.GetWorkflowType().GetName() {
	case runs.TypeRun, runs.TypeStreamingRun:
		var in runs.RunInput
		if h.s.read(firstOf(a.GetInput()), &in) {
			h.runInput = &in
		}
	case runs.TypeJob, runs.TypeStreamingJob:
		var in runs.JobInput
		if h.s.read(firstOf(a.GetInput()), &in) {
			h.jobInput = &in
			if in.Resume != nil {
				h.job = *in.Resume
			}
		}
	}
}

// end closes a child.
func (h *history) end(e *commonpb.WorkflowExecution, how string) *child {
	for _, c := range slices.Backward(h.children) {
		if c.id == e.GetWorkflowId() && !c.closed {
			c.closed, c.ended = true, how
			return c
		}
	}
	return nil
}

func (h *history) close(outcome runs.Outcome, problem string) {
	h.closed, h.outcome, h.problem = true, outcome, problem
}

// jobTellers are the activities of a job's workflow whose answers name the job and its state, in the member "job". Their
// names and that member lie in histories, so they stay.
var jobTellers = []string{"LaunchJob", "CheckJob", "StopJob"}

// keyClaimer is the activity of a run that claims its key; its answer names in "taken" whoever else has it, and has in "earlier"
// and "retried" what the run before it left.
const keyClaimer = "ClaimKey"

// holds takes in what the ledger answered a run that claimed its key.
func (h *history) holds(answer *commonpb.Payload) {
	var reply struct {
		Taken   *runs.Taken                `json:"taken"`
		Earlier map[string]runs.StepResult `json:"earlier"`
		Retried bool                       `json:"retried"`
	}
	if h.s.read(answer, &reply) && reply.Taken == nil {
		h.claimed, h.known, h.retried = true, reply.Earlier, reply.Retried
	}
}

// told takes in what an activity answered.
func (h *history) told(answer *commonpb.Payload) {
	var told struct {
		Job struct {
			ID        string    `json:"id"`
			State     string    `json:"state"`
			StateTime time.Time `json:"stateTime"`
		} `json:"job"`
		Parameters map[string]string `json:"parameters"`
	}
	if !h.s.read(answer, &told) || told.Job.ID == "" {
		return
	}
	if h.job.JobID != told.Job.ID {
		h.job.JobID, h.job.State, h.job.StateTime = told.Job.ID, "", time.Time{}
	}
	if told.Parameters != nil {
		h.job.Parameters = told.Parameters
	}
	h.seen(told.Job.State, told.Job.StateTime)
}

// seen keeps the newest state: events come in any order.
func (h *history) seen(state string, at time.Time) {
	if h.job.State == "" || !at.Before(h.job.StateTime) {
		h.job.State, h.job.StateTime = state, at
	}
}

// jobResult is a job's workflow as its history tells it.
func (h *history) jobResult() (runs.JobResult, bool) {
	if h.jobInput == nil {
		return runs.JobResult{}, false
	}
	var r runs.JobResult
	if h.closed && h.s.read(h.result, &r) && r.JobName != "" {
		return r, true
	}
	in := h.jobInput
	r = attemptOf(in)
	r.JobID, r.State, r.Parameters = h.job.JobID, h.job.State, h.job.Parameters
	if h.closed {
		r.Outcome, r.Note = h.outcome, h.problem
	}
	return r, true
}

// attemptOf is an attempt of which nothing is known but that it was begun.
func attemptOf(in *runs.JobInput) runs.JobResult {
	return runs.JobResult{
		Version: runs.RecordVersion, Outcome: runs.OutcomeRunning, Attempt: in.Attempt,
		Project: in.Project, Location: in.Location, JobName: in.JobName, Begun: in.Begun,
	}
}

// runResult is a run's own account of itself, which it leaves when it ends.
func (h *history) runResult() (runs.RunResult, bool) {
	var r runs.RunResult
	ok := h.closed && h.s.read(h.result, &r) && r.Version > 0 && r.Outcome != ""
	return r, ok
}

// reconstruct tells from the events how far a run is, or was when it was ended from outside.
func (h *history) reconstruct() (runs.RunResult, bool) {
	if h.runInput == nil {
		return runs.RunResult{}, false
	}
	result := runs.RunResult{Version: runs.RecordVersion, Outcome: runs.OutcomeRunning, Config: h.runInput.Config, Error: h.problem}
	if h.closed {
		result.Outcome = h.outcome
	}
	for _, planned := range h.runInput.Steps {
		earlier := h.runInput.Earlier[planned.Name]
		step := runs.StepResult{Name: planned.Name, Outcome: runs.OutcomePending, Attempts: slices.Clone(earlier.Attempts)}
		if earlier.Outcome == runs.OutcomeSucceeded {
			step.Outcome = runs.OutcomeSucceeded
		}
		h.goOn(&step, earlier.Outcome)
		for _, c := range h.children {
			if c.input.Step != planned.Name {
				continue
			}
			attempt := attemptOf(&c.input)
			switch {
			case c.result != nil:
				attempt = *c.result
			case c.closed:
				attempt.Note = c.ended
			}
			step.Outcome = attempt.Outcome
			if n := len(step.Attempts); n > 0 && step.Attempts[n-1].Attempt == attempt.Attempt {
				step.Attempts[n-1] = attempt
			} else {
				step.Attempts = append(step.Attempts, attempt)
			}
		}
		h.settle(&step, planned.Needs)
		result.Steps = append(result.Steps, step)
	}
	return result, true
}

// goOn has a step go on from what the ledger knew of it and the run's input did not, as the run itself does. asked is its outcome
// in that input: pending is a step that whoever retried wanted again.
func (h *history) goOn(step *runs.StepResult, asked runs.Outcome) {
	last, ok := h.known[step.Name].Last()
	known, begun := step.Last()
	if !ok || begun && known.Attempt >= last.Attempt {
		return
	}
	step.Attempts = append(step.Attempts, last)
	if h.retried && !begun && asked != runs.OutcomePending && h.known[step.Name].Outcome == runs.OutcomeSucceeded {
		step.Outcome = runs.OutcomeSucceeded
	}
}

// settle says what a step is about that is not done.
func (h *history) settle(step *runs.StepResult, needs []string) {
	last, begun := step.Last()
	switch {
	case step.Outcome == runs.OutcomeSucceeded:
	case !begun && h.closed:
		step.Outcome = runs.OutcomeSkipped
	case !begun:
		step.Waiting = "a worker"
		if len(needs) > 0 {
			step.Waiting = "the steps it needs: " + strings.Join(needs, ", ")
		}
	case last.Outcome.Over() && !h.closed:
		// Over, and yet the run goes on: its back-off, or the end of other steps.
		step.Outcome, step.Error = runs.OutcomeRunning, last.Error
		step.Waiting = "the next attempt, or the run's end"
	case last.Outcome.Over():
		step.Error = last.Error
	case !h.closed:
		step.Waiting = "job " + last.JobName
	}
}

// firstOf is the first of several payloads, or nil.
func firstOf(p *commonpb.Payloads) *commonpb.Payload {
	if len(p.GetPayloads()) == 0 {
		return nil
	}
	return p.GetPayloads()[0]
}

// message is a failure with its causes, in words.
func message(f *failurepb.Failure) string {
	var parts []string
	for ; f != nil; f = f.GetCause() {
		if m := f.GetMessage(); m != "" && !slices.Contains(parts, m) {
			parts = append(parts, m)
		}
	}
	return strings.Join(parts, ": ")
}
