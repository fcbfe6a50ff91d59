package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

var (
	place   = runs.Place{Deployment: deployment, Project: project, Location: location}
	sweepID = runs.SweepWorkflowID(deployment, project, location)
)

// The news of the jobs' ends are lost. However many ask for some, one list answers them.
func TestLostEndsAreFoundByOneList(t *testing.T) {
	t.Parallel()
	b := newBench(t, sweepsSoon)
	var all []*run
	for i := range 12 {
		object := fmt.Sprintf("one/%s/%d", t.Name(), i)
		all = append(all, b.runOf("one", b.upload(t, landing, object, "content\n"), object))
	}
	jobs := make([]*heldJob, len(all))
	for i, r := range all {
		jobs[i] = r.job(t, "only", 1)
		awaitLaunched(t, r)
	}
	if err := b.KillFunctions(); err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs[:6] {
		job.done()
		job.awaitEnd(t)
	}
	before := b.Calls.lists()
	swept := b.sweepFor(t, all, jobs)
	keepHistory(t, b, sweepID, "", "news.sweep")
	if n := b.Calls.lists() - before; n != 1 || swept.Lists != 1 || swept.Asked != len(all) || swept.Suspects != 0 {
		t.Errorf("%d lists; the sweep: %+v", n, swept)
	}
	for i, r := range all[:6] {
		wantOneJob(t, r, jobs[i])
	}
	for i, job := range jobs[6:] {
		if job.over() || len(job.asked()) > 0 {
			t.Errorf("job %d, which runs, was touched", i)
		}
		job.done()
	}
	if err := b.StartFunctions(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, r := range all[6:] {
		wantOneJob(t, r, jobs[6+i])
	}
}

// A job that cannot be looked at comes last, and holds up the news of no other.
func TestASweepStepsOverAJobThatItCannotLookAt(t *testing.T) {
	t.Parallel()
	b := newBench(t, sweepsSoon)
	var all []*run
	var jobs []*heldJob
	for i := range 3 {
		object := fmt.Sprintf("one/%s/%d", t.Name(), i)
		r := b.runOf("one", b.upload(t, landing, object, "content\n"), object)
		all, jobs = append(all, r), append(jobs, r.job(t, "only", 1))
		awaitLaunched(t, r)
	}
	if err := b.KillFunctions(); err != nil {
		t.Fatal(err)
	}
	for _, job := range jobs {
		job.done()
		job.awaitEnd(t)
	}
	var mu sync.Mutex
	var looked []string
	b.Calls.hold(t, "jobs.get", "one", func(_ context.Context, job string) error {
		mu.Lock()
		defer mu.Unlock()
		looked = append(looked, job)
		if len(looked) == 1 {
			return status.Error(codes.Unavailable, "The service is currently unavailable.")
		}
		return nil
	})
	swept := b.sweepFor(t, all, jobs)
	keepHistory(t, b, sweepID, "", "stepped-over.sweep")
	if swept.Looked != 3 || swept.Signalled != 3 || swept.Error != "" || swept.Unseen != 0 {
		t.Errorf("the sweep: %+v", swept)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{jobs[0].JobName, jobs[1].JobName, jobs[2].JobName, jobs[0].JobName}; !slices.Equal(looked, want) {
		t.Errorf("looked at %q, want %q", looked, want)
	}
	for i, r := range all {
		wantOneJob(t, r, jobs[i])
	}
}

// The first job of a place arranges its daily look.
func TestAPlaceHasItsDailyLook(t *testing.T) {
	t.Parallel()
	b := newBench(t, sweepsSoon)
	r := b.land(t, "one")
	r.job(t, "only", 1).done()
	r.result(t)
	daily := b.Client.ScheduleClient().GetHandle(t.Context(), runs.DailySweepID(deployment, project, location))
	d, err := daily.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Schedule.Spec.Intervals) != 1 || d.Schedule.Spec.Intervals[0].Every.Hours() != 24 {
		t.Errorf("the schedule: %+v", d.Schedule.Spec)
	}
	// Nothing is in flight: until that look, nothing of the sweep's was called or started.
	if n := b.Calls.lists(); n != 0 {
		t.Errorf("%d lists without anybody who asked", n)
	}
	if _, err := b.Client.DescribeWorkflowExecution(t.Context(), sweepID, ""); err == nil {
		t.Error("a sweep was started without anybody who asked")
	}
	if err := daily.Trigger(t.Context(), client.ScheduleTriggerOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the daily look has the sweep started", func() bool {
		_, err := b.Client.DescribeWorkflowExecution(t.Context(), sweepID, "")
		return err == nil
	})
	if swept := b.awaitSweep(t); swept.Lists != 1 || swept.Ours != 0 {
		t.Errorf("the sweep: %+v", swept)
	}
	eventually(t, "the daily look is over", func() bool {
		d, err := daily.Describe(t.Context())
		if err != nil || len(d.Info.RecentActions) != 1 || len(d.Info.RunningWorkflows) > 0 {
			return false
		}
		keepHistory(t, b, d.Info.RecentActions[0].StartWorkflowResult.WorkflowID, "", "asked.daily")
		return true
	})
}

// A job whose workflow and run are terminated goes on, and nobody watches it: what is
// set for orphans happens to it. One that is watched is left alone, however often its
// workflow hands over.
func TestOrphans(t *testing.T) {
	t.Parallel()
	b := newBench(t, sweepsSoon)
	for _, rule := range []runs.OrphanRule{runs.OrphansReport, runs.OrphansAdopt, runs.OrphansDrain, runs.OrphansCancel} {
		t.Run(string(rule), func(t *testing.T) {
			healthy := b.land(t, "one")
			watched := healthy.job(t, "only", 1)
			pipeline, step := "late", "only"
			if rule == runs.OrphansDrain {
				pipeline, step = "streaming", "feed"
			}
			r := b.land(t, pipeline)
			job := r.job(t, step, 1)
			if rule == runs.OrphansDrain {
				job.running()
			}
			eventually(t, "the job's workflow knows its job", func() bool {
				return count(r.history(t, r.jobWorkflow(step, 1), ""), enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) >= 1
			})
			own := b.Part("worker")
			if own.Running() {
				if err := own.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			for _, id := range []string{r.jobWorkflow(step, 1), r.id} {
				if err := b.Client.TerminateWorkflow(t.Context(), id, "", "by a test"); err != nil {
					t.Fatal(err)
				}
			}
			other, err := b.AddWorker(t.Context(), "worker-"+string(rule), stack.PartOptions{Env: []string{"PENSTOCK_ORPHANS=" + string(rule)}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := other.Kill(); err != nil {
					t.Error(err)
				}
				if err := own.Start(t.Context()); err != nil {
					t.Error(err)
				}
			}()
			if err := runs.AskForSweep(t.Context(), b.Client, place, runs.SweepAsk{}); err != nil {
				t.Fatal(err)
			}
			first := b.execution(t, sweepID)
			for range 3 {
				// The healthy job's workflow is closed for a moment now and then.
				if err := b.Client.SignalWorkflow(t.Context(), healthy.jobWorkflow("only", 1), "", runs.SignalHandOver, nil); err != nil {
					t.Fatal(err)
				}
				if err := runs.AskForSweep(t.Context(), b.Client, place, runs.SweepAsk{}); err != nil {
					t.Fatal(err)
				}
				before := healthy.execution(t, healthy.jobWorkflow("only", 1))
				eventually(t, "the healthy job's workflow is followed by another", func() bool {
					return healthy.execution(t, healthy.jobWorkflow("only", 1)) != before
				})
			}
			var found []runs.Orphan
			swept := b.sweepOf(t, first)
			for _, o := range slices.Concat(swept.Orphans, b.awaitSweep(t).Orphans) {
				if o.JobID == watched.JobID {
					t.Errorf("the healthy job was taken for an orphan: %+v", o)
				}
				if o.JobID == job.JobID && len(found) == 0 {
					found = append(found, o)
				}
			}
			keepHistory(t, b, sweepID, first, "orphan-"+string(rule)+".sweep")
			if len(found) != 1 || found[0].Done != string(rule) || found[0].RunID != r.id || found[0].Pipeline != pipeline {
				t.Fatalf("the sweep: %+v", swept)
			}
			line := `"finding":"orphan","action":"` + string(rule) + `"`
			if log := b.Logs(other.Name()); !strings.Contains(log, line) || !strings.Contains(log, `"severity":"WARNING"`) {
				t.Errorf("the log lacks %s:\n%s", line, tail(log, 20))
			}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			want := dataflowpb.JobState_JOB_STATE_DONE
			switch rule {
			case runs.OrphansReport:
				if len(job.asked()) > 0 || job.over() {
					t.Error("a job that was only to be reported was touched")
				}
				job.done()
			case runs.OrphansAdopt:
				if _, err := b.Client.DescribeWorkflowExecution(ctx, r.jobWorkflow(step, 1), ""); err != nil {
					t.Error(err)
				}
				job.done()
			case runs.OrphansDrain:
				want = dataflowpb.JobState_JOB_STATE_DRAINED
			case runs.OrphansCancel:
				want = dataflowpb.JobState_JOB_STATE_CANCELLED
			}
			if state, err := b.Dataflow.Wait(ctx, job.JobID); err != nil || state != want {
				t.Fatalf("job %s ends %v (%v), want %v", job.JobName, state, err, want)
			}
			if rule != runs.OrphansReport {
				var res runs.JobResult
				if err := b.Client.GetWorkflow(ctx, r.jobWorkflow(step, 1), "").Get(ctx, &res); err != nil || res.JobID != job.JobID || res.State != want.String() || !res.Adopted {
					t.Errorf("the workflow of the orphan ends with %+v (%v)", res, err)
				}
			}
			if rule == runs.OrphansDrain && !slices.Equal(job.asked(), []dataflowemulator.Stop{dataflowemulator.Drain}) {
				t.Errorf("asked %v", job.asked())
			}
			if len(watched.asked()) > 0 {
				t.Errorf("the healthy job was asked %v", watched.asked())
			}
			watched.done()
			wantOneJob(t, healthy, watched)
		})
	}
}

// sweepsSoon shortens the sweep's waits.
func sweepsSoon(o *stack.Options) {
	o.Env = append(o.Env, "PENSTOCK_ORPHAN_RECHECK=3s", "PENSTOCK_SWEEP_GATHER=2s")
}

// sweepFor has the workflow of each run's job ask for news, which it takes to run still, and
// waits for the end of the sweep.
func (b *bench) sweepFor(t *testing.T, all []*run, jobs []*heldJob) runs.SweepResult {
	t.Helper()
	for i, r := range all {
		ask := runs.SweepAsk{JobID: jobs[i].JobID, JobName: jobs[i].JobName, RunID: r.id, State: "JOB_STATE_RUNNING", Watched: true}
		if err := runs.AskForSweep(t.Context(), b.Client, place, ask); err != nil {
			t.Fatal(err)
		}
	}
	return b.awaitSweep(t)
}

// awaitSweep waits for the end of the open sweep and gives its result.
func (b *bench) awaitSweep(t *testing.T) runs.SweepResult {
	t.Helper()
	return b.sweepOf(t, "")
}

// sweepOf waits for the end of an execution of the sweep; no run ID means the newest.
func (b *bench) sweepOf(t *testing.T, runID string) runs.SweepResult {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var res runs.SweepResult
	if err := b.Client.GetWorkflow(ctx, sweepID, runID).Get(ctx, &res); err != nil {
		t.Fatal(err)
	}
	return res
}

// lists counts the lists of a place's jobs, whatever their names.
func (c *calls) lists() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, m := range c.made {
		if m == (call{Method: "jobs.list"}) {
			n++
		}
	}
	return n
}
