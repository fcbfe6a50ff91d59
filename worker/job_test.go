package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/testsuite"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

const (
	project   = "acme"
	location  = "us-central1"
	namespace = "7c2b2f0e-0000-4000-8000-000000000001"
)

// bundle is one Temporal test environment with the worker's workflows and activities
// in it, on top of a Dataflow of its own. Its clock jumps over waits.
type bundle struct {
	*testsuite.TestWorkflowEnvironment
	dataflow *service
	temporal *executions
	begun    time.Time
}

func setup(t *testing.T) *bundle {
	t.Helper()
	return setupWith(t, func(*worker.Workflows, *worker.Activities) {})
}

// setupWith lets change the worker before it is registered.
func setupWith(t *testing.T, change func(*worker.Workflows, *worker.Activities)) *bundle {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.SetTestTimeout(30 * time.Second)
	env.SetWorkerOptions(sdkworker.Options{DeadlockDetectionTimeout: time.Minute}) // on a busy machine
	// Not the time of day: safety timers meet on the quarter of an hour, so that waits depend on it.
	env.SetStartTime(time.Date(2026, 11, 22, 6, 1, 7, 0, time.UTC))
	w, err := worker.New(worker.Timing{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b := &bundle{
		TestWorkflowEnvironment: env,
		dataflow:                &service{now: env.Now},
		temporal:                &executions{},
		begun:                   env.Now(),
	}
	activities := &worker.Activities{
		Dataflow: b.dataflow, Temporal: b.temporal,
		NamespaceID: func(context.Context) (string, error) { return namespace, nil },
	}
	change(w, activities)
	worker.Register(env, w, activities)
	return b
}

// jobInput is an attempt whose job name nobody used before.
func jobInput() runs.JobInput {
	return runs.JobInput{
		Version: runs.RecordVersion, Deployment: "dev", Pipeline: "orders", RunID: "dev/orders/k", Key: "k",
		Step: "load", Attempt: 1, Project: project, Location: location,
		JobName: runs.JobName("dev", "orders", "k", "load", 1),
		Job:     pipeline.Job{Template: "gs://templates/load.json", Parameters: map[string]string{"input": "gs://b/o"}},
		First:   true, Timeout: 24 * time.Hour,
	}
}

// status signals a state of a job the given time after the workflow's start.
func (b *bundle) status(after time.Duration, id string, state dataflow.State, at time.Duration) {
	b.RegisterDelayedCallback(func() {
		b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: id, State: string(state), StateTime: b.begun.Add(at)})
	}, after)
}

// ends lets a job come to an end, and its event arrive, the given time after the start.
func (b *bundle) ends(after time.Duration, id string, state dataflow.State) {
	b.RegisterDelayedCallback(func() {
		b.dataflow.mu.Lock()
		b.dataflow.set(b.dataflow.job(id), state)
		b.dataflow.mu.Unlock()
		b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: id, State: string(state), StateTime: b.Now()})
	}, after)
}

func (b *bundle) runJob(t *testing.T, in runs.JobInput) runs.JobResult {
	t.Helper()
	in.Begun = b.begun
	b.ExecuteWorkflow(runs.TypeJob, in)
	if !b.IsWorkflowCompleted() {
		t.Fatal("the workflow did not complete")
	}
	if err := b.GetWorkflowError(); err != nil {
		t.Fatal(err)
	}
	var r runs.JobResult
	if err := b.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// goesOnWith reads the input of the new history that the workflow has to go on in.
func (b *bundle) goesOnWith(t *testing.T, in any) {
	t.Helper()
	var again *workflow.ContinueAsNewError
	if !errors.As(b.GetWorkflowError(), &again) {
		t.Fatalf("ended with %v", b.GetWorkflowError())
	}
	if err := converter.GetDefaultDataConverter().FromPayloads(again.Input, in); err != nil {
		t.Fatal(err)
	}
}

func (b *bundle) calls(t *testing.T, want map[string]int) {
	t.Helper()
	for call, n := range want {
		if got := b.dataflow.count(call); got != n {
			t.Errorf("%d calls of %s, want %d; calls: %v", got, call, n, b.dataflow.calls)
		}
	}
}

func check(t *testing.T, r runs.JobResult, want runs.Outcome, jobID string) {
	t.Helper()
	if r.Outcome != want || r.JobID != jobID {
		t.Errorf("outcome %s of job %q, want %s of %q (error %q, note %q)", r.Outcome, r.JobID, want, jobID, r.Error, r.Note)
	}
}

// A job that goes well costs a look, a launch and a read of its metrics.
func TestAJobThatGoesWellCostsThreeCalls(t *testing.T) {
	b := setup(t)
	b.dataflow.metrics = map[string]int64{"rows": 12}
	b.status(10*time.Second, "job-1", dataflow.StateRunning, 10*time.Second)
	b.ends(20*time.Minute, "job-1", dataflow.StateDone)
	r := b.runJob(t, jobInput())
	check(t, r, runs.OutcomeSucceeded, "job-1")
	if r.Metrics["rows"] != 12 || r.Parameters["input"] != "gs://b/o" || r.Adopted {
		t.Errorf("result %+v", r)
	}
	if len(b.dataflow.calls) != 3 {
		t.Errorf("calls %v, want find, launch, metrics", b.dataflow.calls)
	}
	job := b.dataflow.jobs[0]
	for label, want := range map[string]string{
		runs.LabelDeployment: runs.DeploymentLabel("dev", namespace),
		runs.LabelPipeline:   "orders",
		runs.LabelRun:        runs.RunLabel("dev/orders/k"),
	} {
		if job.Labels[label] != want {
			t.Errorf("label %s is %q, want %q", label, job.Labels[label], want)
		}
	}
	if job.Labels[runs.LabelSpec] == "" {
		t.Error("the job has no spec label")
	}
}

// While a job runs without news, one timer is all that is alive, and one look an hour.
func TestALostEndIsFoundByTheSafetyTimer(t *testing.T) {
	b := setup(t)
	b.RegisterDelayedCallback(func() {
		b.dataflow.mu.Lock()
		defer b.dataflow.mu.Unlock()
		b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateDone)
	}, 150*time.Minute)
	r := b.runJob(t, jobInput())
	check(t, r, runs.OutcomeSucceeded, "job-1")
	b.calls(t, map[string]int{"get": 3, "launch": 1})
}

func TestALaunchWhoseAnswerIsLostIsNotRepeated(t *testing.T) {
	for name, tc := range map[string]struct {
		arrange func(b *bundle)
		finds   int
	}{
		"the job shows up in the list":                   {func(*bundle) {}, 2},
		"the list lags behind":                           {func(b *bundle) { b.dataflow.lag = 3 }, 5},
		"the job is over before the next look":           {func(b *bundle) { b.dataflow.launched = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateDone) } }, 2},
		"the status event names it before any list does": {func(b *bundle) { b.dataflow.lag = 100; b.status(time.Second, "job-1", dataflow.StatePending, 0) }, 1},
		"a status event of another's job under our name": {func(b *bundle) { b.status(time.Second, "job-x", dataflow.StatePending, 0) }, 2},
		"an answer of 409 that does not name the job": {func(b *bundle) {
			b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindAlreadyExists, "active") }
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.lost = true
			b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "reset by peer") }
			tc.arrange(b)
			b.ends(time.Hour, "job-1", dataflow.StateDone)
			r := b.runJob(t, jobInput())
			check(t, r, runs.OutcomeSucceeded, "job-1")
			b.calls(t, map[string]int{"launch": 1})
			if !r.Adopted {
				t.Error("the job was adopted, and the result does not say so")
			}
		})
	}
}

// News that name a job nobody can look at do not make the look a rush.
func TestAHintIsNotPursuedFasterThanTroubleAllows(t *testing.T) {
	b := setup(t)
	b.dataflow.lost = true
	b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "reset by peer") }
	b.dataflow.onGet = func(n int, _ string) error {
		if n < 200 && b.Now().Sub(b.begun) < 20*time.Minute {
			return refusal(dataflow.KindTransient, "503")
		}
		return nil
	}
	b.status(time.Second, "job-1", dataflow.StatePending, 0)
	b.ends(time.Hour, "job-1", dataflow.StateDone)
	check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
	b.calls(t, map[string]int{"launch": 1})
	if n := b.dataflow.count("get"); n > 40 {
		t.Errorf("%d looks in 20 minutes of trouble", n)
	}
}

// A job's workflow that goes on in a new history forgets nothing that it must not.
func TestAJobGoesOnInANewHistory(t *testing.T) {
	renewed := func(t *testing.T, b *bundle, in runs.JobInput) runs.JobInput {
		t.Helper()
		in.Begun = b.begun
		b.ExecuteWorkflow(runs.TypeJob, in)
		b.goesOnWith(t, &in)
		return in
	}
	// goesOn executes the new history, with the jobs that the old one left.
	goesOn := func(t *testing.T, old *bundle, in runs.JobInput, arrange func(b *bundle)) (*bundle, runs.JobResult) {
		t.Helper()
		b := setup(t)
		b.SetStartTime(old.Now())
		b.begun = in.Begun
		b.dataflow.jobs, b.dataflow.stopped = old.dataflow.jobs, old.dataflow.stopped
		arrange(b)
		return b, b.runJob(t, in)
	}
	full := func(b *bundle, after time.Duration) {
		b.RegisterDelayedCallback(func() {
			b.SetContinueAsNewSuggested(true)
			b.status(0, "job-9", dataflow.StateRunning, 0) // whatever wakes it
		}, after)
	}

	t.Run("not that a launch was not answered", func(t *testing.T) {
		b := setup(t)
		b.dataflow.lost, b.dataflow.lag = true, 3
		b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "reset by peer") }
		full(b, 2*time.Second)
		in := renewed(t, b, jobInput())
		if in.First {
			t.Error("the name is taken to be new")
		}
		again, r := goesOn(t, b, in, func(b *bundle) {
			b.dataflow.lag = 2
			b.ends(time.Hour, "job-1", dataflow.StateDone)
		})
		check(t, r, runs.OutcomeSucceeded, "job-1")
		again.calls(t, map[string]int{"launch": 0})
	})
	t.Run("not what the news named", func(t *testing.T) {
		b := setup(t)
		b.dataflow.lost = true
		b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "reset by peer") }
		b.dataflow.onGet = func(int, string) error { return refusal(dataflow.KindTransient, "503") }
		b.status(time.Second, "job-1", dataflow.StatePending, 0)
		full(b, time.Minute)
		in := renewed(t, b, jobInput())
		if in.Resume == nil || !slices.Contains(in.Resume.Hints, "job-1") {
			t.Fatalf("goes on with %+v", in.Resume)
		}
		again, r := goesOn(t, b, in, func(b *bundle) {
			b.dataflow.lag = 1000 // so that nothing but the news tells of the job
			b.ends(time.Hour, "job-1", dataflow.StateDone)
		})
		check(t, r, runs.OutcomeSucceeded, "job-1")
		again.calls(t, map[string]int{"launch": 0})
	})
	t.Run("not that its job is being stopped, and since when", func(t *testing.T) {
		b := setup(t)
		b.dataflow.stopped = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateCancelling) }
		b.RegisterDelayedCallback(func() { b.SignalWorkflow(runs.SignalStop, runs.Stop{Reason: runs.StopCancelled}) }, time.Minute)
		full(b, 20*time.Minute)
		in := renewed(t, b, jobInput())
		b.calls(t, map[string]int{"cancel": 1, "force": 0})
		again, r := goesOn(t, b, in, func(b *bundle) {
			b.RegisterDelayedCallback(func() {
				if b.dataflow.count("force") == 0 {
					t.Error("not forced half an hour after the first cancel")
				}
			}, 20*time.Minute)
			b.ends(30*time.Minute, "job-1", dataflow.StateCancelled)
		})
		check(t, r, runs.OutcomeCancelled, "job-1")
		again.calls(t, map[string]int{"cancel": 1, "force": 1}) // the forced one alone
	})
}

// Only after the horizon is a launch that nobody answered taken not to have happened.
func TestALaunchThatWasLostIsRepeatedAfterTheHorizon(t *testing.T) {
	b := setup(t)
	var again time.Time
	b.dataflow.onLaunch = func(n int, _ dataflow.Launch) error {
		if n == 1 {
			return refusal(dataflow.KindUnanswered, "reset by peer")
		}
		again = b.Now()
		return nil
	}
	b.ends(time.Hour, "job-1", dataflow.StateDone)
	check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
	b.calls(t, map[string]int{"launch": 2})
	if waited := again.Sub(b.begun); waited < 2*time.Minute || waited > 4*time.Minute {
		t.Errorf("launched again after %v, want the horizon of 2 minutes and the call's 30 seconds", waited)
	}
}

func TestATakenNameIsLookedAtBeforeAnythingIsLaunched(t *testing.T) {
	label := runs.DeploymentLabel("dev", namespace)
	in := jobInput()
	spec := dataflow.Launch{Template: in.Job.Template, Parameters: in.Job.Parameters}.SpecHash()
	for name, tc := range map[string]struct {
		labels  map[string]string
		state   dataflow.State
		outcome runs.Outcome
		refusal string
		says    string
	}{
		"our finished job is this attempt's": {map[string]string{runs.LabelDeployment: label, runs.LabelSpec: spec}, dataflow.StateDone, runs.OutcomeSucceeded, "", ""},
		"our failed job is this attempt's":   {map[string]string{runs.LabelDeployment: label, runs.LabelSpec: spec}, dataflow.StateFailed, runs.OutcomeFailed, "", ""},
		"another deployment's job":           {map[string]string{runs.LabelDeployment: "dev-00000000", runs.LabelSpec: spec}, dataflow.StateRunning, runs.OutcomeFailed, "foreign", "dev-00000000"},
		"a job without labels":               {nil, dataflow.StateRunning, runs.OutcomeFailed, "foreign", "left alone"},
		"our job with other contents":        {map[string]string{runs.LabelDeployment: label, runs.LabelSpec: "0123456789abcdef"}, dataflow.StateRunning, runs.OutcomeFailed, "mismatch", spec},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.jobs = []*dataflow.Job{{ID: "job-old", Name: in.JobName, State: tc.state, StateTime: b.begun, Labels: tc.labels}}
			r := b.runJob(t, in)
			if r.Outcome != tc.outcome || r.Refusal != tc.refusal || !strings.Contains(r.Error, tc.says) {
				t.Errorf("outcome %s, refusal %q, error %q", r.Outcome, r.Refusal, r.Error)
			}
			b.calls(t, map[string]int{"launch": 0, "cancel": 0})
		})
	}
}

func TestARefusalEndsTheAttempt(t *testing.T) {
	for name, tc := range map[string]struct {
		kind    dataflow.Kind
		refusal string
	}{
		"parameters that the template rejects": {dataflow.KindInvalid, "invalid"},
		"a template that does not exist":       {dataflow.KindNotFound, "invalid"},
		"no permission":                        {dataflow.KindPermission, "permission"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(tc.kind, "so it is") }
			r := b.runJob(t, jobInput())
			check(t, r, runs.OutcomeFailed, "")
			if r.Refusal != tc.refusal || !strings.Contains(r.Error, "so it is") {
				t.Errorf("refusal %q, error %q", r.Refusal, r.Error)
			}
			if took := b.Now().Sub(b.begun); took > time.Minute {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// A look that is refused sees nothing: it is no refusal of the launch.
func TestALookThatIsRefusedSaysNothingWhileThereIsDoubt(t *testing.T) {
	looks := func(b *bundle, kind dataflow.Kind, from, to int) {
		b.dataflow.onFind = func(n int) error {
			if n >= from && n <= to {
				return refusal(kind, "not now")
			}
			return nil
		}
	}
	for _, kind := range []dataflow.Kind{dataflow.KindPermission, dataflow.KindInvalid, dataflow.KindNotFound} {
		t.Run("of a launch that was not answered: "+string(kind), func(t *testing.T) {
			b := setup(t)
			b.dataflow.lost = true
			b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "reset by peer") }
			looks(b, kind, 2, 8)
			b.ends(time.Hour, "job-1", dataflow.StateDone)
			check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
			b.calls(t, map[string]int{"launch": 1})
		})
		t.Run("of a name that is not new: "+string(kind), func(t *testing.T) {
			b := setup(t)
			looks(b, kind, 1, 8)
			b.ends(time.Hour, "job-1", dataflow.StateDone)
			in := jobInput()
			in.First = false
			check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
			b.calls(t, map[string]int{"launch": 1})
		})
	}
	t.Run("but that of a name that is new ends the attempt", func(t *testing.T) {
		b := setup(t)
		looks(b, dataflow.KindPermission, 1, 100)
		r := b.runJob(t, jobInput())
		check(t, r, runs.OutcomeFailed, "")
		if r.Refusal != "permission" {
			t.Errorf("refusal %q", r.Refusal)
		}
		b.calls(t, map[string]int{"launch": 0, "find": 1})
	})
	t.Run("and news that name no job are dropped", func(t *testing.T) {
		b := setup(t)
		b.dataflow.onGet = func(int, string) error { return refusal(dataflow.KindInvalid, "no job ID") }
		b.dataflow.onFind = func(n int) error {
			if n == 1 {
				return refusal(dataflow.KindTransient, "503")
			}
			return nil
		}
		b.status(time.Millisecond, "no/job", dataflow.StateRunning, 0)
		b.ends(time.Hour, "job-1", dataflow.StateDone)
		check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
		b.calls(t, map[string]int{"launch": 1, "get": 1})
	})
}

// A workflow that is not the first under its name cannot know what was written before
// it: nothing is launched, and no refusal believed, within the horizon.
func TestASuccessorLooksForTheHorizon(t *testing.T) {
	b := setup(t)
	var launched time.Time
	b.dataflow.launched = func(*dataflow.Job) { launched = b.Now() }
	b.ends(time.Hour, "job-1", dataflow.StateDone)
	in := jobInput()
	in.First = false
	check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
	if waited := launched.Sub(b.begun); waited < 2*time.Minute {
		t.Errorf("launched after %v, want the horizon to pass", waited)
	}
}

func TestAQuotaRefusalWaitsUnderTheSameName(t *testing.T) {
	b := setup(t)
	b.dataflow.onLaunch = func(n int, _ dataflow.Launch) error {
		if n < 4 {
			return refusal(dataflow.KindQuota, "25 concurrent jobs")
		}
		return nil
	}
	b.ends(time.Hour, "job-1", dataflow.StateDone)
	r := b.runJob(t, jobInput())
	check(t, r, runs.OutcomeSucceeded, "job-1")
	b.calls(t, map[string]int{"launch": 4})
	if b.dataflow.jobs[0].Name != jobInput().JobName {
		t.Errorf("name %s", b.dataflow.jobs[0].Name)
	}
}

func TestTroubleThatPassesIsWaitedOut(t *testing.T) {
	b := setup(t)
	b.dataflow.onFind = func(n int) error {
		if n < 3 {
			return refusal(dataflow.KindTransient, "503")
		}
		return nil
	}
	b.ends(time.Hour, "job-1", dataflow.StateDone)
	check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
	b.calls(t, map[string]int{"find": 3, "launch": 1})
}

func TestATimeoutCancelsAndTheTerminalStateDecides(t *testing.T) {
	for name, tc := range map[string]struct {
		state   dataflow.State // that the cancel finds or brings about
		refused dataflow.Kind
		outcome runs.Outcome
	}{
		"the cancel wins":          {dataflow.StateCancelled, "", runs.OutcomeTimedOut},
		"the job is done first":    {dataflow.StateDone, dataflow.KindTerminated, runs.OutcomeSucceeded},
		"the job has failed first": {dataflow.StateFailed, dataflow.KindTerminated, runs.OutcomeFailed},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.onCancel = func(int, bool) error {
				if tc.refused == "" {
					return nil
				}
				b.dataflow.set(b.dataflow.job("job-1"), tc.state)
				return refusal(tc.refused, "the job has terminated")
			}
			in := jobInput()
			in.Timeout = 30 * time.Minute
			r := b.runJob(t, in)
			check(t, r, tc.outcome, "job-1")
			if tc.outcome == runs.OutcomeSucceeded && !strings.Contains(r.Note, "before it could be stopped") {
				t.Errorf("note %q does not say that the cancel came too late", r.Note)
			}
		})
	}
}

// Whose clock is ahead decides nothing: a job that was asked to end had not ended before.
func TestATimedOutJobsEndMayBeTheEarlierByAnotherClock(t *testing.T) {
	b := setup(t)
	b.dataflow.stopped = func(j *dataflow.Job) {
		j.State, j.StateTime = dataflow.StateCancelled, b.begun.Add(30*time.Minute-time.Second)
	}
	in := jobInput()
	in.Timeout = 30 * time.Minute
	check(t, b.runJob(t, in), runs.OutcomeTimedOut, "job-1")
}

func TestAStopReachesTheJobWheneverItComes(t *testing.T) {
	t.Run("while it runs", func(t *testing.T) {
		b := setup(t)
		b.RegisterDelayedCallback(func() { b.SignalWorkflow(runs.SignalStop, runs.Stop{Reason: runs.StopFailing}) }, 10*time.Minute)
		check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"cancel": 1, "drain": 0})
	})
	t.Run("during the launch", func(t *testing.T) {
		b := setup(t)
		b.dataflow.launched = func(*dataflow.Job) { b.CancelWorkflow() }
		check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"cancel": 1})
	})
	t.Run("before anything was launched", func(t *testing.T) {
		b := setup(t)
		b.dataflow.onFind = func(int) error { return refusal(dataflow.KindTransient, "503") }
		b.RegisterDelayedCallback(b.CancelWorkflow, 10*time.Second)
		check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "")
		b.calls(t, map[string]int{"launch": 0})
	})
	t.Run("while a launch is in doubt", func(t *testing.T) {
		b := setup(t)
		b.dataflow.lost, b.dataflow.lag = true, 3
		b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "reset") }
		b.RegisterDelayedCallback(b.CancelWorkflow, 2*time.Second)
		check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"launch": 1, "cancel": 1})
	})
	t.Run("because the run is closed", func(t *testing.T) {
		b := setup(t)
		b.temporal.closed = map[string]bool{"dev/orders/k": true}
		check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
	})
	t.Run("too early for Dataflow", func(t *testing.T) {
		b := setup(t)
		b.dataflow.onCancel = func(n int, _ bool) error {
			if n < 3 {
				return refusal(dataflow.KindNotReady, "not yet ready for canceling")
			}
			return nil
		}
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Second)
		check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
	})
}

func TestACancelThatHangsIsForced(t *testing.T) {
	b := setup(t)
	b.dataflow.stopped = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateCancelling) }
	b.RegisterDelayedCallback(b.CancelWorkflow, time.Minute)
	b.RegisterDelayedCallback(func() {
		if n := b.dataflow.count("force"); n != 0 {
			t.Error("forced within the grace of 30 minutes")
		}
	}, 30*time.Minute)
	b.ends(2*time.Hour, "job-1", dataflow.StateCancelled)
	check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
	if b.dataflow.count("force") == 0 {
		t.Error("the cancel was never forced")
	}
}

func TestAStreamingJob(t *testing.T) {
	streaming := func() runs.JobInput {
		in := jobInput()
		in.Job.Streaming = true
		in.Timeout = time.Hour
		return in
	}
	t.Run("is told of, and drained, and its drain becomes a cancel", func(t *testing.T) {
		b := setup(t)
		told := 0
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: streaming().JobName, JobID: "job-1"}).
			Return(func(string, string, string, string, any) error { told++; return nil })
		b.dataflow.stopped = func(j *dataflow.Job) {
			if j.State == dataflow.StateRunning {
				b.dataflow.set(j, dataflow.StateDraining)
			} else {
				b.dataflow.set(j, dataflow.StateCancelled)
			}
		}
		b.ends(5*time.Minute, "job-1", dataflow.StateRunning)
		b.RegisterDelayedCallback(b.CancelWorkflow, 48*time.Hour)
		check(t, b.runJob(t, streaming()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"drain": 1, "cancel": 1})
		if told != 1 {
			t.Errorf("the run was told %d times, want once", told)
		}
		if took := b.Now().Sub(b.begun); took < 49*time.Hour {
			t.Errorf("the drain's grace of an hour was not given: over after %v", took)
		}
	})
	t.Run("is cancelled when a drain that was accepted leaves it as it was", func(t *testing.T) {
		b := setup(t)
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: streaming().JobName, JobID: "job-1"}).Return(nil)
		b.dataflow.stopped = func(j *dataflow.Job) {
			if b.dataflow.calls[len(b.dataflow.calls)-1] == "cancel" {
				b.dataflow.set(j, dataflow.StateCancelled)
			}
		}
		b.ends(5*time.Minute, "job-1", dataflow.StateRunning)
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Hour)
		check(t, b.runJob(t, streaming()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"drain": 1, "cancel": 1})
		if took := b.Now().Sub(b.begun); took < 2*time.Hour {
			t.Errorf("the drain's grace of an hour was not given: over after %v", took)
		}
	})
	t.Run("that does not come to run in time is cancelled", func(t *testing.T) {
		b := setup(t)
		check(t, b.runJob(t, streaming()), runs.OutcomeTimedOut, "job-1")
		b.calls(t, map[string]int{"drain": 0, "cancel": 1})
	})
	t.Run("is drained also when that was asked for while it was not known, and taken for late", func(t *testing.T) {
		b := setup(t)
		in := streaming()
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: in.JobName, JobID: "job-1"}).Return(nil)
		b.dataflow.lost = true
		b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindUnanswered, "cut") }
		b.dataflow.onFind = func(n int) error {
			if n > 1 && b.Now().Sub(b.begun) < 2*time.Hour {
				return refusal(dataflow.KindTransient, "503")
			}
			return nil
		}
		b.dataflow.launched = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateRunning) }
		b.dataflow.stopped = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateDrained) }
		b.RegisterDelayedCallback(b.CancelWorkflow, 90*time.Minute) // the timeout passed half an hour ago
		check(t, b.runJob(t, in), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"drain": 1, "cancel": 0, "launch": 1})
	})
	t.Run("that runs only when it is to be stopped is not told of", func(t *testing.T) {
		b := setup(t)
		b.dataflow.onCancel = func(n int, _ bool) error {
			if n == 1 {
				return refusal(dataflow.KindNotReady, "not yet ready for canceling")
			}
			return nil
		}
		b.ends(time.Hour+2*time.Second, "job-1", dataflow.StateRunning)
		b.dataflow.stopped = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateDrained) }
		check(t, b.runJob(t, streaming()), runs.OutcomeTimedOut, "job-1")
		b.calls(t, map[string]int{"drain": 1})
	})
	t.Run("that is a batch job fails and says so", func(t *testing.T) {
		b := setup(t)
		b.dataflow.typ = dataflow.TypeBatch
		for _, state := range []dataflow.State{dataflow.StateQueued, dataflow.StateRunning} {
			b.RegisterDelayedCallback(func() {
				if b.dataflow.count("cancel") > 0 {
					t.Error("a job that is queued was judged by a type that it cannot have yet")
				}
				b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", State: string(state), StateTime: b.Now(), Type: string(dataflow.TypeBatch)})
			}, map[dataflow.State]time.Duration{dataflow.StateQueued: time.Minute, dataflow.StateRunning: 2 * time.Minute}[state])
		}
		r := b.runJob(t, streaming())
		check(t, r, runs.OutcomeFailed, "job-1")
		if r.Refusal != "type" || !strings.Contains(r.Error, "JOB_TYPE_BATCH") {
			t.Errorf("refusal %q, error %q", r.Refusal, r.Error)
		}
		b.calls(t, map[string]int{"cancel": 1})
	})
	t.Run("is cancelled when it cannot be drained", func(t *testing.T) {
		b := setup(t)
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: streaming().JobName, JobID: "job-1"}).Return(nil)
		b.dataflow.onDrain = func() error { return refusal(dataflow.KindInvalid, "it has no sources") }
		b.ends(5*time.Minute, "job-1", dataflow.StateRunning)
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Hour)
		check(t, b.runJob(t, streaming()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"drain": 1, "cancel": 1})
	})
	t.Run("is not cancelled when somebody drains it just before", func(t *testing.T) {
		b := setup(t)
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: streaming().JobName, JobID: "job-1"}).Return(nil)
		b.dataflow.onDrain = func() error {
			b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateDraining)
			return refusal(dataflow.KindInvalid, "it does not run")
		}
		b.ends(5*time.Minute, "job-1", dataflow.StateRunning)
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Hour)
		b.ends(90*time.Minute, "job-1", dataflow.StateDrained)
		check(t, b.runJob(t, streaming()), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"drain": 1, "cancel": 0})
	})
	t.Run("is stopped also as the successor of one that was asked to end", func(t *testing.T) {
		b := setup(t)
		in := streaming()
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: in.JobName, JobID: "job-1"}).Return(nil)
		b.ends(time.Minute, "job-1", dataflow.StateRunning)
		b.dataflow.stopped = func(j *dataflow.Job) {
			if j.ID == "job-2" {
				b.dataflow.set(j, dataflow.StateDrained)
			}
		}
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Hour)
		b.RegisterDelayedCallback(func() { // while the drain has its grace
			b.dataflow.mu.Lock()
			b.dataflow.jobs = append(b.dataflow.jobs, &dataflow.Job{ID: "job-2", Name: in.JobName, Type: dataflow.TypeStreaming, State: dataflow.StateRunning, StateTime: b.Now()})
			b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateUpdated)
			b.dataflow.mu.Unlock()
			b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", State: string(dataflow.StateUpdated), StateTime: b.Now(), ReplacedBy: "job-2"})
		}, 65*time.Minute)
		check(t, b.runJob(t, in), runs.OutcomeCancelled, "job-2")
		b.calls(t, map[string]int{"drain": 2, "cancel": 0})
		if took := b.Now().Sub(b.begun); took > 70*time.Minute {
			t.Errorf("the successor was asked after %v", took)
		}
	})
	t.Run("goes on as its successor after an update", func(t *testing.T) {
		b := setup(t)
		in := streaming()
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: in.JobName, JobID: "job-1"}).Return(nil)
		b.ends(time.Minute, "job-1", dataflow.StateRunning)
		b.RegisterDelayedCallback(func() {
			b.dataflow.mu.Lock()
			b.dataflow.jobs = append(b.dataflow.jobs, &dataflow.Job{ID: "job-2", Name: in.JobName, Type: dataflow.TypeStreaming, State: dataflow.StateRunning, StateTime: b.Now()})
			b.dataflow.job("job-1").ReplacedByJobID = "job-2"
			b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateUpdated)
			b.dataflow.mu.Unlock()
			b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", State: string(dataflow.StateUpdated), StateTime: b.Now()})
		}, 2*time.Hour)
		b.ends(5*time.Hour, "job-2", dataflow.StateDrained)
		check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-2")
	})
}

// Events come in any order, twice, and for jobs that are none of ours.
func TestStatusEventsInAnyOrder(t *testing.T) {
	b := setup(t)
	at := 10 * time.Minute
	b.status(at, "job-1", dataflow.StateRunning, 2*time.Minute)
	stillRuns := func() {
		v, err := b.QueryWorkflow(runs.QueryState)
		if err != nil {
			t.Error(err)
			return
		}
		var now runs.JobResult
		if err := v.Get(&now); err != nil || now.State != string(dataflow.StateRunning) || now.Outcome != runs.OutcomeRunning {
			t.Errorf("state %q, outcome %q, error %v; want it to run", now.State, now.Outcome, err)
		}
	}
	b.status(at+time.Second, "job-1", dataflow.StatePending, time.Minute)
	b.RegisterDelayedCallback(stillRuns, at+2*time.Second)
	b.status(at+3*time.Second, "job-9", dataflow.StateFailed, 5*time.Minute)
	b.status(at+3*time.Second, "job-1", dataflow.StateRunning, 2*time.Minute)
	b.RegisterDelayedCallback(stillRuns, at+4*time.Second)
	b.status(at+5*time.Second, "job-1", dataflow.StateDone, 4*time.Minute)
	b.status(at+5*time.Second, "job-1", dataflow.StateRunning, 6*time.Minute)
	check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
}

func TestAFailedJobBringsItsFirstError(t *testing.T) {
	for name, tc := range map[string]struct {
		text  string
		quota bool
	}{
		"a defect":      {"row 7: bad date", false},
		"want of quota": {"Quota 'CPUS' exceeded. Limit: 24.0 in region us-central1.", true},
		"no message":    {"", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.errText = tc.text
			b.ends(time.Minute, "job-1", dataflow.StateFailed)
			r := b.runJob(t, jobInput())
			check(t, r, runs.OutcomeFailed, "job-1")
			if r.Quota != tc.quota || tc.text != "" && r.Error != tc.text || r.Error == "" {
				t.Errorf("quota %v, error %q", r.Quota, r.Error)
			}
		})
	}
}

// What is told of a failed job does not hang on what cannot be read.
func TestAFailedJobWhoseAccountCannotBeReadWhole(t *testing.T) {
	const text = "Quota 'CPUS' exceeded. Limit: 24.0 in region us-central1."
	for name, tc := range map[string]struct {
		metrics, messages error
		error             string
	}{
		"its metrics are forbidden":         {refusal(dataflow.KindPermission, "no dataflow.metrics.get"), nil, text},
		"its metrics do not come":           {refusal(dataflow.KindTransient, "503"), nil, text},
		"its messages are forbidden":        {nil, refusal(dataflow.KindPermission, "no dataflow.messages.list"), "the job failed without an error message"},
		"its metrics and messages are gone": {refusal(dataflow.KindNotFound, "no metrics"), refusal(dataflow.KindNotFound, "no messages"), "the job failed without an error message"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.metrics = map[string]int64{"rows": 12}
			b.dataflow.unread.metrics, b.dataflow.unread.messages = tc.metrics, tc.messages
			if tc.messages == nil {
				b.dataflow.errText = text
			}
			b.ends(time.Minute, "job-1", dataflow.StateFailed)
			r := b.runJob(t, jobInput())
			check(t, r, runs.OutcomeFailed, "job-1")
			if r.Error != tc.error || r.Quota != (tc.messages == nil) {
				t.Errorf("error %q, quota %v", r.Error, r.Quota)
			}
			for _, err := range []error{tc.metrics, tc.messages} {
				if err != nil && !strings.Contains(r.Note, err.Error()) {
					t.Errorf("note %q does not tell of %q", r.Note, err)
				}
			}
			if tc.metrics == nil && r.Metrics["rows"] != 12 {
				t.Errorf("metrics %v", r.Metrics)
			}
		})
	}
}

// What is told of a job fits into payloads and histories, whatever the job counts.
func TestTheMetricsThatAreToldAreBounded(t *testing.T) {
	b := setup(t)
	b.dataflow.metrics = map[string]int64{}
	for i := range 1000 {
		b.dataflow.metrics[fmt.Sprintf("%04d-%s", i, strings.Repeat("x", 100))] = math.MaxInt64
	}
	b.ends(time.Minute, "job-1", dataflow.StateDone)
	r := b.runJob(t, jobInput())
	check(t, r, runs.OutcomeSucceeded, "job-1")
	text, err := json.Marshal(r.Metrics)
	if err != nil {
		t.Fatal(err)
	}
	if len(text) > 32<<10 || len(text) < 30<<10 {
		t.Errorf("%d bytes of metrics", len(text))
	}
	for name := range r.Metrics {
		if i := fmt.Sprintf("%04d", len(r.Metrics)); name >= i {
			t.Fatalf("%s is kept, of %d", name[:4], len(r.Metrics))
		}
	}
	if want := fmt.Sprintf("the first %d by name", len(r.Metrics)); !strings.Contains(r.Note, want) {
		t.Errorf("note %q does not say %q", r.Note, want)
	}
}

// A job that Dataflow does not know, and that is to be stopped, is asked for ever more seldom.
func TestStoppingAJobThatIsNotFoundCostsLittle(t *testing.T) {
	b := setup(t)
	b.dataflow.onGet = func(int, string) error {
		if b.Now().Sub(b.begun) < 24*time.Hour {
			return refusal(dataflow.KindNotFound, "no such job")
		}
		return nil
	}
	b.RegisterDelayedCallback(b.CancelWorkflow, time.Minute)
	check(t, b.runJob(t, jobInput()), runs.OutcomeCancelled, "job-1")
	if n := b.dataflow.count("get"); n > 60 {
		t.Errorf("%d looks in a day", n)
	}
}

// One look that does not find a job says nothing, however long the job has run without news.
func TestALookThatDoesNotFindAnOldJobIsNotBelieved(t *testing.T) {
	const old = 26 * 24 * time.Hour
	// missing lets looks from a time on not find a job that is there, so many times.
	missing := func(b *bundle, from time.Duration, job string, times int) {
		b.dataflow.onGet = func(_ int, id string) error {
			if id != job || times == 0 || b.Now().Sub(b.begun) < from {
				return nil
			}
			times--
			return refusal(dataflow.KindNotFound, "no such job")
		}
	}
	streaming := jobInput()
	streaming.Job.Streaming, streaming.Timeout = true, time.Hour
	announced := func(b *bundle) {
		b.OnSignalExternalWorkflow("default-test-namespace", "dev/orders/k", "", runs.SignalRunning, runs.Running{Step: "load", JobName: streaming.JobName, JobID: "job-1"}).Return(nil)
		b.ends(time.Minute, "job-1", dataflow.StateRunning)
	}
	for name, sweep := range map[string]bool{"at the safety timer": false, "at the safety timer that asks the sweep": true} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			announced(b)
			missing(b, old, "job-1", 1)
			b.RegisterDelayedCallback(func() { b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", Forgotten: true}) }, old)
			b.ends(old+48*time.Hour, "job-1", dataflow.StateDrained)
			in := streaming
			in.Sweep = sweep
			check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
		})
	}
	t.Run("when it is to be stopped", func(t *testing.T) {
		b := setup(t)
		announced(b)
		missing(b, old, "job-1", 1)
		b.RegisterDelayedCallback(b.CancelWorkflow, old)
		check(t, b.runJob(t, streaming), runs.OutcomeCancelled, "job-1")
		b.calls(t, map[string]int{"drain": 1})
		if took := b.Now().Sub(b.begun); took > old+time.Hour {
			t.Errorf("stopped after %v", took)
		}
	})
	t.Run("when it is another's successor", func(t *testing.T) {
		b := setup(t)
		announced(b)
		missing(b, old, "job-2", 3)
		b.RegisterDelayedCallback(func() {
			b.dataflow.mu.Lock()
			b.dataflow.jobs = append(b.dataflow.jobs, &dataflow.Job{ID: "job-2", Name: streaming.JobName, Type: dataflow.TypeStreaming, State: dataflow.StateRunning, StateTime: b.Now()})
			b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateUpdated)
			b.dataflow.mu.Unlock()
			b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", State: string(dataflow.StateUpdated), StateTime: b.Now(), ReplacedBy: "job-2"})
		}, old)
		b.ends(old+48*time.Hour, "job-2", dataflow.StateDrained)
		check(t, b.runJob(t, streaming), runs.OutcomeSucceeded, "job-2")
	})
	t.Run("nor two, between which it was found", func(t *testing.T) {
		b := setup(t)
		announced(b)
		misses := 0
		b.dataflow.onGet = func(int, string) error {
			if since := b.Now().Sub(b.begun); since >= old && misses == 0 || since >= old+30*time.Hour && misses == 1 {
				misses++
				return refusal(dataflow.KindNotFound, "no such job")
			}
			return nil
		}
		b.ends(old+48*time.Hour, "job-1", dataflow.StateDrained)
		check(t, b.runJob(t, streaming), runs.OutcomeSucceeded, "job-1")
		if misses != 2 {
			t.Errorf("%d looks did not find it", misses)
		}
	})
	t.Run("but those of a day are", func(t *testing.T) {
		b := setup(t)
		announced(b)
		missing(b, old, "job-1", -1)
		r := b.runJob(t, streaming)
		check(t, r, runs.OutcomeFailed, "job-1")
		if took := b.Now().Sub(b.begun); took < old+24*time.Hour || took > old+27*time.Hour || !strings.Contains(r.Error, "no longer knows") {
			t.Errorf("forgotten after %v (%s)", took, r.Error)
		}
	})
}

func TestAJobThatSomebodyCancelledIsNoSuccess(t *testing.T) {
	b := setup(t)
	b.ends(time.Minute, "job-1", dataflow.StateCancelled)
	r := b.runJob(t, jobInput())
	check(t, r, runs.OutcomeCancelled, "job-1")
	if !strings.Contains(r.Error, "not by its run") {
		t.Errorf("error %q", r.Error)
	}
}

// A successor of the run takes the job over: its workflow closes, the job goes on.
func TestHandOverLeavesTheJobAlone(t *testing.T) {
	b := setup(t)
	b.RegisterDelayedCallback(func() { b.SignalWorkflow(runs.SignalHandOver, nil) }, time.Minute)
	r := b.runJob(t, jobInput())
	if !r.HandedOver || r.Outcome.Over() {
		t.Errorf("handed over %v, outcome %s", r.HandedOver, r.Outcome)
	}
	b.calls(t, map[string]int{"launch": 1, "cancel": 0, "metrics": 0})
}

func TestAnExpressionThatFailsRefusesTheLaunch(t *testing.T) {
	b := setup(t)
	in := jobInput()
	in.Job.Deferred = []pipeline.Deferred{{In: "parameters", Name: "rows", Text: "${steps.clean.metrics.rows}"}}
	in.Steps = map[string]pipeline.StepResultVars{"clean": {State: "JOB_STATE_DONE"}}
	r := b.runJob(t, in)
	check(t, r, runs.OutcomeFailed, "")
	if r.Refusal != "render" || !strings.Contains(r.Error, "rows") {
		t.Errorf("refusal %q, error %q", r.Refusal, r.Error)
	}
	b.calls(t, map[string]int{"launch": 0})
}

func TestANewerInputIsRefusedBeforeAnythingIsDone(t *testing.T) {
	b := setup(t)
	in := jobInput()
	in.Version = runs.RecordVersion + 1
	b.ExecuteWorkflow(runs.TypeJob, in)
	if err := b.GetWorkflowError(); err == nil || !strings.Contains(err.Error(), "newer worker") {
		t.Errorf("error %v", err)
	}
	if len(b.dataflow.calls) != 0 {
		t.Errorf("calls %v", b.dataflow.calls)
	}
}
