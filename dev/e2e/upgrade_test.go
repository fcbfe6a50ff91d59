package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

// workerDeployment is what Temporal knows both builds of the worker under.
const workerDeployment = "penstock"

// The build IDs of the previous release's worker, of this one's, and of this one's again
// as if it were the next.
const (
	previousBuild = "previous"
	thisBuild     = "this"
	nextBuild     = "next"
)

// A worker of the next release comes: what runs moves to it, whatever it is at. The
// release turns out to be bad, and the one before is made current again: what runs
// moves back, also what the new one began.
func TestRunsMoveToTheCurrentBuild(t *testing.T) {
	t.Parallel()
	u := newUpgrade(t, "auto-upgrade")
	u.serve(t, previousBuild)
	u.makeCurrent(t, previousBuild)
	begunBefore := u.park(t, "before")

	u.serve(t, thisBuild)
	u.makeCurrent(t, thisBuild)
	for _, p := range begunBefore {
		p.wantEnd(t)
		p.wantBy(t, p.all(), previousBuild, thisBuild)
	}

	begunAfter := u.park(t, "after")
	u.makeCurrent(t, previousBuild)
	for _, p := range begunAfter {
		p.wantEnd(t)
		p.wantBy(t, p.all(), thisBuild, previousBuild)
	}
	t.Run("but for what has asked a sweep, which the build before does not know", u.rollBackToBeforeTheSweep)
}

// The workflow of a job that has asked the sweep for news cannot go back to a release
// that has no sweep. One that is pinned beforehand to the build that knows it goes on
// there. The others stand still, their jobs untouched: until that build is current
// again, or until they are terminated, when the run, which did move, looks for the job
// and goes on with it. A sweep stands still as well.
func (u *upgrade) rollBackToBeforeTheSweep(t *testing.T) {
	if commit, err := previousRelease(); err != nil || commit != releaseWithoutSweep {
		t.Fatalf("the previous release is %s (%v): it knows the sweep, and all moves back; take this test away", commit, err)
	}
	u.serve(t, nextBuild, asksOften...)
	u.makeCurrent(t, nextBuild)
	pinned, left, terminated := u.landAs(t, "one", "pinned"), u.landAs(t, "one", "left"), u.landAs(t, "one", "terminated")
	for _, r := range []*run{pinned, left, terminated} {
		r.job(t, "only", 1)
		eventually(t, "the job's workflow has asked for a sweep", func() bool { return u.asked(t, r.jobWorkflow("only", 1)) })
	}
	if _, err := u.Client.UpdateWorkflowExecutionOptions(t.Context(), client.UpdateWorkflowExecutionOptionsRequest{
		WorkflowId: pinned.jobWorkflow("only", 1),
		WorkflowExecutionOptionsChanges: client.WorkflowExecutionOptionsChanges{VersioningOverride: &client.VersioningOverrideChange{
			Value: &client.PinnedVersioningOverride{Version: worker.WorkerDeploymentVersion{DeploymentName: workerDeployment, BuildID: nextBuild}},
		}},
	}); err != nil {
		t.Fatal(err)
	}
	u.makeCurrent(t, previousBuild)

	ends := func(r *run, adopted bool) {
		t.Helper()
		job := r.job(t, "only", 1)
		job.done()
		if res := wantOneJob(t, r, job); attemptOf(t, res, "only").Adopted != adopted {
			t.Errorf("the run of %s: %+v, want its job adopted: %t", r.object, res, adopted)
		}
	}
	ends(pinned, false)
	for _, r := range []*run{left, terminated} {
		u.awaitStuck(t, r.jobWorkflow("only", 1))
	}
	if err := u.Client.TerminateWorkflow(t.Context(), terminated.jobWorkflow("only", 1), "", "by a test"); err != nil {
		t.Fatal(err)
	}
	ends(terminated, true)
	if err := runs.AskForSweep(t.Context(), u.Client, runs.Place{Deployment: deployment, Project: project, Location: location}, runs.SweepAsk{}); err != nil {
		t.Fatal(err)
	}
	sweep := runs.SweepWorkflowID(deployment, project, location)
	u.awaitStuck(t, sweep)

	u.makeCurrent(t, nextBuild)
	ends(left, false)
	eventually(t, "the sweep ends", func() bool {
		d, err := u.Client.DescribeWorkflowExecution(t.Context(), sweep, "")
		return err == nil && d.GetWorkflowExecutionInfo().GetStatus() == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	})
}

// releaseWithoutSweep is the last release whose workers do not know the sweep.
const releaseWithoutSweep = "375de72e5846ec1b34b7e7023970a42af00a911f"

// asksOften has runs that begin at a worker ask for a sweep every second.
var asksOften = []string{"PENSTOCK_SAFETY_INTERVAL=1s", "PENSTOCK_SWEEP_GATHER=1s"}

// asked says whether a job's workflow has asked for a sweep.
func (u *upgrade) asked(t *testing.T, workflowID string) bool {
	t.Helper()
	events := u.history(t, workflowID, "")
	for _, e := range events {
		done := e.GetActivityTaskCompletedEventAttributes()
		if done != nil && events[done.ScheduledEventId-1].GetActivityTaskScheduledEventAttributes().GetActivityType().GetName() == "AskForSweep" {
			return true
		}
	}
	return false
}

// awaitStuck waits until a worker says that it cannot go on with a workflow.
func (u *upgrade) awaitStuck(t *testing.T, workflowID string) {
	t.Helper()
	eventually(t, "a worker cannot go on with "+workflowID, func() bool {
		return count(u.history(t, workflowID, ""), enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED) > 0
	})
}

// Runs end on the build that they began on, while another takes the new ones; only
// what streams, and may do so for months, moves. Once nothing is pinned to a build, its
// worker can go.
func TestPinnedRunsEndOnTheBuildThatTheyBeganOn(t *testing.T) {
	t.Parallel()
	u := newUpgrade(t, "pinned")
	u.serve(t, previousBuild)
	u.makeCurrent(t, previousBuild)
	begunBefore := u.park(t, "before")

	u.serve(t, thisBuild)
	u.makeCurrent(t, thisBuild)
	begunAfter := u.park(t, "after")
	if n := u.pinnedTo(t, previousBuild); n == 0 {
		t.Error("Temporal says that nothing is pinned to the build that it began on")
	}
	commit, err := previousRelease()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range begunBefore {
		p.wantEnd(t)
		if commit == releaseWithoutPinnedRuns {
			p.moves = append(p.moves, p.id)
		}
		p.wantBy(t, p.stays(), previousBuild)
		p.wantBy(t, p.moves, previousBuild, thisBuild)
	}
	eventually(t, "nothing is pinned to the old build", func() bool { return u.pinnedTo(t, previousBuild) == 0 })
	u.retire(t, previousBuild)

	u.serve(t, nextBuild)
	u.makeCurrent(t, nextBuild)
	begunLast := u.park(t, "last")
	for _, p := range begunAfter {
		p.wantEnd(t)
		p.wantBy(t, p.stays(), thisBuild)
		p.wantBy(t, p.moves, thisBuild, nextBuild)
	}

	// Back again: what the bad build began, ends there.
	u.makeCurrent(t, thisBuild)
	for _, p := range begunLast {
		p.wantEnd(t)
		p.wantBy(t, p.stays(), nextBuild)
		p.wantBy(t, p.moves, nextBuild, thisBuild)
	}
}

// releaseWithoutPinnedRuns is a release whose pinned workers pinned the workflows of
// jobs alone: its runs moved.
const releaseWithoutPinnedRuns = "375de72e5846ec1b34b7e7023970a42af00a911f"

// Workers without a version take whatever comes, each build: a rolling restart, and
// back again.
func TestUnversionedBuildsShareATaskQueue(t *testing.T) {
	t.Parallel()
	u := newUpgrade(t, "")
	u.serve(t, previousBuild)
	begunBefore := u.park(t, "before")

	u.serve(t, thisBuild)
	begunBeside := u.park(t, "beside")
	u.retire(t, previousBuild)
	for _, p := range begunBefore {
		p.wantEnd(t)
		p.wantFromTo(t, previousBuild, thisBuild)
	}

	begunAfter := u.park(t, "after")
	u.serve(t, previousBuild)
	u.retire(t, thisBuild)
	for _, p := range begunAfter {
		p.wantEnd(t)
		p.wantFromTo(t, thisBuild, previousBuild)
	}
	for _, p := range begunBeside {
		p.wantEnd(t)
	}

	// Sweeps are unknown to the previous release's worker, which gets their tasks, and
	// those of who asked for them, as often as the other: that tries its patience only.
	u.serve(t, nextBuild, asksOften...)
	var asking []*run
	for i := range 6 {
		r := u.landAs(t, "one", fmt.Sprintf("asking-%d", i))
		r.job(t, "only", 1)
		asking = append(asking, r)
	}
	eventually(t, "a job's workflow has asked for a sweep", func() bool {
		return slices.ContainsFunc(asking, func(r *run) bool { return u.asked(t, r.jobWorkflow("only", 1)) })
	})
	for _, r := range asking {
		job := r.job(t, "only", 1)
		job.done()
		wantOneJob(t, r, job)
	}
}

// upgrade is a stack whose worker is served by two builds.
type upgrade struct {
	*bench
	versioning string // PENSTOCK_VERSIONING; empty: the workers have no version
	workers    map[string]*stack.Part

	mu   sync.Mutex
	held map[string]bool // the calls that are held or were, by method and job
}

func newUpgrade(t *testing.T, versioning string) *upgrade {
	t.Helper()
	b := newBench(t, func(o *stack.Options) {
		o.WithoutWorker, o.ImageMap = true, ""
		if versioning != "" {
			// What is held is to outlast the change of builds, both of which stay.
			o.Env = append(o.Env, "PENSTOCK_CALL_TIMEOUT=30s")
		} else {
			// What is held ends with its worker, and is to be tried again soon.
			o.Env = append(o.Env, "PENSTOCK_CALL_TIMEOUT=5s")
		}
		one, err := os.ReadFile(filepath.Join(o.Pipelines, "one.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		patient := strings.NewReplacer("name: one\n", "name: patient\n", `"one/**"`, `"patient/**"`).Replace(string(one)) +
			"    retry: {attempts: 2, backoff: 8s}\n"
		if err := os.WriteFile(filepath.Join(o.Pipelines, "patient.yaml"), []byte(patient), 0o644); err != nil {
			t.Fatal(err)
		}
	})
	return &upgrade{bench: b, versioning: versioning, workers: map[string]*stack.Part{}, held: map[string]bool{}}
}

// serve starts a worker of the build, beside those that serve already.
func (u *upgrade) serve(t *testing.T, build string, env ...string) {
	t.Helper()
	env = append([]string{"K_REVISION=" + build}, env...) // stands in histories
	if u.versioning != "" {
		env = append(env, "TEMPORAL_DEPLOYMENT_NAME="+workerDeployment, "TEMPORAL_WORKER_BUILD_ID="+build, "PENSTOCK_VERSIONING="+u.versioning)
	}
	binary := ""
	if build == previousBuild {
		var err error
		if binary, err = previous.worker(); err != nil {
			t.Fatal(err)
		}
	}
	if worker := u.workers[build]; worker != nil {
		if err := worker.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		return
	}
	worker, err := u.AddWorker(t.Context(), "worker-"+build, stack.PartOptions{Binary: binary, Env: env})
	if err != nil {
		t.Fatal(err)
	}
	u.workers[build] = worker
}

// retire stops the build's worker, as a deployment does.
func (u *upgrade) retire(t *testing.T, build string) {
	t.Helper()
	if err := u.workers[build].Stop(); err != nil {
		t.Fatal(err)
	}
}

// makeCurrent waits until the build polls, and gives it what is new and what may move.
func (u *upgrade) makeCurrent(t *testing.T, build string) {
	t.Helper()
	handle := u.Client.WorkerDeploymentClient().GetHandle(workerDeployment)
	eventually(t, "build "+build+" can be made current", func() bool {
		_, err := handle.SetCurrentVersion(t.Context(), client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build})
		return err == nil
	})
	// Queues hear of it a little later.
	for _, kind := range []enumspb.TaskQueueType{enumspb.TASK_QUEUE_TYPE_WORKFLOW, enumspb.TASK_QUEUE_TYPE_ACTIVITY} {
		eventually(t, fmt.Sprintf("the %v task queue knows that build %s is current", kind, build), func() bool {
			d, err := u.Client.WorkflowService().DescribeTaskQueue(t.Context(), &workflowservice.DescribeTaskQueueRequest{
				Namespace: u.Addresses.Namespace, TaskQueue: &taskqueuepb.TaskQueue{Name: runs.TaskQueue(deployment)}, TaskQueueType: kind,
			})
			return err == nil && d.GetVersioningInfo().GetCurrentDeploymentVersion().GetBuildId() == build
		})
	}
}

// pinnedTo counts the open workflows that only the build can go on with.
func (u *upgrade) pinnedTo(t *testing.T, build string) int64 {
	t.Helper()
	c, err := u.Client.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{
		Query: fmt.Sprintf("ExecutionStatus = 'Running' AND TemporalWorkflowVersioningBehavior = 'Pinned' AND TemporalWorkerDeploymentVersion = '%s:%s'", workerDeployment, build),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c.Count
}

// parked is a run that is in the middle of something.
type parked struct {
	*run
	what   string   // it is doing
	open   []string // its jobs' workflows that are in the middle of it
	moves  []string // those workflows, also the run's own, that no worker can pin
	finish func(*testing.T)
	want   runs.Outcome
	jobs   map[string]int
}

// all are the workflows that are in the middle of something.
func (p *parked) all() []string { return append([]string{p.id}, p.open...) }

// stays are those that a pinned worker keeps.
func (p *parked) stays() []string {
	return slices.DeleteFunc(p.all(), func(id string) bool { return slices.Contains(p.moves, id) })
}

// park starts runs and has each get to another point. Their objects' names hold when.
func (u *upgrade) park(t *testing.T, when string) []*parked {
	t.Helper()
	land := func(pipeline string) *run { return u.landAs(t, pipeline, when) }
	only := map[string]int{"only": 1}
	var all []*parked

	patient := land("patient")
	patient.job(t, "only", 1).fail("no rows")
	all = append(all, &parked{
		run: patient, what: "waits before it tries again", want: runs.OutcomeSucceeded, jobs: map[string]int{"only": 2},
		finish: func(t *testing.T) { patient.job(t, "only", 2).done() },
	})

	one := land("one")
	job := one.job(t, "only", 1)
	all = append(all, &parked{
		run: one, what: "waits for its job", open: []string{one.jobWorkflow("only", 1)}, want: runs.OutcomeSucceeded, jobs: only,
		finish: func(*testing.T) { job.done() },
	})

	parallel := land("parallel")
	red, green, blue := parallel.job(t, "red", 1), parallel.job(t, "green", 1), parallel.job(t, "blue", 1)
	red.done()
	all = append(all, &parked{
		run: parallel, what: "has done one step of four", open: []string{parallel.jobWorkflow("green", 1), parallel.jobWorkflow("blue", 1)},
		want: runs.OutcomeSucceeded, jobs: map[string]int{"red": 1, "green": 1, "blue": 1, "all": 1},
		finish: func(t *testing.T) {
			green.done()
			blue.done()
			last := parallel.job(t, "all", 1)
			if last.Parameters["from"] != red.JobID {
				t.Errorf("the last step was told of job %q, want %s, which another build saw end", last.Parameters["from"], red.JobID)
			}
			last.done()
		},
	})

	kept := land("kept")
	claimed := kept.job(t, "only", 1)
	all = append(all, &parked{
		run: kept, what: "has claimed its key", open: []string{kept.jobWorkflow("only", 1)}, want: runs.OutcomeSucceeded, jobs: only,
		finish: func(*testing.T) { claimed.done() },
	})

	launching := u.hold(t, "flexTemplates.launch", "early")
	early := land("early")
	launching.await(t)
	all = append(all, &parked{
		run: early, what: "is launching its job", open: []string{early.jobWorkflow("only", 1)}, want: runs.OutcomeSucceeded, jobs: only,
		finish: func(t *testing.T) {
			launching.release()
			early.job(t, "only", 1).done()
		},
	})

	cancelling := u.hold(t, "jobs.update", "late")
	late := land("late")
	late.job(t, "only", 1)
	late.cancel(t)
	cancelling.await(t)
	all = append(all, &parked{
		run: late, what: "is cancelling its job", open: []string{late.jobWorkflow("only", 1)}, want: runs.OutcomeCancelled, jobs: only,
		finish: func(*testing.T) { cancelling.release() },
	})

	streaming := land("streaming")
	streaming.job(t, "feed", 1).running()
	read := streaming.job(t, "read", 1)
	all = append(all, &parked{
		run: streaming, what: "streams", open: []string{streaming.jobWorkflow("feed", 1), streaming.jobWorkflow("read", 1)},
		moves: []string{streaming.id, streaming.jobWorkflow("feed", 1)},
		want:  runs.OutcomeCancelled, jobs: map[string]int{"feed": 1, "read": 1},
		finish: func(t *testing.T) {
			read.done()
			eventually(t, "the reading step is over", func() bool { return outcomeOf(streaming.state(t), "read") == runs.OutcomeSucceeded })
			streaming.cancel(t)
		},
	})

	for _, p := range all {
		eventually(t, "nothing is under way of the run that "+p.what, func() bool {
			for _, id := range p.all() {
				if !settled(u.history(t, id, "")) {
					return false
				}
			}
			return true
		})
	}
	return all
}

// landAs is land with a name of its own for the object.
func (b *bench) landAs(t *testing.T, pipeline, name string) *run {
	t.Helper()
	object := pipeline + "/" + name
	return b.runOf(pipeline, b.upload(t, landing, object, "content\n"), object)
}

// heldCall is a call about one job, which waits until it is released, however often it is made.
type heldCall struct {
	began, proceed chan struct{}
	job            string // empty before it began
}

// hold holds the calls of a method about the next of a pipeline's jobs that nothing holds yet.
func (u *upgrade) hold(t *testing.T, method, pipeline string) *heldCall {
	t.Helper()
	h := &heldCall{began: make(chan struct{}), proceed: make(chan struct{})}
	u.Calls.hold(t, method, pipeline, func(ctx context.Context, job string) error {
		u.mu.Lock()
		if h.job == "" && !u.held[method+" "+job] {
			h.job, u.held[method+" "+job] = job, true
			close(h.began)
		}
		mine := h.job == job
		u.mu.Unlock()
		if !mine {
			return nil
		}
		return await(ctx, h.proceed)
	})
	return h
}

func (h *heldCall) await(t *testing.T) {
	t.Helper()
	if err := await(t.Context(), h.began); err != nil {
		t.Fatalf("the call that is to be held was not made: %v", err)
	}
}

func (h *heldCall) release() { close(h.proceed) }

// wantEnd lets the run end, and wants it to end well.
func (p *parked) wantEnd(t *testing.T) {
	t.Helper()
	p.finish(t)
	eventually(t, "the run that "+p.what+" ends", func() bool {
		for _, id := range p.all() {
			for _, e := range p.history(t, id, "") {
				if e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED {
					t.Fatalf("a worker cannot go on with the run that %s, in %s: %v", p.what, id, e.GetWorkflowTaskFailedEventAttributes())
				}
			}
		}
		d, err := p.Client.DescribeWorkflowExecution(t.Context(), p.id, "")
		return err == nil && d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	})
	if res := p.result(t); res.Outcome != p.want {
		t.Errorf("the run that %s is %s: %+v, want %s", p.what, res.Outcome, res, p.want)
	}
	p.wantJobs(t, p.jobs)
}

// wantBy wants these workflows of the run to have been carried on by these builds, one
// after the other.
func (p *parked) wantBy(t *testing.T, workflowIDs []string, want ...string) {
	t.Helper()
	for _, id := range workflowIDs {
		if got := p.builds(t, id); !slices.Equal(got, want) {
			t.Errorf("%s, of the run that %s, was carried on by the builds %v, want %v", id, p.what, got, want)
		}
	}
}

// wantFromTo wants all that was open of the run to have been begun by one build and
// ended by the other.
func (p *parked) wantFromTo(t *testing.T, from, to string) {
	t.Helper()
	for _, id := range p.all() {
		if got := p.builds(t, id); len(got) == 0 || got[0] != from || got[len(got)-1] != to {
			t.Errorf("%s, of the run that %s, was carried on by the builds %v, want first %s and last %s", id, p.what, got, from, to)
		}
	}
}

// builds are the builds whose workers did a workflow's tasks, in turn.
func (b *bench) builds(t *testing.T, workflowID string) []string {
	t.Helper()
	var all []string
	for _, e := range b.history(t, workflowID, "") {
		done := e.GetWorkflowTaskCompletedEventAttributes()
		if done == nil {
			continue
		}
		_, build, _ := strings.Cut(done.GetIdentity(), "@")
		if v := done.GetDeploymentVersion(); v != nil && v.BuildId != build {
			t.Errorf("build %s did a task of %s as version %s", build, workflowID, v.BuildId)
		}
		all = append(all, build)
	}
	return slices.Compact(all)
}
