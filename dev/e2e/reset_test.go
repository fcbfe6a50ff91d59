package e2e_test

import (
	"slices"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/runs"
)

// An operator resets a run. Whatever of it the new execution has forgotten, its jobs
// are found under their names: none is launched twice.

// The new execution knows nothing of the job's workflow, which is open: that hands its
// job over.
func TestResetToTheBeginningWhileAJobRuns(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "one")
	job := r.job(t, "only", 1)
	before := r.execution(t, r.jobWorkflow("only", 1))
	r.reset(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
	eventually(t, "a new workflow takes the job up", func() bool {
		return r.execution(t, r.jobWorkflow("only", 1)) != before && slices.Contains(shared.Calls.of(job.JobName), "jobs.get")
	})
	if job.over() {
		t.Error("the hand-over ended the job")
	}
	job.done()
	res := r.result(t)
	if a := attemptOf(t, res, "only"); res.Outcome != runs.OutcomeSucceeded || a.Attempt != 1 || !a.Adopted || a.JobID != job.JobID {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "reset-while-running", "only-1")
	keepHistory(t, shared, r.jobWorkflow("only", 1), before, "handed-over.only-1")
}

// The job's workflow has closed and its job is done: the new execution adopts it.
func TestResetToTheBeginningAfterTheEnd(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "one")
	job := r.job(t, "only", 1)
	job.done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Fatalf("the run: %+v", res)
	}
	r.reset(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
	res := r.result(t)
	if a := attemptOf(t, res, "only"); res.Outcome != runs.OutcomeSucceeded || a.Attempt != 1 || !a.Adopted || a.JobID != job.JobID {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "reset-after-the-end", "only-1")
}

// A workflow that no worker serves any more sits under the job's ID, and so never hands
// over: it is ended, and the attempt goes on as the name's second.
func TestAJobsWorkflowThatDoesNotHandOverIsTerminated(t *testing.T) {
	t.Parallel()
	r := shared.runOf("keyed", t.Name(), t.Name())
	stuck, err := shared.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: r.jobWorkflow("only", 1), TaskQueue: "nobody-polls-this",
	}, runs.TypeJob)
	if err != nil {
		t.Fatal(err)
	}
	shared.upload(t, "e2e-keyed", t.Name(), "content")
	job := r.job(t, "only", 1)
	if !slices.ContainsFunc(r.history(t, stuck.GetID(), stuck.GetRunID()), func(e *historypb.HistoryEvent) bool {
		return e.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == runs.SignalHandOver
	}) {
		t.Error("it was not asked to hand over first")
	}
	if d, err := shared.Client.DescribeWorkflowExecution(t.Context(), stuck.GetID(), stuck.GetRunID()); err != nil || d.WorkflowExecutionInfo.Status != enumspb.WORKFLOW_EXECUTION_STATUS_TERMINATED {
		t.Errorf("the stuck workflow is %v (%v), want it terminated", d.GetWorkflowExecutionInfo().GetStatus(), err)
	}
	job.done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
}

// A failed attempt is adopted too, and counts: the reset goes on with the next number.
func TestResetAfterAFailureDoesNotGiveTheAttemptsBack(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "retried")
	for attempt := 1; attempt <= 3; attempt++ {
		r.job(t, "only", attempt).fail("no rows")
	}
	if res := r.result(t); res.Outcome != runs.OutcomeFailed {
		t.Fatalf("the run: %+v", res)
	}
	r.reset(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
	if res := r.result(t); res.Outcome != runs.OutcomeFailed || len(res.Steps[0].Attempts) != 3 {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 3})
}

// The new execution remembers the job's workflow, which is open and belongs to the
// execution before: the run still hears of the job's end, and can still stop it.
func TestResetAfterTheStartOfAJobsWorkflow(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]struct {
		do   func(t *testing.T, r *run, job *heldJob)
		want runs.Outcome
	}{
		"and the job ends":         {func(_ *testing.T, _ *run, job *heldJob) { job.done() }, runs.OutcomeSucceeded},
		"and the run is cancelled": {func(t *testing.T, r *run, _ *heldJob) { r.cancel(t) }, runs.OutcomeCancelled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := shared.land(t, "one")
			job := r.job(t, "only", 1)
			r.reset(t, enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED)
			end.do(t, r, job)
			res := r.result(t)
			if a := attemptOf(t, res, "only"); res.Outcome != end.want || a.JobID != job.JobID {
				t.Errorf("the run: %+v", res)
			}
			r.wantJobs(t, map[string]int{"only": 1})
		})
	}
}

// The cancel finds the new execution before it has begun its step: the job that the one
// before it began is stopped and named all the same.
func TestResetToTheBeginningAndCancelledAtOnce(t *testing.T) {
	t.Parallel()
	for name, started := range map[string]func(t *testing.T, r *run) *heldJob{
		"while the first attempt runs": func(t *testing.T, r *run) *heldJob { return r.job(t, "only", 1) },
		"while the second runs": func(t *testing.T, r *run) *heldJob {
			r.job(t, "only", 1).fail("no rows")
			return r.job(t, "only", 2)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := shared.land(t, "retried")
			job := started(t, r)
			jobs := map[string]int{"only": len(shared.Jobs.of(r.object))}
			r.reset(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
			r.cancel(t)
			r.wantStopped(t, job, jobs)
			keep(t, r, "reset-and-cancelled-at-once")
		})
	}
}

// The same while the new execution, which finds or knows the first attempt's end, waits before
// it comes to the second.
func TestResetAndCancelledDuringABackOff(t *testing.T) {
	t.Parallel()
	for name, point := range map[string]enumspb.EventType{
		"reset-and-cancelled-in-a-back-off":       enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED,
		"reset-later-and-cancelled-in-a-back-off": enumspb.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := shared.land(t, "patient")
			r.job(t, "only", 1).fail("no rows")
			job := r.job(t, "only", 2)
			jobs := map[string]int{"only": len(shared.Jobs.of(r.object))}
			r.reset(t, point)
			eventually(t, "the new execution waits before the second attempt", func() bool {
				return strings.Contains(r.state(t).Steps[0].Waiting, "the back-off")
			})
			r.cancel(t)
			r.wantStopped(t, job, jobs)
			keep(t, r, name)
		})
	}
}

// wantStopped waits for the end of a cancelled run, which ends the job and names it; its steps
// have so many jobs.
func (r *run) wantStopped(t *testing.T, job *heldJob, jobs map[string]int) {
	t.Helper()
	res := r.result(t)
	last, _ := res.Steps[0].Last()
	if res.Outcome != runs.OutcomeCancelled || last.JobID != job.JobID || !job.over() {
		t.Errorf("the job is over: %t; the run: %+v", job.over(), res)
	}
	r.wantJobs(t, jobs)
}

// execution is the run ID of a workflow's newest execution.
func (b *bench) execution(t *testing.T, workflowID string) string {
	t.Helper()
	d, err := b.Client.DescribeWorkflowExecution(t.Context(), workflowID, "")
	if err != nil {
		t.Fatal(err)
	}
	return d.WorkflowExecutionInfo.Execution.RunId
}

// reset sets the run back to the first workflow task after an event of the type.
func (r *run) reset(t *testing.T, after enumspb.EventType) {
	t.Helper()
	var point int64
	eventually(t, "there is a point to reset to after "+after.String(), func() bool {
		seen := false
		for _, e := range r.history(t, r.id, "") {
			seen = seen || e.EventType == after
			if seen && e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED {
				point = e.EventId
				return true
			}
		}
		return false
	})
	if _, err := r.Client.ResetWorkflowExecution(t.Context(), &workflowservice.ResetWorkflowExecutionRequest{
		Namespace:                 r.Addresses.Namespace,
		WorkflowExecution:         &commonpb.WorkflowExecution{WorkflowId: r.id, RunId: r.execution(t, r.id)},
		Reason:                    "by a test",
		WorkflowTaskFinishEventId: point,
		RequestId:                 t.Name(),
	}); err != nil {
		t.Fatal(err)
	}
}
