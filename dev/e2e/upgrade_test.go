package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

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
}

// upgrade is a stack whose worker is served by two builds.
type upgrade struct {
	*bench
	versioning string // PENSTOCK_VERSIONING; empty: the workers have no version
	workers    map[string]*stack.Part
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
	return &upgrade{bench: b, versioning: versioning, workers: map[string]*stack.Part{}}
}

// serve starts a worker of the build, beside those that serve already.
func (u *upgrade) serve(t *testing.T, build string) {
	t.Helper()
	env := []string{"K_REVISION=" + build} // stands in histories
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
	var last error
	eventually(t, "build "+build+" is made current", func() bool {
		_, last = handle.SetCurrentVersion(t.Context(), client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build})
		return last == nil
	})
	eventually(t, "every task queue knows that build "+build+" is current", func() bool {
		d, err := u.Client.WorkflowService().DescribeWorkerDeployment(t.Context(), &workflowservice.DescribeWorkerDeploymentRequest{
			Namespace: u.Addresses.Namespace, DeploymentName: workerDeployment,
		})
		info := d.GetWorkerDeploymentInfo()
		return err == nil && info.GetRoutingConfig().GetCurrentDeploymentVersion().GetBuildId() == build &&
			info.GetRoutingConfigUpdateState() == enumspb.ROUTING_CONFIG_UPDATE_STATE_COMPLETED
	})
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
	land := func(pipeline string) *run {
		object := pipeline + "/" + when
		return u.runOf(pipeline, u.upload(t, landing, object, "content\n"), object)
	}
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

	launching := u.holdOnce(t, "flexTemplates.launch", "early")
	early := land("early")
	launching.await(t)
	all = append(all, &parked{
		run: early, what: "is launching its job", open: []string{early.jobWorkflow("only", 1)}, want: runs.OutcomeSucceeded, jobs: only,
		finish: func(t *testing.T) {
			launching.release()
			early.job(t, "only", 1).done()
		},
	})

	cancelling := u.holdOnce(t, "jobs.update", "late")
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

// heldCall is a call that waits until it is released.
type heldCall struct{ began, proceed chan struct{} }

// holdOnce holds the next call of a method about a pipeline's jobs.
func (b *bench) holdOnce(t *testing.T, method, pipeline string) *heldCall {
	t.Helper()
	h := &heldCall{began: make(chan struct{}), proceed: make(chan struct{})}
	first := once()
	b.Calls.hold(t, method, pipeline, func(ctx context.Context) error {
		if !first() {
			return nil
		}
		close(h.began)
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
