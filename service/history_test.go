package service

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	failurepb "go.temporal.io/api/failure/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// told is a history put together from the events that matter here.
type told struct {
	t *testing.T
	h *history
	n int64
}

func tell(t *testing.T) *told {
	t.Helper()
	return &told{t: t, h: &history{s: &Service{converter: converter.GetDefaultDataConverter()}, launching: map[int64]bool{}}}
}

func (e *told) payload(v any) *commonpb.Payloads {
	e.t.Helper()
	p, err := converter.GetDefaultDataConverter().ToPayloads(v)
	if err != nil {
		e.t.Fatal(err)
	}
	return p
}

func (e *told) event(kind enumspb.EventType, attributes any) int64 {
	e.t.Helper()
	e.n++
	event := &historypb.HistoryEvent{EventId: e.n, EventType: kind, EventTime: timestamppb.New(time.Unix(e.n, 0))}
	switch a := attributes.(type) {
	case *historypb.WorkflowExecutionStartedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionStartedEventAttributes{WorkflowExecutionStartedEventAttributes: a}
	case *historypb.StartChildWorkflowExecutionInitiatedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_StartChildWorkflowExecutionInitiatedEventAttributes{StartChildWorkflowExecutionInitiatedEventAttributes: a}
	case *historypb.StartChildWorkflowExecutionFailedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_StartChildWorkflowExecutionFailedEventAttributes{StartChildWorkflowExecutionFailedEventAttributes: a}
	case *historypb.ChildWorkflowExecutionCompletedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_ChildWorkflowExecutionCompletedEventAttributes{ChildWorkflowExecutionCompletedEventAttributes: a}
	case *historypb.ChildWorkflowExecutionTerminatedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_ChildWorkflowExecutionTerminatedEventAttributes{ChildWorkflowExecutionTerminatedEventAttributes: a}
	case *historypb.ActivityTaskScheduledEventAttributes:
		event.Attributes = &historypb.HistoryEvent_ActivityTaskScheduledEventAttributes{ActivityTaskScheduledEventAttributes: a}
	case *historypb.ActivityTaskCompletedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_ActivityTaskCompletedEventAttributes{ActivityTaskCompletedEventAttributes: a}
	case *historypb.WorkflowExecutionSignaledEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionSignaledEventAttributes{WorkflowExecutionSignaledEventAttributes: a}
	case *historypb.WorkflowExecutionCancelRequestedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionCancelRequestedEventAttributes{WorkflowExecutionCancelRequestedEventAttributes: a}
	case *historypb.WorkflowExecutionCompletedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionCompletedEventAttributes{WorkflowExecutionCompletedEventAttributes: a}
	case *historypb.WorkflowExecutionFailedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionFailedEventAttributes{WorkflowExecutionFailedEventAttributes: a}
	case *historypb.WorkflowExecutionCanceledEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionCanceledEventAttributes{WorkflowExecutionCanceledEventAttributes: a}
	case *historypb.WorkflowExecutionTerminatedEventAttributes:
		event.Attributes = &historypb.HistoryEvent_WorkflowExecutionTerminatedEventAttributes{WorkflowExecutionTerminatedEventAttributes: a}
	default:
		e.t.Fatalf("no such attributes: %T", attributes)
	}
	e.h.add(event)
	return e.n
}

// run begins a run of the steps clean and load, which needs clean.
func (e *told) run() {
	e.t.Helper()
	e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, &historypb.WorkflowExecutionStartedEventAttributes{
		WorkflowType: &commonpb.WorkflowType{Name: runs.TypeRun},
		Input: e.payload(runs.RunInput{Version: 1, Deployment: "prod", Pipeline: "orders", Key: "k",
			Steps: []pipeline.PlannedStep{{Name: "clean"}, {Name: "load", Needs: []string{"clean"}}}}),
	})
}

func jobInput(step string, attempt int) runs.JobInput {
	return runs.JobInput{Version: 1, Step: step, Attempt: attempt, Project: "p", Location: "l", JobName: runs.JobName("prod", "orders", "k", step, attempt)}
}

func execution(step string, attempt int) *commonpb.WorkflowExecution {
	return &commonpb.WorkflowExecution{WorkflowId: runs.JobWorkflowID("p", "l", jobInput(step, attempt).JobName)}
}

func (e *told) begin(step string, attempt int) {
	e.t.Helper()
	e.event(enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED, &historypb.StartChildWorkflowExecutionInitiatedEventAttributes{
		WorkflowId: execution(step, attempt).GetWorkflowId(), Input: e.payload(jobInput(step, attempt)),
	})
}

func (e *told) finish(step string, r runs.JobResult) {
	e.t.Helper()
	in := jobInput(step, r.Attempt)
	r.Version, r.Project, r.Location, r.JobName = 1, in.Project, in.Location, in.JobName
	e.event(enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED, &historypb.ChildWorkflowExecutionCompletedEventAttributes{
		WorkflowExecution: execution(step, r.Attempt), Result: e.payload(r),
	})
}

func (e *told) terminate() {
	e.t.Helper()
	e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_TERMINATED, &historypb.WorkflowExecutionTerminatedEventAttributes{Identity: "sue@host", Reason: "wrong file"})
}

// Without a worker's answer, and for a run that was ended from outside, the events tell how far it is.
func TestReconstruct(t *testing.T) {
	failed := runs.JobResult{Attempt: 1, Outcome: runs.OutcomeFailed, JobID: "j1", State: "JOB_STATE_FAILED", Error: "no such column"}
	done := runs.JobResult{Attempt: 1, Outcome: runs.OutcomeSucceeded, JobID: "j1", State: "JOB_STATE_DONE"}
	for name, row := range map[string]struct {
		tell func(e *told)
		want string
	}{
		"just begun": {
			func(*told) {},
			"running | clean pending [] waits for a worker | load pending [] waits for the steps it needs: clean",
		},
		"first job under way": {
			func(e *told) { e.begin("clean", 1) },
			"running | clean running [1 running ] waits for job " + jobInput("clean", 1).JobName + " | load pending [] waits for the steps it needs: clean",
		},
		"in the back-off after a failed attempt": {
			func(e *told) { e.begin("clean", 1); e.finish("clean", failed) },
			"running | clean running [1 failed j1] waits for the next attempt, or the run's end: no such column | load pending [] waits for the steps it needs: clean",
		},
		"second attempt under way": {
			func(e *told) { e.begin("clean", 1); e.finish("clean", failed); e.begin("clean", 2) },
			"running | clean running [1 failed j1, 2 running ] waits for job " + jobInput("clean", 2).JobName + " | load pending [] waits for the steps it needs: clean",
		},
		"second step under way": {
			func(e *told) { e.begin("clean", 1); e.finish("clean", done); e.begin("load", 1) },
			"running | clean succeeded [1 succeeded j1] | load running [1 running ] waits for job " + jobInput("load", 1).JobName,
		},
		"a job's workflow terminated and begun again is one attempt": {
			func(e *told) {
				e.begin("clean", 1)
				e.event(enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_TERMINATED, &historypb.ChildWorkflowExecutionTerminatedEventAttributes{WorkflowExecution: execution("clean", 1)})
				e.begin("clean", 1)
				e.finish("clean", done)
			},
			"running | clean succeeded [1 succeeded j1] | load pending [] waits for the steps it needs: clean",
		},
		"a job's workflow handed over and not begun again yet": {
			func(e *told) {
				e.begin("clean", 1)
				e.finish("clean", runs.JobResult{Attempt: 1, Outcome: runs.OutcomeRunning, JobID: "j1", HandedOver: true})
			},
			"running | clean running [1 running j1] waits for job " + jobInput("clean", 1).JobName + " | load pending [] waits for the steps it needs: clean",
		},
		"a job's workflow handed over and begun again is one attempt": {
			func(e *told) {
				e.begin("clean", 1)
				e.finish("clean", runs.JobResult{Attempt: 1, Outcome: runs.OutcomeRunning, HandedOver: true})
				e.begin("clean", 1)
			},
			"running | clean running [1 running ] waits for job " + jobInput("clean", 1).JobName + " | load pending [] waits for the steps it needs: clean",
		},
		"a job's workflow whose ID was taken was never begun": {
			func(e *told) {
				e.begin("clean", 1)
				e.event(enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_FAILED, &historypb.StartChildWorkflowExecutionFailedEventAttributes{WorkflowId: execution("clean", 1).GetWorkflowId()})
			},
			"running | clean pending [] waits for a worker | load pending [] waits for the steps it needs: clean",
		},
		"terminated during the first job": {
			func(e *told) { e.begin("clean", 1); e.terminate() },
			"terminated: it was terminated by sue@host: wrong file | clean running [1 running ] | load skipped []",
		},
		"terminated after the first job": {
			func(e *told) { e.begin("clean", 1); e.finish("clean", done); e.terminate() },
			"terminated: it was terminated by sue@host: wrong file | clean succeeded [1 succeeded j1] | load skipped []",
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := tell(t)
			e.run()
			row.tell(e)
			r, ok := e.h.reconstruct()
			if !ok {
				t.Fatal("nothing was made of the history")
			}
			if got := inWords(r); got != row.want {
				t.Errorf("got  %s\nwant %s", got, row.want)
			}
		})
	}
}

func inWords(r runs.RunResult) string {
	var b strings.Builder
	b.WriteString(string(r.Outcome))
	if r.Error != "" {
		b.WriteString(": " + r.Error)
	}
	for _, s := range r.Steps {
		var attempts []string
		for _, a := range s.Attempts {
			attempts = append(attempts, string(rune('0'+a.Attempt))+" "+string(a.Outcome)+" "+a.JobID)
		}
		b.WriteString(" | " + s.Name + " " + string(s.Outcome) + " [" + strings.Join(attempts, ", ") + "]")
		if s.Waiting != "" {
			b.WriteString(" waits for " + s.Waiting)
		}
		if s.Error != "" {
			b.WriteString(": " + s.Error)
		}
	}
	return b.String()
}

// A run that ended by itself left its own account in its last event, whichever end it was.
func TestRunResultOfTheLastEvent(t *testing.T) {
	account := runs.RunResult{Version: 1, Outcome: runs.OutcomeFailed, Error: "step clean failed", Steps: []runs.StepResult{{Name: "clean", Outcome: runs.OutcomeFailed}}}
	for name, end := range map[string]func(e *told){
		"completed": func(e *told) {
			e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, &historypb.WorkflowExecutionCompletedEventAttributes{Result: e.payload(account)})
		},
		"failed": func(e *told) {
			e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, &historypb.WorkflowExecutionFailedEventAttributes{Failure: &failurepb.Failure{
				Message:     account.Error,
				FailureInfo: &failurepb.Failure_ApplicationFailureInfo{ApplicationFailureInfo: &failurepb.ApplicationFailureInfo{Type: "RunFailed", Details: e.payload(account)}},
			}})
		},
		"cancelled": func(e *told) {
			e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCELED, &historypb.WorkflowExecutionCanceledEventAttributes{Details: e.payload(account)})
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := tell(t)
			e.run()
			end(e)
			got, ok := e.h.runResult()
			if !ok || inWords(got) != inWords(account) {
				t.Errorf("got %s (%v)", inWords(got), ok)
			}
		})
	}
	t.Run("failed for another reason", func(t *testing.T) {
		e := tell(t)
		e.run()
		e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED, &historypb.WorkflowExecutionFailedEventAttributes{Failure: &failurepb.Failure{
			Message: "run input of version 9", Cause: &failurepb.Failure{Message: "deploy the newer worker"},
		}})
		if _, ok := e.h.runResult(); ok {
			t.Error("an account was read where there is none")
		}
		if want := "run input of version 9: deploy the newer worker"; e.h.problem != want {
			t.Errorf("problem %q, want %q", e.h.problem, want)
		}
	})
}

func TestCancelRequestsSayWhoAndWhy(t *testing.T) {
	e := tell(t)
	e.run()
	e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_CANCEL_REQUESTED, &historypb.WorkflowExecutionCancelRequestedEventAttributes{Identity: "sue@host", Cause: "wrong file"})
	want := CancelRequest{Time: time.Unix(2, 0).UTC(), By: "sue@host", Reason: "wrong file"}
	if len(e.h.cancels) != 1 || e.h.cancels[0] != want {
		t.Errorf("got %+v, want %+v", e.h.cancels, want)
	}
}

// A job's own history tells its ID and newest state while no worker does.
func TestJobResultOfAJobsHistory(t *testing.T) {
	begin := func(t *testing.T) *told {
		t.Helper()
		e := tell(t)
		e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, &historypb.WorkflowExecutionStartedEventAttributes{
			WorkflowType: &commonpb.WorkflowType{Name: runs.TypeJob}, Input: e.payload(jobInput("clean", 2)),
		})
		return e
	}
	type job struct {
		ID        string    `json:"id,omitempty"`
		State     string    `json:"state,omitempty"`
		StateTime time.Time `json:"stateTime,omitzero"`
	}
	answer := func(e *told, activity string, j job) {
		e.t.Helper()
		id := e.event(enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, &historypb.ActivityTaskScheduledEventAttributes{ActivityType: &commonpb.ActivityType{Name: activity}})
		e.event(enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED, &historypb.ActivityTaskCompletedEventAttributes{ScheduledEventId: id, Result: e.payload(map[string]any{"job": j})})
	}
	status := func(e *told, s runs.JobStatus) {
		e.t.Helper()
		e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, &historypb.WorkflowExecutionSignaledEventAttributes{SignalName: runs.SignalStatus, Input: e.payload(s)})
	}
	at := func(s int64) time.Time { return time.Unix(s, 0).UTC() }
	for name, row := range map[string]struct {
		tell      func(e *told)
		id, state string
		outcome   runs.Outcome
		noteHolds string
	}{
		"not launched yet": {tell: func(*told) {}, outcome: runs.OutcomeRunning},
		"launched":         {tell: func(e *told) { answer(e, "LaunchJob", job{"j1", "JOB_STATE_QUEUED", at(1)}) }, id: "j1", state: "JOB_STATE_QUEUED", outcome: runs.OutcomeRunning},
		"a newer status": {tell: func(e *told) {
			answer(e, "LaunchJob", job{"j1", "JOB_STATE_QUEUED", at(1)})
			status(e, runs.JobStatus{JobID: "j1", State: "JOB_STATE_RUNNING", StateTime: at(2)})
		}, id: "j1", state: "JOB_STATE_RUNNING", outcome: runs.OutcomeRunning},
		"a status that comes late": {tell: func(e *told) {
			answer(e, "LaunchJob", job{"j1", "JOB_STATE_RUNNING", at(2)})
			status(e, runs.JobStatus{JobID: "j1", State: "JOB_STATE_QUEUED", StateTime: at(1)})
		}, id: "j1", state: "JOB_STATE_RUNNING", outcome: runs.OutcomeRunning},
		"another job's status": {tell: func(e *told) {
			answer(e, "LaunchJob", job{"j1", "JOB_STATE_QUEUED", at(1)})
			status(e, runs.JobStatus{JobID: "j2", State: "JOB_STATE_DONE", StateTime: at(2)})
		}, id: "j1", state: "JOB_STATE_QUEUED", outcome: runs.OutcomeRunning},
		"updated and replaced": {tell: func(e *told) {
			answer(e, "LaunchJob", job{"j1", "JOB_STATE_RUNNING", at(2)})
			answer(e, "CheckJob", job{"j2", "JOB_STATE_PENDING", at(1)})
		}, id: "j2", state: "JOB_STATE_PENDING", outcome: runs.OutcomeRunning},
		"another activity's answer": {tell: func(e *told) { answer(e, "Other", job{"j9", "JOB_STATE_DONE", at(1)}) }, outcome: runs.OutcomeRunning},
		"over": {tell: func(e *told) {
			in := jobInput("clean", 2)
			e.event(enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, &historypb.WorkflowExecutionCompletedEventAttributes{Result: e.payload(runs.JobResult{
				Version: 1, Outcome: runs.OutcomeSucceeded, Attempt: 2, JobName: in.JobName, JobID: "j1", State: "JOB_STATE_DONE",
			})})
		}, id: "j1", state: "JOB_STATE_DONE", outcome: runs.OutcomeSucceeded},
		"terminated": {tell: func(e *told) { answer(e, "LaunchJob", job{"j1", "JOB_STATE_RUNNING", at(1)}); e.terminate() },
			id: "j1", state: "JOB_STATE_RUNNING", outcome: Terminated, noteHolds: "sue@host"},
	} {
		t.Run(name, func(t *testing.T) {
			e := begin(t)
			row.tell(e)
			got, ok := e.h.jobResult()
			if !ok || got.Attempt != 2 || got.JobID != row.id || got.State != row.state || got.Outcome != row.outcome || !strings.Contains(got.Note, row.noteHolds) {
				t.Errorf("got %+v (%v)", got, ok)
			}
		})
	}
}

// slowly gives a history an event a page, each of which takes as long.
type slowly struct {
	client.Client
	page   time.Duration
	events int
}

func (s *slowly) GetWorkflowHistory(ctx context.Context, _, _ string, _ bool, _ enumspb.HistoryEventFilterType) client.HistoryEventIterator {
	return &slowPages{ctx, s}
}

type slowPages struct {
	ctx context.Context
	of  *slowly
}

func (p *slowPages) HasNext() bool { return p.of.events > 0 }
func (p *slowPages) Next() (*historypb.HistoryEvent, error) {
	p.of.events--
	select {
	case <-p.ctx.Done():
		return nil, p.ctx.Err()
	case <-time.After(p.of.page):
		return &historypb.HistoryEvent{}, nil
	}
}

// A long history takes its time, as long as it comes.
func TestEachPageOfAHistoryHasItsOwnBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{temporal: &slowly{page: callTimeout - time.Second, events: 10}}
		if _, err := s.history(t.Context(), "w", ""); err != nil {
			t.Errorf("a long history: %v", err)
		}
		s.temporal = &slowly{page: callTimeout + time.Second, events: 1}
		if _, err := s.history(t.Context(), "w", ""); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "a page took more than 20s") {
			t.Errorf("a page that does not come: %v", err)
		}
	})
}

func TestHistoryWithoutItsBeginningTellsNothing(t *testing.T) {
	e := tell(t)
	if _, ok := e.h.jobResult(); ok {
		t.Error("a history without an input gave a result")
	}
	if _, ok := e.h.reconstruct(); ok {
		t.Error("a history without an input gave a run")
	}
}
