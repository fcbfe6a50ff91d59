package e2e_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	enumspb "go.temporal.io/api/enums/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/runs"
)

func TestAFailedJobIsTriedAgainUnderTheNextName(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "retried")
	r.job(t, "only", 1).fail("the first try went wrong")
	r.job(t, "only", 2).fail("and the second")
	r.job(t, "only", 3).done()
	res := r.result(t)
	if res.Outcome != runs.OutcomeSucceeded || len(res.Steps[0].Attempts) != 3 {
		t.Fatalf("the run: %+v", res)
	}
	for i, want := range []string{"the first try went wrong", "and the second", ""} {
		a := res.Steps[0].Attempts[i]
		if a.Attempt != i+1 || a.JobName != r.jobName("only", i+1) || a.Error != want {
			t.Errorf("attempt %d: %+v, want error %q", i+1, a, want)
		}
	}
	r.wantJobs(t, map[string]int{"only": 3})
	keep(t, r, "retried", "only-2")
}

func TestARunFailsWithItsLastAttemptsError(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "retried")
	for attempt := 1; attempt <= 3; attempt++ {
		r.job(t, "only", attempt).fail("try %d found no rows", attempt)
	}
	res := r.result(t)
	if res.Outcome != runs.OutcomeFailed || !strings.Contains(res.Error, "step only failed (attempt 3, job ") || !strings.Contains(res.Error, "try 3 found no rows") {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 3})
	keep(t, r, "failed", "only-3")
}

func TestInvalidParametersAreNotTriedAgain(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "refused")
	res := r.result(t)
	if res.Outcome != runs.OutcomeFailed || len(res.Steps[0].Attempts) != 1 {
		t.Fatalf("the run: %+v", res)
	}
	a := res.Steps[0].Attempts[0]
	if a.Refusal != "invalid" || a.JobID != "" || !strings.Contains(a.Error, "step") || !strings.Contains(res.Error, a.Error) {
		t.Errorf("the attempt is to name the parameter that was refused: %+v", a)
	}
	if got, want := shared.Calls.of(r.jobName("only", 1)), []string{"jobs.list", "flexTemplates.launch"}; !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	r.wantJobs(t, nil)
	keep(t, r, "refused", "only-1")
}

func TestARefusalForWantOfQuotaIsWaitedOut(t *testing.T) {
	t.Parallel()
	refuse := once()
	shared.Calls.hold(t, "flexTemplates.launch", "quota", func(context.Context, string) error {
		if refuse() {
			return status.Error(codes.ResourceExhausted, "Quota exceeded for quota metric 'Create requests'.")
		}
		return nil
	})
	r := shared.land(t, "quota")
	r.job(t, "only", 1).done()
	res := r.result(t)
	if res.Outcome != runs.OutcomeSucceeded || len(res.Steps[0].Attempts) != 1 || res.Steps[0].Attempts[0].Adopted {
		t.Errorf("the run: %+v", res)
	}
	if got, want := shared.Calls.of(r.jobName("only", 1)), []string{"jobs.list", "flexTemplates.launch", "jobs.list", "flexTemplates.launch", "jobs.getMetrics"}; !slices.Equal(got, want) {
		t.Errorf("calls %v, want %v", got, want)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "quota", "only-1")
}

// The launch takes effect and its answer is lost. Its job is found, not launched again;
// that it is over by then makes no difference.
func TestALaunchWithoutAnAnswerIsNotRepeated(t *testing.T) {
	t.Parallel()
	lose := once()
	shared.Calls.spoil(t, "flexTemplates.launch", "unanswered", func(context.Context, string) error {
		if lose() {
			return dataflowemulator.ErrNoAnswer
		}
		return nil
	})
	r := shared.land(t, "unanswered")
	r.job(t, "only", 1).done()
	res := r.result(t)
	if a := res.Steps[0].Attempts; res.Outcome != runs.OutcomeSucceeded || len(a) != 1 || !a[0].Adopted {
		t.Errorf("the run: %+v", res)
	}
	if n := launches(r, "only", 1); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "unanswered", "only-1")
}

// As above, and word of the job comes at once; it cannot be looked at then. It is looked at
// again before anything is launched.
func TestNewsOfAJobThatMeetTroubleAreLookedAtAgain(t *testing.T) {
	t.Parallel()
	lose, refuse := once(), once()
	shared.Calls.spoil(t, "flexTemplates.launch", "hinted", func(context.Context, string) error {
		if lose() {
			return dataflowemulator.ErrNoAnswer
		}
		return nil
	})
	shared.Calls.hold(t, "jobs.get", "hinted", func(context.Context, string) error {
		if refuse() {
			return status.Error(codes.Unavailable, "The service is currently unavailable.")
		}
		return nil
	})
	r := shared.land(t, "hinted")
	job := r.job(t, "only", 1)
	eventually(t, "the job is looked at again", func() bool { return callsAbout(r, "only", 1, "jobs.get") >= 2 })
	job.done()
	res := r.result(t)
	if a := res.Steps[0].Attempts; res.Outcome != runs.OutcomeSucceeded || len(a) != 1 || a[0].JobID != job.JobID || !a[0].Adopted {
		t.Errorf("the run: %+v", res)
	}
	if n := launches(r, "only", 1); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "hint-in-trouble", "only-1")
}

// As above, and the first look for the job is refused. That is no refusal of the launch.
func TestARefusedLookIsNoRefusalOfALaunchInDoubt(t *testing.T) {
	t.Parallel()
	lose, refuse := once(), once()
	var lost atomic.Bool
	shared.Calls.spoil(t, "flexTemplates.launch", "doubted", func(context.Context, string) error {
		if lose() {
			lost.Store(true)
			return dataflowemulator.ErrNoAnswer
		}
		return nil
	})
	for _, look := range []string{"jobs.list", "jobs.get"} { // by its name, or by the ID that a status event told
		shared.Calls.hold(t, look, "doubted", func(context.Context, string) error {
			if lost.Load() && refuse() {
				return status.Error(codes.PermissionDenied, "The caller does not have permission.")
			}
			return nil
		})
	}
	r := shared.land(t, "doubted")
	job := r.job(t, "only", 1)
	job.done()
	res := r.result(t)
	if a := res.Steps[0].Attempts; res.Outcome != runs.OutcomeSucceeded || len(a) != 1 || a[0].JobID != job.JobID || !a[0].Adopted {
		t.Errorf("the run: %+v", res)
	}
	if refuse() {
		t.Error("no look was refused")
	}
	if n := launches(r, "only", 1); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "refused-look", "only-1")
}

func TestAStepsTimeoutCancelsItsJob(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "timed")
	job := r.job(t, "only", 1)
	res := r.result(t)
	a := res.Steps[0].Attempts[0]
	if res.Outcome != runs.OutcomeFailed || a.Outcome != runs.OutcomeTimedOut || a.State != "JOB_STATE_CANCELLED" || !strings.Contains(a.Error, "1m0s") {
		t.Errorf("the run: %+v", res)
	}
	if got, want := job.asked(), []dataflowemulator.Stop{dataflowemulator.Cancel}; !slices.Equal(got, want) {
		t.Errorf("the job was asked %v, want %v", got, want)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "timed-out", "only-1")
}

func TestCancellingARunCancelsItsJobsAndNamesThem(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "parallel")
	red, green, blue := r.job(t, "red", 1), r.job(t, "green", 1), r.job(t, "blue", 1)
	green.done()
	eventually(t, "green is over", func() bool { return outcomeOf(r.state(t), "green") == runs.OutcomeSucceeded })
	r.cancel(t)
	res := r.result(t)
	if res.Outcome != runs.OutcomeCancelled || res.Error != "the run was cancelled" {
		t.Errorf("the run: %+v", res)
	}
	wantSteps(t, res, map[string]runs.Outcome{
		"red": runs.OutcomeCancelled, "green": runs.OutcomeSucceeded, "blue": runs.OutcomeCancelled, "all": runs.OutcomeSkipped,
	})
	for _, job := range []*heldJob{red, blue} {
		a := attemptOf(t, res, job.Parameters["step"])
		if a.JobID != job.JobID || a.State != "JOB_STATE_CANCELLED" || !slices.Equal(job.asked(), []dataflowemulator.Stop{dataflowemulator.Cancel}) {
			t.Errorf("job %s was asked %v; its attempt: %+v", job.JobID, job.asked(), a)
		}
	}
	r.wantJobs(t, map[string]int{"red": 1, "green": 1, "blue": 1})
	keep(t, r, "cancelled", "red-1")
}

// The cancel comes while the launch is under way: the launch is let through, and its
// job cancelled and named.
func TestCancellingARunDuringALaunch(t *testing.T) {
	t.Parallel()
	launching, proceed := make(chan struct{}), make(chan struct{})
	begin := once()
	shared.Calls.hold(t, "flexTemplates.launch", "early", func(ctx context.Context, _ string) error {
		if begin() {
			close(launching)
		}
		return await(ctx, proceed)
	})
	r := shared.land(t, "early")
	if err := await(t.Context(), launching); err != nil {
		t.Fatalf("no launch was seen: %v", err)
	}
	r.cancel(t)
	eventually(t, "the job's workflow is told to stop", func() bool { return r.signalled(t, "only", runs.SignalStop) })
	close(proceed)
	job := r.job(t, "only", 1)
	res := r.result(t)
	a := attemptOf(t, res, "only")
	if res.Outcome != runs.OutcomeCancelled || a.JobID != job.JobID || a.State != "JOB_STATE_CANCELLED" {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "cancelled-early", "only-1")
}

// The cancel comes during a launch that has no effect: after the horizon it is clear
// that there is no job, and none is launched.
func TestCancellingARunDuringALaunchThatIsLost(t *testing.T) {
	t.Parallel()
	launching, proceed := make(chan struct{}), make(chan struct{})
	begin := once()
	shared.Calls.hold(t, "flexTemplates.launch", "unlaunched", func(ctx context.Context, _ string) error {
		if begin() {
			close(launching)
		}
		if err := await(ctx, proceed); err != nil {
			return err
		}
		return dataflowemulator.ErrNoAnswer
	})
	r := shared.land(t, "unlaunched")
	if err := await(t.Context(), launching); err != nil {
		t.Fatalf("no launch was seen: %v", err)
	}
	r.cancel(t)
	eventually(t, "the job's workflow is told to stop", func() bool { return r.signalled(t, "only", runs.SignalStop) })
	close(proceed)
	res := r.result(t)
	a := attemptOf(t, res, "only")
	if res.Outcome != runs.OutcomeCancelled || a.JobID != "" || !strings.Contains(a.Note, "no job was seen") {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, nil)
	if n := launches(r, "only", 1); n != 1 {
		t.Errorf("%d launches, want 1", n)
	}
	keep(t, r, "cancelled-unlaunched", "only-1")
}

// The job is done before the cancel reaches it: that is a success, and the run says so.
func TestACancelThatComesTooLate(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "late")
	job := r.job(t, "only", 1)
	finish := once()
	shared.Calls.hold(t, "jobs.update", "late", func(ctx context.Context, _ string) error {
		if finish() {
			job.done()
			_, err := shared.Dataflow.Wait(ctx, job.JobID)
			return err
		}
		return nil
	})
	r.cancel(t)
	res := r.result(t)
	a := attemptOf(t, res, "only")
	if a.Outcome != runs.OutcomeSucceeded || a.State != "JOB_STATE_DONE" || !strings.Contains(a.Note, "done before it could be stopped") {
		t.Errorf("the attempt: %+v", a)
	}
	if res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("every step of the run succeeded, and it ends %s: %s", res.Outcome, res.Error)
	}
	keep(t, r, "cancelled-late", "only-1")
}

// Dataflow says that it knows no such job, though it runs: it is asked again, and stopped.
func TestAJobThatIsNotFoundIsStoppedAllTheSame(t *testing.T) {
	t.Parallel()
	deny := once()
	shared.Calls.hold(t, "jobs.get", "unknown", func(context.Context, string) error {
		if deny() {
			return status.Error(codes.NotFound, "The job could not be found. Please ensure that it exists.")
		}
		return nil
	})
	r := shared.land(t, "unknown")
	job := r.job(t, "only", 1)
	eventually(t, "its workflow knows the job", func() bool {
		return count(r.history(t, r.jobWorkflow("only", 1), ""), enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) > 0
	})
	r.cancel(t)
	res := r.result(t)
	a := attemptOf(t, res, "only")
	if res.Outcome != runs.OutcomeCancelled || a.JobID != job.JobID || a.State != "JOB_STATE_CANCELLED" || !job.over() {
		t.Errorf("the job is over: %t; the run: %+v", job.over(), res)
	}
	if n := callsAbout(r, "only", 1, "jobs.get"); n < 2 {
		t.Errorf("the job was looked for %d times, want that it was not found once", n)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "not-found-while-stopped", "only-1")
}

func TestOneOfThreeParallelStepsFails(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "parallel")
	red, green, blue := r.job(t, "red", 1), r.job(t, "green", 1), r.job(t, "blue", 1)
	red.fail("the disk is full")
	res := r.result(t)
	if res.Outcome != runs.OutcomeFailed || !strings.Contains(res.Error, "step red failed") || !strings.Contains(res.Error, "the disk is full") {
		t.Errorf("the run: %+v", res)
	}
	wantSteps(t, res, map[string]runs.Outcome{
		"red": runs.OutcomeFailed, "green": runs.OutcomeCancelled, "blue": runs.OutcomeCancelled, "all": runs.OutcomeSkipped,
	})
	// It waits for what it stops: its jobs are over when it is.
	for _, job := range []*heldJob{green, blue} {
		if a := attemptOf(t, res, job.Parameters["step"]); a.State != "JOB_STATE_CANCELLED" {
			t.Errorf("the attempt: %+v", a)
		}
		job.awaitEnd(t)
	}
	r.wantJobs(t, map[string]int{"red": 1, "green": 1, "blue": 1})
	keep(t, r, "one-of-three-failed", "green-1")
}

// The same attempt goes on in a new workflow, and adopts its job.
func TestAJobsWorkflowIsTerminated(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "one")
	job := r.job(t, "only", 1)
	if err := r.Client.TerminateWorkflow(t.Context(), r.jobWorkflow("only", 1), "", "by a test"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new workflow takes the job up", func() bool {
		return slices.Contains(shared.Calls.of(job.JobName), "jobs.get")
	})
	job.done()
	res := r.result(t)
	if a := attemptOf(t, res, "only"); res.Outcome != runs.OutcomeSucceeded || a.Attempt != 1 || !a.Adopted || a.JobID != job.JobID {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	keep(t, r, "job-workflow-terminated", "only-1")
}

// Nobody is left to wait for the jobs: they are cancelled.
func TestARunIsTerminated(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "parallel")
	jobs := []*heldJob{r.job(t, "red", 1), r.job(t, "green", 1), r.job(t, "blue", 1)}
	if err := r.Client.TerminateWorkflow(t.Context(), r.id, "", "by a test"); err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs {
		wantCancelled(t, r, job)
	}
	keep(t, r, "terminated", "red-1")
}

// wantCancelled waits for the end of a job and of its workflow.
func wantCancelled(t *testing.T, r *run, job *heldJob) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if state, err := r.Dataflow.Wait(ctx, job.JobID); err != nil || state != dataflowpb.JobState_JOB_STATE_CANCELLED {
		t.Fatalf("job %s ends %v (%v), want cancelled", job.JobName, state, err)
	}
	var a runs.JobResult
	id := r.jobWorkflow(job.Parameters["step"], 1)
	if err := r.Client.GetWorkflow(ctx, id, "").Get(ctx, &a); err != nil || a.Outcome != runs.OutcomeCancelled || a.JobID != job.JobID {
		t.Errorf("the job's workflow ends with %+v (%v)", a, err)
	}
}

// once is true the first time.
func once() func() bool {
	var o sync.Once
	return func() (first bool) {
		o.Do(func() { first = true })
		return first
	}
}

// await waits for a channel to close.
func await(ctx context.Context, c <-chan struct{}) error {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-c:
		return nil
	case <-timeout.C:
		return context.DeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (r *run) cancel(t *testing.T) {
	t.Helper()
	if err := r.Client.CancelWorkflow(t.Context(), r.id, ""); err != nil {
		t.Fatal(err)
	}
}

// signalled says whether the workflow of a step's first job has had a signal.
func (r *run) signalled(t *testing.T, step, signal string) bool {
	t.Helper()
	for _, e := range r.history(t, r.jobWorkflow(step, 1), "") {
		if e.GetWorkflowExecutionSignaledEventAttributes().GetSignalName() == signal {
			return true
		}
	}
	return false
}

func stepOf(res runs.RunResult, name string) runs.StepResult {
	for _, s := range res.Steps {
		if s.Name == name {
			return s
		}
	}
	return runs.StepResult{}
}

func outcomeOf(res runs.RunResult, step string) runs.Outcome { return stepOf(res, step).Outcome }

// attemptOf is the last attempt of a step.
func attemptOf(t *testing.T, res runs.RunResult, step string) runs.JobResult {
	t.Helper()
	last, ok := stepOf(res, step).Last()
	if !ok {
		t.Fatalf("step %s has no attempt: %+v", step, res)
	}
	return last
}

func wantSteps(t *testing.T, res runs.RunResult, want map[string]runs.Outcome) {
	t.Helper()
	for step, outcome := range want {
		if got := outcomeOf(res, step); got != outcome {
			t.Errorf("step %s is %s, want %s", step, got, outcome)
		}
	}
}
