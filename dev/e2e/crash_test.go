package e2e_test

import (
	"context"
	"slices"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

// listLag is how long a new job is in no list: longer than the first wait before a
// launch that was not answered is looked for again.
const listLag = 7 * time.Second

// What dies here are processes of a stack that these tests share one after the other.
func TestCrashes(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *stack.Options) {
		o.Memory = false // Temporal dies, too
		configure := o.Dataflow
		o.Dataflow = func(c *dataflowemulator.Config) {
			configure(c)
			c.ListLag = listLag
		}
		o.Env = append(o.Env, "PENSTOCK_SAFETY_INTERVAL=3s", "PENSTOCK_CALL_TIMEOUT=5s")
	})
	kill := func(t *testing.T) {
		t.Helper()
		if err := b.KillWorker(); err != nil {
			t.Fatal(err)
		}
	}
	start := func(t *testing.T) {
		t.Helper()
		if err := b.StartWorker(t.Context()); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("the worker is killed while a job runs", func(t *testing.T) {
		r := b.land(t, "one")
		job := r.job(t, "only", 1)
		kill(t)
		job.done()
		job.awaitEnd(t)
		start(t)
		wantOneJob(t, r, job)
		if n := launches(r, "only", 1); n != 1 {
			t.Errorf("%d launches, want 1", n)
		}
	})

	// The job exists, its ID was told to nobody, and it is over before anybody looks:
	// its name is free again, and only the look by name stands against a second job.
	t.Run("the worker is killed between a launch and its answer", func(t *testing.T) {
		die := once()
		b.Calls.spoil(t, "flexTemplates.launch", "unanswered", func(context.Context, string) error {
			if die() {
				if err := b.KillWorker(); err != nil {
					t.Error(err)
				}
				return dataflowemulator.ErrNoAnswer
			}
			return nil
		})
		r := b.land(t, "unanswered")
		job := r.job(t, "only", 1)
		job.done()
		if _, err := b.Dataflow.Wait(t.Context(), job.JobID); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the worker is dead", func() bool { return b.StartWorker(t.Context()) == nil })
		res := wantOneJob(t, r, job)
		if !attemptOf(t, res, "only").Adopted {
			t.Errorf("the run: %+v", res)
		}
		if n := launches(r, "only", 1); n != 1 {
			t.Errorf("%d launches, want 1", n)
		}
		keep(t, r, "killed-while-launching", "only-1")
	})

	// Nothing but the list says that there is a job, and it says so late.
	t.Run("the answer to a launch and all news of its job are lost", func(t *testing.T) {
		die := once()
		b.Calls.spoil(t, "flexTemplates.launch", "late", func(context.Context, string) error {
			if die() {
				if err := b.KillFunctions(); err != nil {
					t.Error(err)
				}
				return dataflowemulator.ErrNoAnswer
			}
			return nil
		})
		r := b.land(t, "late")
		job := r.job(t, "only", 1)
		job.done()
		res := wantOneJob(t, r, job)
		if !attemptOf(t, res, "only").Adopted {
			t.Errorf("the run: %+v", res)
		}
		if err := b.StartFunctions(t.Context()); err != nil {
			t.Fatal(err)
		}
		keep(t, r, "unanswered-and-unlisted", "only-1")
	})

	// As a deployment does. What is under way has its time, and no more than that.
	t.Run("the worker is stopped during a launch", func(t *testing.T) {
		launching, proceed := make(chan struct{}), make(chan struct{})
		begin := once()
		b.Calls.hold(t, "flexTemplates.launch", "early", func(ctx context.Context, _ string) error {
			if begin() {
				close(launching)
			}
			return await(ctx, proceed)
		})
		r := b.land(t, "early")
		if err := await(t.Context(), launching); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := b.StopWorker(); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("the worker took %v to stop; it is killed after 10 s", took)
		}
		close(proceed)
		start(t)
		job := r.job(t, "only", 1)
		job.done()
		wantOneJob(t, r, job)
	})

	t.Run("the functions are killed and forget what they started", func(t *testing.T) {
		e := finalized(landing, "one/"+t.Name(), 1)
		if _, a := postStorage(t, b, e); len(a.Decisions) != 1 || a.Decisions[0].Outcome != "started" {
			t.Fatalf("the first answer: %+v", a)
		}
		r := b.runOf("one", e.Identity(), e.Storage.Name)
		job := r.job(t, "only", 1)
		job.done()
		wantOneJob(t, r, job)
		if err := b.KillFunctions(); err != nil {
			t.Fatal(err)
		}
		if err := b.StartFunctions(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, a := postStorage(t, b, e); len(a.Decisions) != 1 || a.Decisions[0].Outcome != "duplicate" {
			t.Errorf("the answer after the functions' death: %+v", a)
		}
		r.wantJobs(t, map[string]int{"only": 1})
	})

	// The news of a job's end is lost: the safety timer's look finds it.
	t.Run("the functions are dead when a job ends", func(t *testing.T) {
		r := b.land(t, "one")
		job := r.job(t, "only", 1)
		awaitLaunched(t, r)
		if err := b.KillFunctions(); err != nil {
			t.Fatal(err)
		}
		job.done()
		wantOneJob(t, r, job)
		if !slices.Contains(b.Calls.of(job.JobName), "jobs.get") {
			t.Errorf("the end was not found by a look: %v", b.Calls.of(job.JobName))
		}
		if err := b.StartFunctions(t.Context()); err != nil {
			t.Fatal(err)
		}
		keep(t, r, "found-by-the-safety-timer", "only-1")
	})

	// What was told of the job meanwhile is told again until somebody takes it.
	t.Run("Temporal is killed, and a job ends meanwhile", func(t *testing.T) {
		r := b.land(t, "one")
		job := r.job(t, "only", 1)
		awaitLaunched(t, r)
		if err := b.KillTemporal(); err != nil {
			t.Fatal(err)
		}
		job.done()
		job.awaitEnd(t)
		if err := b.StartTemporal(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantOneJob(t, r, job)
		if n := launches(r, "only", 1); n != 1 {
			t.Errorf("%d launches, want 1", n)
		}
	})

	// The run that is reset no longer knows its job's workflow, which is asked by no
	// close of a parent to end its job, when the run is terminated before it finds it
	// again: its own look at the run is what is left.
	t.Run("a run is reset, and terminated at once", func(t *testing.T) {
		r := b.land(t, "one")
		job := r.job(t, "only", 1)
		awaitLaunched(t, r)
		kill(t)
		r.reset(t, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED)
		if err := b.Client.TerminateWorkflow(t.Context(), r.id, "", "by a test"); err != nil {
			t.Fatal(err)
		}
		start(t)
		wantCancelled(t, r, job)
		keepHistory(t, b, r.jobWorkflow("only", 1), "", "run-closed.only-1")
	})
}

// awaitLaunched waits until the workflow of the run's job knows its job.
func awaitLaunched(t *testing.T, r *run) {
	t.Helper()
	eventually(t, "the job's workflow knows its job", func() bool {
		return count(r.history(t, r.jobWorkflow("only", 1), ""), enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) >= 1
	})
}

// wantOneJob waits for the run to succeed with the one job that it has.
func wantOneJob(t *testing.T, r *run, job *heldJob) runs.RunResult {
	t.Helper()
	res := r.result(t)
	if a := attemptOf(t, res, "only"); res.Outcome != runs.OutcomeSucceeded || a.Attempt != 1 || a.JobID != job.JobID {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	return res
}

// launches counts the launches that reached Dataflow for an attempt.
func launches(r *run, step string, attempt int) int {
	return callsAbout(r, step, attempt, "flexTemplates.launch")
}

// callsAbout is how often a method was called about the job of a step's attempt.
func callsAbout(r *run, step string, attempt int, method string) int {
	n := 0
	for _, m := range r.Calls.of(r.jobName(step, attempt)) {
		if m == method {
			n++
		}
	}
	return n
}
