package service

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// keeper keeps histories as the server does, as far as a retry reads them, and takes one start.
type keeper struct {
	client.Client
	t         *testing.T
	workflows map[string]*kept
	started   *client.StartWorkflowOptions
	kind      string
	input     runs.RunInput
}

type kept struct {
	status enumspb.WorkflowExecutionStatus
	kind   string
	events []*historypb.HistoryEvent
	memo   map[string]*commonpb.Payload
}

func (k *keeper) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	w := k.workflows[id]
	if w == nil {
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "second"}, FirstRunId: "first",
		Type: &commonpb.WorkflowType{Name: w.kind}, Status: w.status,
		Memo: &commonpb.Memo{Fields: w.memo},
	}}, nil
}

func (k *keeper) GetWorkflowHistory(_ context.Context, id, _ string, _ bool, _ enumspb.HistoryEventFilterType) client.HistoryEventIterator {
	return &iterator{k.workflows[id].events}
}

func (k *keeper) ExecuteWorkflow(_ context.Context, o client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error) {
	if k.started != nil {
		return nil, serviceerror.NewWorkflowExecutionAlreadyStarted("already started", "", "")
	}
	k.started, k.kind = &o, workflow.(string)
	// As it comes out of the history.
	p, err := converter.GetDefaultDataConverter().ToPayload(args[0])
	if err != nil {
		return nil, err
	}
	return execution3{}, converter.GetDefaultDataConverter().FromPayload(p, &k.input)
}

type execution3 struct{ client.WorkflowRun }

func (execution3) GetRunID() string { return "third" }

type iterator struct{ events []*historypb.HistoryEvent }

func (i *iterator) HasNext() bool { return len(i.events) > 0 }
func (i *iterator) Next() (*historypb.HistoryEvent, error) {
	e := i.events[0]
	i.events = i.events[1:]
	return e, nil
}

const retriedRun = "prod/orders/k"

// retryBench is a run of the steps clean and load, which needs clean, that is over.
type retryBench struct {
	*keeper
	*Service
	input runs.RunInput
}

func newRetryBench(t *testing.T) *retryBench {
	t.Helper()
	k := &keeper{t: t, workflows: map[string]*kept{}}
	return &retryBench{
		keeper: k, Service: &Service{temporal: k, deployment: "prod", converter: converter.GetDefaultDataConverter()},
		input: runs.RunInput{
			Version: 1, Deployment: "prod", Pipeline: "orders", Purpose: "Load.", Key: "k", Identity: "event:e", Project: "p", Location: "l",
			Config: pipeline.Version{Hash: "old"},
			Steps: []pipeline.PlannedStep{
				{Name: "clean", Job: pipeline.Job{Template: "gs://t/clean"}},
				{Name: "load", Needs: []string{"clean"}, Job: pipeline.Job{Template: "gs://t/load"}},
			},
		},
	}
}

func (b *retryBench) payloads(v any) *commonpb.Payloads {
	b.t.Helper()
	p, err := converter.GetDefaultDataConverter().ToPayloads(v)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *retryBench) begun(kind string, input any) *historypb.HistoryEvent {
	return &historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, Attributes: &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{
		WorkflowExecutionStartedEventAttributes: &historypb.WorkflowExecutionStartedEventAttributes{WorkflowType: &commonpb.WorkflowType{Name: kind}, Input: b.payloads(input)},
	}}
}

// failed ends the run with its own account.
func (b *retryBench) failed(steps ...runs.StepResult) {
	result := runs.RunResult{Version: 1, Outcome: runs.OutcomeFailed, Steps: steps}
	b.workflows[retriedRun] = &kept{status: enumspb.WORKFLOW_EXECUTION_STATUS_FAILED, kind: runs.TypeRun, events: []*historypb.HistoryEvent{
		b.begun(runs.TypeRun, b.input),
		{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, Attributes: &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{
			WorkflowExecutionFailedEventAttributes: &historypb.WorkflowExecutionFailedEventAttributes{Failure: &failurepb.Failure{
				FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Details: b.payloads(result)}},
			}},
		}},
	}}
}

// taken ends the run as one that launched nothing.
func (b *retryBench) taken(result runs.RunResult) {
	b.workflows[retriedRun] = &kept{status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, kind: runs.TypeRun, events: []*historypb.HistoryEvent{
		b.begun(runs.TypeRun, b.input),
		{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, Attributes: &historypb.HistoryEvent_WorkflowExecutionCompletedEventAttributes{
			WorkflowExecutionCompletedEventAttributes: &historypb.WorkflowExecutionCompletedEventAttributes{Result: b.payloads(result)},
		}},
	}}
}

// terminated ends the run without any account.
func (b *retryBench) terminated() {
	b.workflows[retriedRun] = &kept{status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, kind: runs.TypeRun, events: []*historypb.HistoryEvent{
		b.begun(runs.TypeRun, b.input), terminatedEvent(),
	}}
}

func terminatedEvent() *historypb.HistoryEvent {
	return &historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, Attributes: &historypb.HistoryEvent_WorkflowExecutionTerminatedEventAttributes{
		WorkflowExecutionTerminatedEventAttributes: &historypb.WorkflowExecutionTerminatedEventAttributes{},
	}}
}

// job is the workflow of an attempt, which left result; nil: it was terminated, having seen its job to be done.
func (b *retryBench) job(step string, attempt int, result *runs.JobResult) {
	in := jobInput(step, attempt)
	in.Resume = &runs.JobState{JobID: "seen", State: "JOB_STATE_DONE"}
	w := &kept{status: enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED, kind: runs.TypeJob, events: []*historypb.HistoryEvent{b.begun(runs.TypeJob, in), terminatedEvent()}}
	if result != nil {
		result.Version, result.Attempt, result.JobName, result.Project, result.Location = 1, attempt, in.JobName, in.Project, in.Location
		w.status = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
		w.events[1] = &historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, Attributes: &historypb.HistoryEvent_WorkflowExecutionCompletedEventAttributes{
			WorkflowExecutionCompletedEventAttributes: &historypb.WorkflowExecutionCompletedEventAttributes{Result: b.payloads(*result)},
		}}
	}
	b.workflows[runs.JobWorkflowID("p", "l", in.JobName)] = w
}

func done(attempt int) runs.JobResult {
	return runs.JobResult{Version: 1, Attempt: attempt, Outcome: runs.OutcomeSucceeded, JobID: "done", State: "JOB_STATE_DONE"}
}

func failedJob(attempt int) runs.JobResult {
	return runs.JobResult{Version: 1, Attempt: attempt, Outcome: runs.OutcomeFailed, JobID: "failed", State: "JOB_STATE_FAILED", Error: "no such column"}
}

// wantSteps compares "step action attempt", joined by commas.
func wantSteps(t *testing.T, r Retried, want string) {
	t.Helper()
	var got []string
	for _, s := range r.Steps {
		text, err := json.Marshal(s.Attempt)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, s.Name+" "+s.Action+" "+string(text))
	}
	if text := strings.Join(got, ", "); text != want {
		t.Errorf("the retry: %s, want %s", text, want)
	}
}

func TestRetry(t *testing.T) {
	step := func(name string, outcome runs.Outcome, attempts ...runs.JobResult) runs.StepResult {
		return runs.StepResult{Name: name, Outcome: outcome, Attempts: attempts}
	}
	refused := runs.JobResult{Version: 1, Attempt: 1, Outcome: runs.OutcomeFailed, Refusal: "invalid"}
	tests := map[string]struct {
		past func(b *retryBench)
		from string
		want string
	}{
		"a finished step is kept, and attempt numbers go on": {func(b *retryBench) {
			b.failed(step("clean", runs.OutcomeSucceeded, done(1)), step("load", runs.OutcomeFailed, failedJob(1), failedJob(2)))
		}, "", "clean kept 1, load runs 3"},
		"a step that never began has its first attempt": {func(b *retryBench) {
			b.failed(step("clean", runs.OutcomeFailed, failedJob(1)), step("load", runs.OutcomeSkipped))
		}, "", "clean runs 2, load runs 1"},
		"from a finished step, what needs it runs too": {func(b *retryBench) {
			b.failed(step("clean", runs.OutcomeSucceeded, done(2)), step("load", runs.OutcomeFailed, failedJob(1)))
		}, "clean", "clean runs 3, load runs 2"},
		"from a step that succeeded, what needs it runs again though it succeeded": {func(b *retryBench) {
			b.failed(step("clean", runs.OutcomeSucceeded, done(1)), step("load", runs.OutcomeSucceeded, done(1)))
		}, "clean", "clean runs 2, load runs 2"},
		"from the last step, what it needs is kept": {func(b *retryBench) {
			b.failed(step("clean", runs.OutcomeSucceeded, done(1)), step("load", runs.OutcomeSucceeded, done(1)))
		}, "load", "clean kept 1, load runs 2"},
		"an attempt that never had a job keeps its number": {func(b *retryBench) {
			b.failed(step("clean", runs.OutcomeFailed, refused), step("load", runs.OutcomeSkipped))
		}, "", "clean continues 1, load runs 1"},
		"what an earlier retry left counts on": {func(b *retryBench) {
			b.input.Earlier = map[string]runs.StepResult{"clean": step("clean", runs.OutcomeSucceeded, done(4)), "load": step("load", runs.OutcomeFailed, failedJob(1))}
			b.terminated()
		}, "", "clean kept 4, load runs 2"},
		"of a terminated run, its jobs' workflows tell": {func(b *retryBench) {
			b.terminated()
			first, second, third := failedJob(1), done(2), failedJob(1)
			b.job("clean", 1, &first)
			b.job("clean", 2, &second)
			b.job("load", 1, &third)
		}, "", "clean kept 2, load runs 2"},
		"an attempt whose workflow was terminated goes on": {func(b *retryBench) {
			b.terminated()
			first := done(1)
			b.job("clean", 1, &first)
			b.job("load", 1, nil)
		}, "", "clean kept 1, load continues 1"},
		"a job that ended after its run was terminated counts": {func(b *retryBench) {
			b.input.Earlier = map[string]runs.StepResult{"clean": step("clean", runs.OutcomeRunning, runs.JobResult{Version: 1, Attempt: 3, Outcome: runs.OutcomeRunning})}
			b.terminated()
			third := done(3)
			b.job("clean", 3, &third)
		}, "", "clean kept 3, load runs 1"},
		"an attempt that Temporal forgot goes on, and the next is not skipped": {func(b *retryBench) {
			b.input.Earlier = map[string]runs.StepResult{"clean": step("clean", runs.OutcomeRunning, runs.JobResult{Version: 1, Attempt: 3, JobID: "x", Outcome: runs.OutcomeRunning})}
			b.terminated()
		}, "", "clean continues 3, load runs 1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			tt.past(b)
			r, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true, From: tt.from})
			if err != nil {
				t.Fatal(err)
			}
			wantSteps(t, r, tt.want)
			if r.Execution != "third" || r.Previous != "second" || r.RunID != retriedRun {
				t.Errorf("it says %+v", r)
			}
			// The worker goes by the input alone: what it does must be what was said.
			for _, s := range r.Steps {
				earlier := b.keeper.input.Earlier[s.Name]
				last, begun := earlier.Last()
				over := begun && last.JobID != "" && strings.HasSuffix(last.State, "DONE") || strings.HasSuffix(last.State, "FAILED")
				switch {
				case (s.Action == StepKept) != (earlier.Outcome == runs.OutcomeSucceeded):
					t.Errorf("step %s: %s, and its outcome in the input is %s", s.Name, s.Action, earlier.Outcome)
				case s.Action == StepContinues && (over || last.Attempt != s.Attempt):
					t.Errorf("step %s goes on with attempt %d, and its last in the input is %+v", s.Name, s.Attempt, last)
				case s.Action == StepRuns && s.Attempt > 1 && (!over || last.Attempt != s.Attempt-1):
					t.Errorf("step %s runs attempt %d, and its last in the input is %+v", s.Name, s.Attempt, last)
				}
			}
		})
	}
}

func TestRetryIsTheSameRun(t *testing.T) {
	b := newRetryBench(t)
	b.input.Earlier = map[string]runs.StepResult{"scrub": {Name: "scrub", Attempts: []runs.JobResult{failedJob(5)}}}
	b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(1)}})
	if _, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true}); err != nil {
		t.Fatal(err)
	}
	if last, _ := b.keeper.input.Earlier["scrub"].Last(); last.Attempt != 5 {
		t.Error("a step that its file has no more may come back, and its attempts are forgotten")
	}
	o, in := b.started, b.keeper.input
	if o.ID != retriedRun || o.TaskQueue != "penstock-prod" || b.kind != runs.TypeRun || !o.WorkflowExecutionErrorWhenAlreadyStarted ||
		o.WorkflowIDReusePolicy != enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE {
		t.Errorf("started %s as %+v", b.kind, o)
	}
	if o.Memo[runs.MemoIdentity] != "event:e" || o.Memo[runs.MemoKey] != "k" || o.StaticSummary != "Load." {
		t.Errorf("memo %v, summary %q", o.Memo, o.StaticSummary)
	}
	if in.Key != "k" || in.Identity != "event:e" || in.Retries != "first" || in.Config.Hash != "old" || len(in.Steps) != 2 {
		t.Errorf("input %+v", in)
	}
	// Somebody else was faster.
	var open *OpenError
	if _, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true}); !errors.As(err, &open) {
		t.Errorf("a second retry: %v, want that the run is open", err)
	}
}

// A run that found its key claimed launched nothing. Where what became of the holder is in doubt, a person may have it run,
// in the holder's place.
func TestRetryOfARunThatFoundItsKeyTaken(t *testing.T) {
	for name, offered := range map[string]bool{"the holder's outcome is not known": true, "the holder succeeded": false} {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			result := runs.RunResult{Version: 1, Outcome: runs.OutcomeDuplicate, Steps: []runs.StepResult{{Name: "clean", Outcome: runs.OutcomeSkipped}, {Name: "load", Outcome: runs.OutcomeSkipped}},
				Taken: &runs.Taken{RunID: retriedRun, Chain: "holder", OfferRetry: offered, Reason: "it has it"}}
			b.taken(result)
			r, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true})
			if (err == nil) != offered || (b.started != nil) != offered {
				t.Fatalf("retried: %+v (%v)", r, err)
			}
			if offered && b.keeper.input.Retries != "holder" {
				t.Errorf("it takes over the claim of %q, want the holder's", b.keeper.input.Retries)
			}
		})
	}
}

// The worker goes on from what the run left that has the key: what a retry says of its steps must be that.
func TestRetryOfARunThatFoundItsKeyTakenSaysWhatTheWorkerWillDo(t *testing.T) {
	known := []runs.StepResult{
		{Name: "clean", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{done(1)}},
		{Name: "load", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(1), failedJob(2)}},
	}
	open := []runs.StepResult{{Name: "clean", Outcome: runs.OutcomeTimedOut, Attempts: []runs.JobResult{{Version: 1, Attempt: 3, JobID: "x", State: "JOB_STATE_RUNNING", Outcome: runs.OutcomeTimedOut}}}}
	for name, c := range map[string]struct {
		record []runs.StepResult // that the holder left; nil: none
		before bool              // the record is that of one which had the key before it
		from   string
		none   bool // no ledger is known
		want   string
	}{
		"its record":               {known, false, "", false, "clean kept 1, load runs 3"},
		"its record, from a step":  {known, false, "clean", false, "clean runs 2, load runs 3"},
		"an attempt that goes on":  {open, false, "", false, "clean continues 3, load runs 1"},
		"the record of an earlier": {known, true, "", false, "clean runs 2, load runs 3"},
		"it left none":             {nil, false, "", false, "clean runs 1, load runs 1"},
		"the ledger is not known":  {nil, false, "", true, "clean  0, load  0"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			skipped := []runs.StepResult{{Name: "clean", Outcome: runs.OutcomeSkipped}, {Name: "load", Outcome: runs.OutcomeSkipped}}
			b.taken(runs.RunResult{Version: 1, Outcome: runs.OutcomeDuplicate, Steps: skipped, Taken: &runs.Taken{RunID: retriedRun, Chain: "holder", OfferRetry: true, Reason: "it has it"}})
			if !c.none {
				l, err := ledger.Open(t.Context(), t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = l.Close() })
				b.ledger = l
				at := time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)
				claim := ledger.Claim{Deployment: "prod", Pipeline: "orders", Key: "k", RunID: retriedRun, Chain: "holder", Identity: "event:e", At: at}
				record := ledger.Record{Deployment: "prod", Pipeline: "orders", Key: "k", RunID: retriedRun, Chain: "holder", Execution: "holder", Identity: "event:e", Decision: "started", Outcome: runs.OutcomeFailed, Started: at, Ended: at.Add(time.Hour), Steps: c.record}
				if c.before {
					claim.Chain, record.Chain, record.Execution = "before", "before", "before"
				}
				if _, err := l.Claim(t.Context(), claim); err != nil {
					t.Fatal(err)
				}
				if c.record != nil {
					if err := l.Finish(t.Context(), record); err != nil {
						t.Fatal(err)
					}
				}
				if c.before {
					seen, err := l.Read(t.Context(), "prod", "orders", "k")
					if err != nil {
						t.Fatal(err)
					}
					claim.Chain = "holder"
					if _, err := l.TakeOver(t.Context(), seen, claim); err != nil {
						t.Fatal(err)
					}
				}
			}
			r, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true, From: c.from})
			if err != nil {
				t.Fatal(err)
			}
			wantSteps(t, r, c.want)
			if (len(r.Notes) > 0) != c.none {
				t.Errorf("it notes %q", r.Notes)
			}
			if last, begun := b.keeper.input.Earlier["load"].Last(); begun {
				t.Errorf("the input has attempt %d of a step, which is the ledger's to tell", last.Attempt)
			}
		})
	}
}

// A retry that never had the key leaves it to the run that it was to follow: the next one comes to that one's place.
func TestRetryOfARetryTakesOverTheClaimThatIsThere(t *testing.T) {
	for name, c := range map[string]struct {
		taken  any // what the retry was told when it asked for the key; nil: it never was
		answer bool
		want   string
	}{
		"of one that had the key":         {nil, true, "first"},
		"of one that was never told":      {nil, false, "original"},
		"of one that found another's key": {runs.Taken{RunID: retriedRun, Chain: "holder", OfferRetry: true}, true, "original"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			b.input.Retries = "original"
			b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeSkipped}, runs.StepResult{Name: "load", Outcome: runs.OutcomeSkipped})
			w := b.workflows[retriedRun]
			asked := []*historypb.HistoryEvent{{EventId: 5, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
				ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityType: &commonpb.ActivityType{Name: "ClaimKey"}},
			}}}
			if c.answer {
				asked = append(asked, &historypb.HistoryEvent{EventId: 6, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, Attributes: &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{
					ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{ScheduledEventId: 5, Result: b.payloads(map[string]any{"taken": c.taken})},
				}})
			}
			w.events = slices.Insert(w.events, 1, asked...)
			if _, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true}); err != nil {
				t.Fatal(err)
			}
			if got := b.keeper.input.Retries; got != c.want {
				t.Errorf("it comes to the place of %q, want %q", got, c.want)
			}
		})
	}
}

// What a retry learned from the ledger, which keeps what Temporal has forgotten, is not lost with it: the next one goes on from there.
func TestRetryOfATerminatedRetryKeepsWhatTheLedgerKnew(t *testing.T) {
	known := map[string]runs.StepResult{
		"clean": {Name: "clean", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{done(1)}},
		"load":  {Name: "load", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(1)}},
	}
	for name, c := range map[string]struct {
		earlier map[string]runs.StepResult // of the input
		retried bool
		load    bool // had begun
		want    string
	}{
		"before it began a step":                  {nil, true, false, "clean kept 1, load runs 2"},
		"amid a step":                             {nil, true, true, "clean kept 1, load continues 2"},
		"that was to run a step again":            {map[string]runs.StepResult{"clean": {Name: "clean", Outcome: runs.OutcomePending}}, true, false, "clean runs 2, load runs 2"},
		"that knew more than the ledger":          {map[string]runs.StepResult{"clean": {Name: "clean", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(3)}}}, true, false, "clean runs 4, load runs 2"},
		"of which the ledger had another's steps": {nil, false, false, "clean runs 2, load runs 2"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			b.input.Retries, b.input.Earlier = "original", c.earlier
			b.terminated()
			w := b.workflows[retriedRun]
			happened := []*historypb.HistoryEvent{
				{EventId: 5, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, Attributes: &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{
					ActivityTaskScheduledEventAttributes: &historypb.ActivityTaskScheduledEventAttributes{ActivityType: &commonpb.ActivityType{Name: "ClaimKey"}},
				}},
				{EventId: 6, EventType: enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, Attributes: &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{
					ActivityTaskCompletedEventAttributes: &historypb.ActivityTaskCompletedEventAttributes{ScheduledEventId: 5, Result: b.payloads(map[string]any{"after": true, "earlier": known, "retried": c.retried})},
				}},
			}
			if c.load {
				b.job("load", 2, nil)
				in := jobInput("load", 2)
				happened = append(happened, &historypb.HistoryEvent{EventType: enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED, Attributes: &historypb.HistoryEvent_StartChildWorkflowExecutionInitiatedEventAttributes{
					StartChildWorkflowExecutionInitiatedEventAttributes: &historypb.StartChildWorkflowExecutionInitiatedEventAttributes{WorkflowId: runs.JobWorkflowID("p", "l", in.JobName), Input: b.payloads(in)},
				}})
			}
			w.events = slices.Insert(w.events, 1, happened...)
			r, err := b.Retry(t.Context(), retriedRun, RetryRequest{SameConfig: true})
			if err != nil {
				t.Fatal(err)
			}
			wantSteps(t, r, c.want)
			if got := b.keeper.input.Retries; got != "first" {
				t.Errorf("it comes to the place of %q, want that of the retry, which had the key", got)
			}
		})
	}
}

func TestRetryIsRefused(t *testing.T) {
	broken := func(b *retryBench) {
		b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{done(1)}},
			runs.StepResult{Name: "load", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(1)}})
	}
	tests := map[string]struct {
		past  func(b *retryBench)
		ask   RetryRequest
		wants []string
	}{
		"an open run": {func(b *retryBench) {
			broken(b)
			b.workflows[retriedRun].status = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
			b.workflows[retriedRun].events = b.workflows[retriedRun].events[:1]
		}, RetryRequest{SameConfig: true}, []string{retriedRun, "are open"}},
		"a job's workflow is open": {func(b *retryBench) {
			b.terminated()
			b.job("clean", 1, nil)
			w := b.workflows[runs.JobWorkflowID("p", "l", jobInput("clean", 1).JobName)]
			w.status, w.events = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, w.events[:1]
		}, RetryRequest{SameConfig: true}, []string{jobInput("clean", 1).JobName, "are open"}},
		"a run that succeeded": {func(b *retryBench) {
			broken(b)
			b.workflows[retriedRun].status = enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
		}, RetryRequest{SameConfig: true}, []string{"it succeeded", "--from"}},
		"a step that there is not": {broken, RetryRequest{SameConfig: true, From: "scrub"}, []string{`no step "scrub"`, "clean, load"}},
		"every step is finished": {func(b *retryBench) {
			b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{done(1)}}, runs.StepResult{Name: "load", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{done(1)}})
		}, RetryRequest{SameConfig: true}, []string{"every step is finished"}},
		"a workflow of the user's own": {func(b *retryBench) {
			broken(b)
			b.workflows[retriedRun].kind = "Audit"
		}, RetryRequest{SameConfig: true}, []string{"of your own", "Audit"}},
		"an input from a newer version": {func(b *retryBench) { b.input.Version = 99; broken(b) }, RetryRequest{SameConfig: true}, []string{"version 99"}},
		"attempts are used up": {func(b *retryBench) {
			b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(runs.MaxAttempt)}})
		}, RetryRequest{SameConfig: true}, []string{"used up"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			tt.past(b)
			_, err := b.Retry(t.Context(), retriedRun, tt.ask)
			if err == nil || b.started != nil {
				t.Fatalf("the run was started (%v)", err)
			}
			for _, want := range tt.wants {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("it says %q, want %q in it", err, want)
				}
			}
		})
	}
}

const ordersFile = `name: orders
purpose: Load, mended.
owner: data@example.com
on:
  - storage: {bucket: landing, object: "in/*"}
key: k
steps:
  - name: clean
    dataflow: {template: gs://templates/clean.json}
  - name: load
    needs: [clean]
    dataflow: {template: gs://templates/load-2.json, parameters: {in: "${event.uri}"}}
`

func landed(t *testing.T, object string) *events.Event {
	t.Helper()
	e, err := events.FromJSON([]byte(`{"specversion":"1.0","id":"1","type":"google.cloud.storage.object.v1.finalized","source":"//storage.googleapis.com/projects/_/buckets/landing",`+
		`"data":{"bucket":"landing","name":"`+object+`","generation":"7"}}`), "")
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// By the current pipelines file the launch requests are filled in anew, from the event.
func TestRetryByTheCurrentConfig(t *testing.T) {
	begin := func(b *retryBench, load ...runs.JobResult) {
		b.input.Identity = "finalized:landing/in/a.csv#7"
		b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{done(1)}},
			runs.StepResult{Name: "load", Outcome: runs.OutcomeFailed, Attempts: load})
	}
	kept := func(b *retryBench) {
		b.input.Event = landed(b.t, "in/a.csv")
		begin(b, failedJob(1))
	}
	tests := map[string]struct {
		past func(b *retryBench)
		file string
		ask  RetryRequest
		want string // error; empty: it runs
	}{
		"the run kept its event":         {kept, ordersFile, RetryRequest{}, ""},
		"the event is given":             {func(b *retryBench) { begin(b, failedJob(1)) }, ordersFile, RetryRequest{Event: landed(t, "in/a.csv")}, ""},
		"there is no event":              {func(b *retryBench) { begin(b, failedJob(1)) }, ordersFile, RetryRequest{}, "--event"},
		"another event is given":         {func(b *retryBench) { begin(b, failedJob(1)) }, ordersFile, RetryRequest{Event: landed(t, "in/b.csv")}, "was started by"},
		"the key is another":             {kept, strings.Replace(ordersFile, "key: k", "key: other", 1), RetryRequest{}, "another run"},
		"the file wants other events":    {kept, strings.Replace(ordersFile, "in/*", "out/*", 1), RetryRequest{}, "does not want"},
		"the file would skip the event":  {kept, strings.Replace(ordersFile, "key: k", "    when: event.size > 5\nkey: k", 1), RetryRequest{}, "skip"},
		"the pipeline is gone":           {kept, strings.Replace(ordersFile, "name: orders", "name: other", 1), RetryRequest{}, "no pipeline orders"},
		"the pipeline has no steps more": {kept, ordersFile[:strings.Index(ordersFile, "steps:")] + "workflow: {type: A, taskQueue: b}\n", RetryRequest{}, "no steps"},
		"an unfinished attempt has another launch": {func(b *retryBench) {
			b.input.Event = landed(b.t, "in/a.csv")
			begin(b, runs.JobResult{Version: 1, Attempt: 1, JobID: "x", State: "JOB_STATE_RUNNING", Outcome: runs.OutcomeFailed})
		}, ordersFile, RetryRequest{}, "is not known to be over"},
		"an unfinished attempt's step is gone": {func(b *retryBench) {
			b.input.Event = landed(b.t, "in/a.csv")
			begin(b, runs.JobResult{Version: 1, Attempt: 1, JobID: "x", State: "JOB_STATE_RUNNING", Outcome: runs.OutcomeFailed})
		}, strings.Replace(ordersFile, "name: load", "name: store", 1), RetryRequest{}, "has no step load any more"},
		"an attempt that never had a job may have another launch": {func(b *retryBench) {
			b.input.Event = landed(b.t, "in/a.csv")
			begin(b, runs.JobResult{Version: 1, Attempt: 1, Outcome: runs.OutcomeFailed, Refusal: "invalid"})
		}, ordersFile, RetryRequest{}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newRetryBench(t)
			tt.past(b)
			p, problems := pipeline.Parse("orders.yaml", []byte(tt.file))
			if problems.HasErrors() {
				t.Fatal(problems)
			}
			tt.ask.Pipelines = pipeline.NewSet([]*pipeline.Pipeline{p})
			r, err := b.Retry(t.Context(), retriedRun, tt.ask)
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) || b.started != nil {
					t.Errorf("it says %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			in := b.keeper.input
			if r.Config.Hash == "old" || in.Config.Hash != r.Config.Hash || in.Purpose != "Load, mended." || in.Identity != "finalized:landing/in/a.csv#7" || in.Event == nil ||
				in.Steps[1].Job.Template != "gs://templates/load-2.json" || in.Steps[1].Job.Parameters["in"] != "gs://landing/in/a.csv" {
				t.Errorf("input %+v", in)
			}
		})
	}
}

// A file that has not changed makes the same plan, so no event is needed.
func TestRetryByAnUnchangedConfigNeedsNoEvent(t *testing.T) {
	b := newRetryBench(t)
	p, _ := pipeline.Parse("orders.yaml", []byte(ordersFile))
	b.input.Config = p.Version
	b.failed(runs.StepResult{Name: "clean", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{failedJob(1)}})
	if _, err := b.Retry(t.Context(), retriedRun, RetryRequest{Pipelines: pipeline.NewSet([]*pipeline.Pipeline{p})}); err != nil {
		t.Fatal(err)
	}
	if b.keeper.input.Steps[1].Job.Template != "gs://t/load" {
		t.Errorf("input %+v", b.keeper.input)
	}
}
