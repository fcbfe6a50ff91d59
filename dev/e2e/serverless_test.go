package e2e_test

import (
	"context"
	"strings"
	"testing"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/stack"
)

// Temporal's worker controller starts and stops the workers, by their work alone. While a
// job runs there is no work.
func TestServerlessWorkers(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *stack.Options) {
		o.Workers, o.ImageMap = stack.WorkersServerless, ""
		o.Env = append(o.Env, "PENSTOCK_CALL_TIMEOUT=5s")
	})
	rests := func(t *testing.T, when string) {
		t.Helper()
		eventually(t, "no worker process runs "+when, func() bool { return b.Workers.Running() == 0 })
	}

	t.Run("run while there is something to do", func(t *testing.T) {
		rests(t, "before the first event")
		before := b.Workers.Started()
		r := b.land(t, "one")
		job := r.job(t, "only", 1)
		if b.Workers.Started() == before {
			t.Error("the job was launched, and no worker process was started for it")
		}
		job.running()
		awaitLaunched(t, r)
		rests(t, "while the job runs")
		if job.over() {
			t.Fatal("the job is over; nothing ended it")
		}
		before = b.Workers.Started()
		job.done()
		wantOneJob(t, r, job)
		if b.Workers.Started() == before {
			t.Error("the run is over, and no worker process was started when its job's status event came")
		}
		if n := launches(r, "only", 1); n != 1 {
			t.Errorf("%d launches, want 1", n)
		}
	})

	// Temporal looks at queues, not at workers, so that one may go in mid-activity; here it
	// dies at the worst moment: the job exists, and its ID was told to nobody.
	t.Run("leave nothing doubled when they are killed in mid-activity", func(t *testing.T) {
		die := once()
		b.Calls.spoil(t, "flexTemplates.launch", "unanswered", func(context.Context, string) error {
			if die() {
				if err := b.Workers.Kill(); err != nil {
					t.Error(err)
				}
				return dataflowemulator.ErrNoAnswer
			}
			return nil
		})
		r := b.land(t, "unanswered")
		job := r.job(t, "only", 1)
		job.done()
		res := wantOneJob(t, r, job)
		if !attemptOf(t, res, "only").Adopted {
			t.Errorf("the run did not look for the job that its dead worker had launched: %+v", res)
		}
		if n := launches(r, "only", 1); n != 1 {
			t.Errorf("%d launches, want 1", n)
		}
		rests(t, "once the run is over")
		// The names of the SDK's metrics are its own: that they still are what the worker keeps shows here.
		// (An activity that a worker is given with the task that asked for it has not waited for one.)
		if !strings.Contains(b.Logs("worker"), `"taskKind":"workflow"`) {
			t.Error("the workers' log does not say how long workflow tasks waited")
		}
	})
}
