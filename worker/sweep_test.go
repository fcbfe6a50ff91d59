package worker_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

var place = runs.Place{Deployment: "dev", Project: project, Location: location}

// sweepBundle is a bundle whose Temporal knows the workflows alone that a test names.
func sweepBundle(t *testing.T, change func(*worker.Workflows)) *bundle {
	t.Helper()
	b := setupWith(t, func(w *worker.Workflows, _ *worker.Activities) {
		if change != nil {
			change(w)
		}
	})
	b.temporal.workflows = map[string]*execution{}
	return b
}

// jobName is the name of a job of ours; n tells it from others.
func jobNamed(n int) string {
	return runs.JobName("dev", "orders", fmt.Sprint("k", n), "load", 1)
}

func workflowOf(name string) string { return runs.JobWorkflowID(project, location, name) }

// add puts a job of ours into Dataflow, running since now.
func (b *bundle) add(id, name string) *dataflow.Job {
	j := &dataflow.Job{
		ID: id, Name: name, Project: project, Location: location, Type: dataflow.TypeBatch,
		State: dataflow.StateRunning, StateTime: b.Now(), CreateTime: b.Now(),
		Labels: map[string]string{runs.LabelDeployment: runs.DeploymentLabel("dev", namespace), runs.LabelPipeline: "orders"},
	}
	b.dataflow.jobs = append(b.dataflow.jobs, j)
	return j
}

// askAfter has the open workflow of a job ask for news some time after the start. It knows the job as it is told.
func (b *bundle) askAfter(after time.Duration, id, name string, state dataflow.State, at time.Time) {
	b.temporal.workflows[workflowOf(name)] = &execution{open: true, parent: "dev/orders/k"}
	b.RegisterDelayedCallback(func() {
		b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{JobID: id, JobName: name, State: string(state), StateTime: at, Watched: true})
	}, after)
}

func (b *bundle) sweep(t *testing.T) runs.SweepResult {
	t.Helper()
	b.ExecuteWorkflow(runs.TypeSweep, runs.SweepInput{Version: runs.RecordVersion, Place: place})
	if !b.IsWorkflowCompleted() {
		t.Fatal("the sweep did not end")
	}
	var r runs.SweepResult
	if err := b.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	return r
}

// told are the jobs whose workflows were told of a state, in order.
func (b *bundle) told() string {
	var s []string
	for _, sent := range b.temporal.signals {
		s = append(s, fmt.Sprintf("%s:%s", sent.status.JobID, dataflow.State(sent.status.State).Short()))
		if sent.id != workflowOf(b.dataflow.job(sent.status.JobID).Name) {
			s = append(s, "to "+sent.id)
		}
	}
	return strings.Join(s, " ")
}

// However many ask, one list answers them, within what Temporal takes as a payload.
func TestAnyNumberOfAsksEndInOneList(t *testing.T) {
	b := sweepBundle(t, nil)
	b.SetTestTimeout(time.Minute)
	const many, batch = 10_000, 500 // of the environment's queue
	largest := 0
	b.SetOnActivityStartedListener(func(_ *activity.Info, _ context.Context, args converter.EncodedValues) {
		var in any
		if err := args.Get(&in); err != nil {
			t.Error(err)
		}
		text, _ := json.Marshal(in)
		largest = max(largest, len(text))
	})
	since := b.Now()
	for i := range many {
		id := fmt.Sprintf("2026-11-22_06_00_00-%019d", i)
		b.add(id, jobNamed(i))
		b.temporal.workflows[workflowOf(jobNamed(i))] = &execution{open: true, parent: "dev/orders/k"}
	}
	for i := range many / batch {
		b.RegisterDelayedCallback(func() {
			for _, j := range b.dataflow.jobs[i*batch : (i+1)*batch] {
				b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{JobID: j.ID, JobName: j.Name, State: string(dataflow.StateRunning), StateTime: since, Watched: true})
			}
		}, time.Duration(i)*time.Second)
	}
	b.dataflow.jobs[17].State, b.dataflow.jobs[17].StateTime = dataflow.StateCancelling, since.Add(time.Second)
	r := b.sweep(t)
	b.calls(t, map[string]int{"list": 1, "get": 0})
	if r.Asked != many || r.Signalled != 1 || r.Lists != 1 || r.Unseen != 0 || len(b.temporal.described) != 0 {
		t.Errorf("%+v, %d workflows described", r, len(b.temporal.described))
	}
	if got := b.told(); got != "2026-11-22_06_00_00-0000000000000000017:CANCELLING" {
		t.Errorf("told %s", got)
	}
	if largest > 1<<20 {
		t.Errorf("a payload of %d bytes", largest)
	}
}

// The list lags, and shows no job that is over: what is absent from it is looked at by itself.
func TestAbsenceFromTheListProvesNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		known   dataflow.State
		arrange func(b *bundle, j *dataflow.Job)
		told    string
	}{
		"a job that is over": {dataflow.StateRunning, func(b *bundle, j *dataflow.Job) {
			j.State, j.StateTime = dataflow.StateDone, j.StateTime.Add(time.Second)
		}, "job-1:DONE"},
		"a job that the list does not show": {dataflow.StateRunning, func(b *bundle, _ *dataflow.Job) {
			b.dataflow.unlisted = map[string]bool{"job-1": true}
		}, ""},
		"a job that the list does not show, with news": {dataflow.StateQueued, func(b *bundle, _ *dataflow.Job) {
			b.dataflow.unlisted = map[string]bool{"job-1": true}
		}, "job-1:RUNNING"},
		"a job that cannot be found just after its launch": {dataflow.StateQueued, func(b *bundle, _ *dataflow.Job) {
			b.dataflow.jobs = nil
		}, ""},
		"a look that fails at first": {dataflow.StateRunning, func(b *bundle, j *dataflow.Job) {
			j.State, j.StateTime = dataflow.StateFailed, j.StateTime.Add(time.Second)
			b.dataflow.onGet = func(n int, _ string) error {
				if n < 4 {
					return refusal(dataflow.KindTransient, "503")
				}
				return nil
			}
		}, "job-1:FAILED"},
		"a workflow that cannot be told at first": {dataflow.StateRunning, func(b *bundle, j *dataflow.Job) {
			j.State, j.StateTime = dataflow.StateFailed, j.StateTime.Add(time.Second)
			refused := false
			b.temporal.onSignal = func(string, runs.JobStatus) error {
				if !refused {
					refused = true
					return serviceerror.NewUnavailable("down")
				}
				return nil
			}
		}, "job-1:FAILED"},
	} {
		t.Run(name, func(t *testing.T) {
			b := sweepBundle(t, nil)
			j := b.add("job-1", jobNamed(1))
			b.askAfter(time.Second, "job-1", j.Name, tc.known, j.StateTime)
			tc.arrange(b, j)
			r := b.sweep(t)
			if got := b.told(); got != tc.told || r.Error != "" || r.Looked != 1 {
				t.Errorf("told %q, want %q; %+v", got, tc.told, r)
			}
			b.calls(t, map[string]int{"list": 1})
		})
	}
}

// A job that Dataflow forgot, 30 days after its end, is over: its workflow hears of it, and ends.
func TestAForgottenJobsWorkflowIsTold(t *testing.T) {
	b := sweepBundle(t, nil)
	b.askAfter(time.Second, "job-1", jobNamed(1), dataflow.StateRunning, b.Now().Add(-31*24*time.Hour))
	b.sweep(t)
	if len(b.temporal.signals) != 1 || !b.temporal.signals[0].status.Forgotten {
		t.Fatalf("told %+v", b.temporal.signals)
	}
	const day = 24 * time.Hour
	told := func(b *bundle, after time.Duration) {
		b.RegisterDelayedCallback(func() { b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", Forgotten: true}) }, after)
	}
	in := jobInput()
	in.Timeout, in.Sweep = 0, true
	t.Run("and looks for a day before it ends", func(t *testing.T) {
		b := setup(t)
		told(b, time.Hour)
		told(b, 26*day)
		b.RegisterDelayedCallback(func() { b.dataflow.jobs = nil }, 26*day-time.Minute)
		check(t, b.runJob(t, in), runs.OutcomeFailed, "job-1")
		if took := b.Now().Sub(b.begun); took < 27*day || took > 27*day+2*time.Hour {
			t.Errorf("forgotten after %v", took)
		}
		if n := b.dataflow.count("get"); n < 20 || n > 60 {
			t.Errorf("%d looks in a day", n)
		}
	})
	t.Run("and goes on when it finds the job", func(t *testing.T) {
		b := setup(t)
		told(b, 26*day)
		told(b, 28*day) // between which the job was seen
		b.ends(40*day, "job-1", dataflow.StateDone)
		check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
		b.calls(t, map[string]int{"get": 2})
	})
	t.Run("and goes on when it can look again only after it was told twice", func(t *testing.T) {
		b := setup(t)
		b.dataflow.onGet = func(int, string) error {
			if b.Now().Sub(b.begun) < 27*day+2*time.Hour {
				return refusal(dataflow.KindTransient, "503")
			}
			return nil
		}
		told(b, 26*day)
		told(b, 27*day+time.Hour)
		b.ends(40*day, "job-1", dataflow.StateDone)
		check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
	})
}

func TestTroubleSlowsTheSweepDownAndFailsNothing(t *testing.T) {
	for name, tc := range map[string]struct {
		err   error
		after time.Duration // at the least
	}{
		"429 that says how long to wait": {&dataflow.Error{Op: "list", Kind: dataflow.KindTransient, Code: 429, RetryAfter: 90 * time.Second}, 90 * time.Second},
		"429 for want of quota":          {refusal(dataflow.KindQuota, "Quota exceeded"), time.Second},
		"503":                            {refusal(dataflow.KindTransient, "503"), time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			b := sweepBundle(t, nil)
			for i := range 2 {
				j := b.add(fmt.Sprint("job-", i), jobNamed(i))
				// The second asks while the list cannot be had.
				b.askAfter(time.Second+time.Duration(i)*5*time.Second, j.ID, j.Name, dataflow.StateQueued, j.StateTime)
			}
			b.dataflow.onList = func(n int) error {
				if n <= 3 {
					return tc.err
				}
				return nil
			}
			r := b.sweep(t)
			if r.Error != "" || r.Lists != 1 || r.Signalled != 2 {
				t.Errorf("%+v", r)
			}
			if took := b.Now().Sub(b.begun); took < 3*tc.after || took > time.Hour {
				t.Errorf("it took %v", took)
			}
			b.calls(t, map[string]int{"list": 4})
		})
	}
	t.Run("no permission is left to the next sweep", func(t *testing.T) {
		b := sweepBundle(t, nil)
		b.dataflow.onList = func(int) error { return refusal(dataflow.KindPermission, "not allowed") }
		if r := b.sweep(t); !strings.Contains(r.Error, "not allowed") {
			t.Errorf("%+v", r)
		}
		b.calls(t, map[string]int{"list": 1})
	})
	t.Run("so is an outage of hours", func(t *testing.T) {
		b := sweepBundle(t, nil)
		b.dataflow.onList = func(int) error { return refusal(dataflow.KindTransient, "503") }
		if r := b.sweep(t); !strings.Contains(r.Error, "503") || b.dataflow.count("list") > 40 {
			t.Errorf("%+v after %d lists", r, b.dataflow.count("list"))
		}
	})
}

// One job that cannot be looked at is no reason to leave the others without news.
func TestAJobThatCannotBeLookedAtHoldsUpNoOther(t *testing.T) {
	const jobs = 5
	outage := refusal(dataflow.KindTransient, "503")
	for name, tc := range map[string]struct {
		get    func(n int, id string, since time.Duration) error
		told   string
		unseen int
		error  string
		listed int // so many of the jobs, from the last, are in the list
		// from and to are when the sweep ends after its begin, at the earliest and the latest.
		from, to time.Duration
		gets     int // at most
	}{
		"one that never can be": {
			func(_ int, id string, _ time.Duration) error {
				if id == "job-0" {
					return outage
				}
				return nil
			}, "1 2 3 4", 1, "503", 0, 10 * time.Minute, 16 * time.Minute, 20,
		},
		"two that never can be": {
			func(_ int, id string, _ time.Duration) error {
				if id == "job-0" || id == "job-3" {
					return outage
				}
				return nil
			}, "1 2 4", 2, "503", 0, 10 * time.Minute, 16 * time.Minute, 20,
		},
		"one that never can be, while all others are in the list": {
			get: func(int, string, time.Duration) error { return outage }, told: "1 2 3 4", unseen: 1, error: "503", listed: 4,
			from: 10 * time.Minute, to: 16 * time.Minute, gets: 20,
		},
		"one that is refused": {
			func(_ int, id string, _ time.Duration) error {
				if id == "job-2" {
					return refusal(dataflow.KindInvalid, "not with this ID")
				}
				return nil
			}, "0 1 3 4", 1, "not with this ID", 0, 0, time.Minute, jobs,
		},
		"all that are refused": {
			func(int, string, time.Duration) error { return refusal(dataflow.KindPermission, "not allowed") },
			"", jobs, "not allowed", 0, 0, time.Minute, 3,
		},
		"all, for minutes, from the third on": {
			func(n int, _ string, since time.Duration) error {
				if n > 2 && since < 8*time.Minute {
					return outage
				}
				return nil
			}, "0 1 2 3 4", 0, "", 0, 8 * time.Minute, 16 * time.Minute, 20,
		},
		"all, for some minutes": {
			func(_ int, _ string, since time.Duration) error {
				if since < 8*time.Minute {
					return outage
				}
				return nil
			}, "0 1 2 3 4", 0, "", 0, 8 * time.Minute, 16 * time.Minute, 20,
		},
		"all, for hours": {
			func(int, string, time.Duration) error { return outage },
			"", jobs, "503", 0, 10 * time.Minute, 16 * time.Minute, 20,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := sweepBundle(t, nil)
			b.dataflow.unlisted = map[string]bool{}
			var told []string
			for i := range jobs {
				j := b.add(fmt.Sprint("job-", i), jobNamed(i))
				b.dataflow.unlisted[j.ID] = i < jobs-tc.listed
				b.askAfter(time.Second, j.ID, j.Name, dataflow.StateQueued, j.StateTime)
			}
			b.dataflow.onGet = func(n int, id string) error { return tc.get(n, id, b.Now().Sub(b.begun)) }
			r := b.sweep(t)
			for _, sent := range b.temporal.signals {
				told = append(told, strings.TrimPrefix(sent.status.JobID, "job-"))
			}
			slices.Sort(told)
			if got := strings.Join(told, " "); got != tc.told || r.Signalled != len(told) {
				t.Errorf("told %q, want %q", got, tc.told)
			}
			if r.Unseen != tc.unseen || !strings.Contains(r.Error, tc.error) || (r.Error == "") != (tc.error == "") {
				t.Errorf("%+v", r)
			}
			if took := b.Now().Sub(b.begun); took < tc.from || took > tc.to {
				t.Errorf("it took %v", took)
			}
			if n := b.dataflow.count("get"); n > tc.gets {
				t.Errorf("%d looks", n)
			}
		})
	}
}

// One look that hangs costs its call, and not the news of those before and after it.
func TestALookThatHangsHoldsUpNoOther(t *testing.T) {
	b := sweepBundle(t, nil)
	b.dataflow.unlisted = map[string]bool{}
	for i := range 3 {
		j := b.add(fmt.Sprint("job-", i), jobNamed(i))
		b.dataflow.unlisted[j.ID] = true
		b.askAfter(time.Second, j.ID, j.Name, dataflow.StateQueued, j.StateTime)
	}
	hung := false
	b.dataflow.hangs = func(id string) bool {
		first := id == "job-1" && !hung
		hung = hung || first
		return first
	}
	b.ExecuteWorkflow(runs.TypeSweep, runs.SweepInput{Version: runs.RecordVersion, Place: place, Resume: &runs.SweepState{
		Look: true, Settings: runs.SweepSettings{Orphans: runs.OrphansReport, Timing: runs.Timing{Call: runs.MinCall}.WithDefaults()},
	}})
	var r runs.SweepResult
	if err := b.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if r.Signalled != 3 || r.Error != "" || !hung {
		t.Errorf("%+v, hung: %t", r, hung)
	}
	// Each once, and the one that hung again.
	b.calls(t, map[string]int{"get": 4})
}

func TestAsksDuringAPassAreServedByTheNext(t *testing.T) {
	b := sweepBundle(t, nil)
	first, second := b.add("job-1", jobNamed(1)), b.add("job-2", jobNamed(2))
	b.askAfter(time.Second, first.ID, first.Name, dataflow.StateQueued, first.StateTime)
	b.temporal.workflows[workflowOf(second.Name)] = &execution{open: true}
	b.dataflow.onList = func(n int) error {
		if n == 1 {
			b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{JobID: second.ID, JobName: second.Name, State: string(dataflow.StateQueued), StateTime: second.StateTime, Watched: true})
		}
		return nil
	}
	r := b.sweep(t)
	if got := b.told(); got != "job-1:RUNNING job-2:RUNNING" || r.Lists != 2 {
		t.Errorf("told %s; %+v", got, r)
	}
	if took := b.Now().Sub(b.begun); took > time.Minute {
		t.Errorf("it took %v", took)
	}
}

// bareNotFound is what a proxy between us and Temporal may answer.
func bareNotFound() error { return serviceerror.FromStatus(status.New(codes.NotFound, "no route")) }

// An orphan is what is one in every respect, twice, ten minutes apart.
func TestWhatAnOrphanIs(t *testing.T) {
	name := jobNamed(1)
	id, run := workflowOf(name), "dev/orders/k1"
	closed := func(b *bundle, _ *dataflow.Job) {
		b.temporal.workflows[id] = &execution{parent: run}
		b.temporal.workflows[run] = &execution{}
	}
	later := func(change func(b *bundle, j *dataflow.Job)) func(b *bundle, j *dataflow.Job) {
		return func(b *bundle, j *dataflow.Job) {
			closed(b, j)
			b.RegisterDelayedCallback(func() { change(b, j) }, 5*time.Minute)
		}
	}
	for what, tc := range map[string]struct {
		arrange func(b *bundle, j *dataflow.Job)
		orphan  bool
		suspect bool
	}{
		"its workflow and its run are closed":           {closed, true, true},
		"its workflow is closed and its run is unknown": {func(b *bundle, _ *dataflow.Job) { b.temporal.workflows[id] = &execution{parent: run} }, true, true},
		"its workflow is unknown":                       {func(*bundle, *dataflow.Job) {}, true, true},
		"Temporal does not answer at first": {func(b *bundle, j *dataflow.Job) {
			closed(b, j)
			b.temporal.onDescribe = func(n int, _ string) error {
				if n%4 == 1 {
					return serviceerror.NewUnavailable("down")
				}
				return nil
			}
		}, true, true},
		"its workflow is open": {func(b *bundle, _ *dataflow.Job) { b.temporal.workflows[id] = &execution{open: true, parent: run} }, false, false},
		"its run is open":      {func(b *bundle, j *dataflow.Job) { closed(b, j); b.temporal.workflows[run].open = true }, false, false},
		"its run is open, as an adopted job's memo says": {func(b *bundle, _ *dataflow.Job) {
			b.temporal.workflows[id] = &execution{memo: map[string]any{runs.MemoOrphan: runs.OrphanMemo{Sweep: "before", RunID: run}}}
			b.temporal.workflows[run] = &execution{open: true}
		}, false, false},
		"its label is another deployment's": {func(b *bundle, j *dataflow.Job) { closed(b, j); j.Labels[runs.LabelDeployment] = "dev-00000000" }, false, false},
		"it has no labels":                  {func(b *bundle, j *dataflow.Job) { closed(b, j); j.Labels = nil }, false, false},
		"its name is another deployment's":  {func(b *bundle, j *dataflow.Job) { closed(b, j); j.Name = "dev2-orders-load-abc-1" }, false, false},
		"it is over, and the list shows it": {func(b *bundle, j *dataflow.Job) {
			closed(b, j)
			b.dataflow.onGet = func(int, string) error { j.State = dataflow.StateDone; return nil }
		}, false, false},
		"it cannot be found by its ID": {func(b *bundle, j *dataflow.Job) {
			closed(b, j)
			b.dataflow.onGet = func(int, string) error { return refusal(dataflow.KindNotFound, "none") }
		}, false, false},
		"a proxy says not found": {func(b *bundle, _ *dataflow.Job) {
			b.temporal.onDescribe = func(int, string) error { return bareNotFound() }
		}, false, false},
		"the namespace cannot be found": {func(b *bundle, _ *dataflow.Job) {
			b.temporal.onDescribe = func(int, string) error { return serviceerror.NewNamespaceNotFound("x") }
		}, false, false},
		"its workflow is open by then":   {later(func(b *bundle, _ *dataflow.Job) { b.temporal.workflows[id] = &execution{open: true} }), false, true},
		"its run is open by then":        {later(func(b *bundle, _ *dataflow.Job) { b.temporal.workflows[run] = &execution{open: true} }), false, true},
		"it is over by then":             {later(func(_ *bundle, j *dataflow.Job) { j.State = dataflow.StateDone }), false, true},
		"its label is another's by then": {later(func(_ *bundle, j *dataflow.Job) { j.Labels = nil }), false, true},
		"many ask while it waits": {func(b *bundle, j *dataflow.Job) {
			closed(b, j)
			for i := range 8 {
				other := b.add(fmt.Sprint("other-", i), jobNamed(100+i))
				b.askAfter(time.Duration(i+1)*time.Minute, other.ID, other.Name, other.State, other.StateTime)
			}
		}, true, true},
	} {
		t.Run(what, func(t *testing.T) {
			b := sweepBundle(t, nil)
			j := b.add("job-1", name)
			tc.arrange(b, j)
			r := b.sweep(t)
			if (r.OrphanCount == 1) != tc.orphan || (r.Suspects == 1) != tc.suspect || r.Cleared != r.Suspects-r.OrphanCount {
				t.Fatalf("%+v", r)
			}
			if took := b.Now().Sub(b.begun); tc.orphan && took < 10*time.Minute {
				t.Errorf("found after %v", took)
			}
			if tc.orphan && (len(r.Orphans) != 1 || r.Orphans[0].JobID != "job-1" || r.Orphans[0].Done != string(runs.OrphansReport) || r.Orphans[0].Pipeline != "orders") {
				t.Errorf("orphans %+v", r.Orphans)
			}
			b.calls(t, map[string]int{"cancel": 0, "drain": 0, "launch": 0})
			if b.temporal.starts != 0 {
				t.Error("a workflow was started")
			}
		})
	}
}

// The second look is at the suspects alone: no list, and no look at jobs that are watched.
func TestTheSecondLookIsAtSuspectsAlone(t *testing.T) {
	b := sweepBundle(t, nil)
	b.add("job-1", jobNamed(1))
	for i := range 20 {
		other := b.add(fmt.Sprint("other-", i), jobNamed(100+i))
		b.temporal.workflows[workflowOf(other.Name)] = &execution{open: true}
	}
	if r := b.sweep(t); r.OrphanCount != 1 || r.Ours != 21 {
		t.Errorf("%+v", r)
	}
	b.calls(t, map[string]int{"list": 1, "get": 2})
	if len(b.temporal.described) != 22 {
		t.Errorf("described %d workflows", len(b.temporal.described))
	}
}

func TestWhatIsDoneWithAnOrphan(t *testing.T) {
	id := workflowOf(jobNamed(1))
	for what, tc := range map[string]struct {
		rule      runs.OrphanRule
		streaming bool
		arrange   func(b *bundle)
		done      string // empty: it turns out to be none
		stop      *runs.Stop
		starts    int
	}{
		"adopted":                    {runs.OrphansAdopt, false, nil, "adopt", nil, 1},
		"adopted, a streaming job":   {runs.OrphansAdopt, true, nil, "adopt", nil, 1},
		"drained":                    {runs.OrphansDrain, true, nil, "drain", &runs.Stop{Reason: runs.StopOrphan}, 1},
		"cancelled":                  {runs.OrphansCancel, true, nil, "cancel", &runs.Stop{Reason: runs.StopOrphan, NoDrain: true}, 1},
		"adopted at the second call": {runs.OrphansAdopt, false, func(b *bundle) { b.temporal.onStart = firstFails }, "adopt", nil, 2},
		"adopted, and the answer is lost": {runs.OrphansAdopt, false, func(b *bundle) {
			b.temporal.onStart, b.temporal.lost = firstFails, true
		}, "adopt", nil, 1},
		"nothing, as somebody else has it by then": {runs.OrphansCancel, false, func(b *bundle) {
			b.temporal.onStart = func(n int) error {
				b.temporal.workflows[id] = &execution{open: true, parent: "dev/orders/k1"}
				return nil
			}
		}, "", nil, 1},
	} {
		t.Run(what, func(t *testing.T) {
			b := sweepBundle(t, func(w *worker.Workflows) { w.Orphans = tc.rule })
			j := b.add("job-1", jobNamed(1))
			if tc.streaming {
				j.Type = dataflow.TypeStreaming
			}
			b.temporal.workflows[id] = &execution{parent: "dev/orders/k1"}
			if tc.arrange != nil {
				tc.arrange(b)
			}
			r := b.sweep(t)
			b.calls(t, map[string]int{"cancel": 0, "drain": 0})
			if b.temporal.starts != tc.starts {
				t.Errorf("%d starts, want %d", b.temporal.starts, tc.starts)
			}
			if tc.done == "" {
				if r.OrphanCount != 0 || r.Cleared != 1 {
					t.Errorf("%+v", r)
				}
				return
			}
			if r.OrphanCount != 1 || r.Orphans[0].Done != tc.done {
				t.Fatalf("%+v", r)
			}
			w := b.temporal.workflows[id]
			in, _ := w.input.(runs.JobInput)
			kind := map[bool]string{false: runs.TypeJob, true: runs.TypeStreamingJob}[tc.streaming]
			if !w.open || w.typ != kind || w.queue != "penstock-dev" || in.JobName != j.Name || in.RunID != "" || in.Resume == nil || in.Resume.JobID != "job-1" {
				t.Fatalf("started %s: %+v", w.typ, in)
			}
			if (in.Resume.Stop == nil) != (tc.stop == nil) || tc.stop != nil && *in.Resume.Stop != *tc.stop {
				t.Errorf("stop %+v, want %+v", in.Resume.Stop, tc.stop)
			}
		})
	}
}

func firstFails(n int) error {
	if n == 1 {
		return serviceerror.NewUnavailable("down")
	}
	return nil
}

// What the sweep starts for an orphan carries it to its end, whatever Dataflow answers.
func TestAnOrphansWorkflowSeesItToItsEnd(t *testing.T) {
	for what, tc := range map[string]struct {
		streaming bool
		stop      *runs.Stop
		arrange   func(b *bundle)
		calls     map[string]int
		state     dataflow.State
	}{
		"adopted, it ends by itself": {false, nil, func(b *bundle) { b.ends(3*time.Hour, "job-1", dataflow.StateDone) }, map[string]int{"cancel": 0, "drain": 0}, dataflow.StateDone},
		"adopted, it turns out to be of another type": {false, nil, func(b *bundle) {
			b.dataflow.jobs[0].Type = dataflow.TypeStreaming
			b.RegisterDelayedCallback(func() {
				b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", State: string(dataflow.StateRunning), StateTime: b.Now(), Type: string(dataflow.TypeStreaming)})
			}, time.Minute)
			b.ends(3*time.Hour, "job-1", dataflow.StateDrained)
		}, map[string]int{"cancel": 0, "drain": 0}, dataflow.StateDrained},
		"drained":                        {true, &runs.Stop{Reason: runs.StopOrphan}, nil, map[string]int{"cancel": 0, "drain": 1}, dataflow.StateDrained},
		"drained, and it is a batch job": {false, &runs.Stop{Reason: runs.StopOrphan}, nil, map[string]int{"cancel": 1, "drain": 0}, dataflow.StateCancelled},
		"cancelled":                      {true, &runs.Stop{Reason: runs.StopOrphan, NoDrain: true}, nil, map[string]int{"cancel": 1, "drain": 0}, dataflow.StateCancelled},
		"cancelled, not ready for it at first": {false, &runs.Stop{Reason: runs.StopOrphan, NoDrain: true}, func(b *bundle) {
			b.dataflow.onCancel = func(n int, _ bool) error {
				if n < 3 {
					return refusal(dataflow.KindNotReady, "not yet ready for canceling")
				}
				return nil
			}
		}, map[string]int{"cancel": 3}, dataflow.StateCancelled},
		"cancelled, and it is done before": {false, &runs.Stop{Reason: runs.StopOrphan, NoDrain: true}, func(b *bundle) {
			b.dataflow.onCancel = func(int, bool) error {
				b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateDone)
				return refusal(dataflow.KindTerminated, "has terminated")
			}
		}, map[string]int{"cancel": 1}, dataflow.StateDone},
		"cancelled by force in the end": {false, &runs.Stop{Reason: runs.StopOrphan, NoDrain: true}, func(b *bundle) {
			b.dataflow.stopped = func(j *dataflow.Job) {
				b.dataflow.set(j, dataflow.StateCancelling)
				if slices.Contains(b.dataflow.calls, "force") {
					b.dataflow.set(j, dataflow.StateCancelled)
				}
			}
		}, map[string]int{"force": 1}, dataflow.StateCancelled},
	} {
		t.Run(what, func(t *testing.T) {
			b := setup(t)
			j := b.add("job-1", jobNamed(1))
			if tc.streaming {
				j.Type = dataflow.TypeStreaming
			}
			if tc.arrange != nil {
				tc.arrange(b)
			}
			in := runs.JobInput{
				Version: runs.RecordVersion, Deployment: "dev", Attempt: 1, Project: project, Location: location, JobName: j.Name, Sweep: true,
				Resume: &runs.JobState{JobID: j.ID, State: string(j.State), StateTime: j.StateTime, Type: string(j.Type), Adopted: true, Announced: true, Begun: j.CreateTime, Stop: tc.stop},
			}
			in.Job.Streaming = tc.streaming
			r := b.runJob(t, in)
			if r.JobID != "job-1" || r.State != string(tc.state) {
				t.Errorf("%+v", r)
			}
			b.calls(t, tc.calls)
		})
	}
}

func TestOverdueRunsAreNamedOnce(t *testing.T) {
	b := sweepBundle(t, func(w *worker.Workflows) { w.Overdue = 6 * time.Hour })
	b.temporal.overdue = []string{"dev/orders/a", "dev/orders/b"}
	b.dataflow.onList = func(n int) error {
		if n == 1 {
			b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{})
		}
		return nil
	}
	r := b.sweep(t)
	if r.Lists != 2 || len(r.Overdue) != 2 || r.Overdue[0].RunID != "dev/orders/a" {
		t.Errorf("%+v", r)
	}
	for _, part := range []string{"TaskQueue = 'penstock-dev'", "WorkflowType = 'Run'", "ExecutionStatus = 'Running'", b.begun.Add(-6 * time.Hour).UTC().Format("2006-01-02T15")} {
		if !strings.Contains(b.temporal.query, part) {
			t.Errorf("query %s lacks %s", b.temporal.query, part)
		}
	}
	off := sweepBundle(t, nil)
	off.sweep(t)
	if off.temporal.query != "" {
		t.Error("runs were looked for, and none is overdue ever")
	}
}

// A sweep that goes on in a new history forgets neither who asked nor whom it suspects.
func TestASweepGoesOnInANewHistory(t *testing.T) {
	b := sweepBundle(t, nil)
	b.SetContinueAsNewSuggested(true)
	b.RegisterDelayedCallback(func() {
		b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{JobID: "job-1", JobName: jobNamed(1), State: string(dataflow.StateQueued), Watched: true})
	}, 0)
	b.ExecuteWorkflow(runs.TypeSweep, runs.SweepInput{Version: runs.RecordVersion, Place: place})
	var in runs.SweepInput
	b.goesOnWith(t, &in)
	if in.Resume == nil || len(in.Resume.Asked) != 1 || in.Place != place || !in.Resume.Look {
		t.Fatalf("goes on with %+v", in)
	}

	b = sweepBundle(t, nil)
	j := b.add("job-1", jobNamed(1))
	b.temporal.workflows[workflowOf(j.Name)] = &execution{open: true}
	gone := b.add("job-2", jobNamed(2))
	in.Resume.Suspects = []runs.Suspect{{Orphan: runs.Orphan{JobID: gone.ID, JobName: gone.Name}, Since: b.Now().Add(-9 * time.Minute)}}
	b.ExecuteWorkflow(runs.TypeSweep, in)
	var r runs.SweepResult
	if err := b.GetWorkflowResult(&r); err != nil {
		t.Fatal(err)
	}
	if b.told() != "job-1:RUNNING" || r.OrphanCount != 1 || b.Now().Sub(b.begun) > 5*time.Minute {
		t.Errorf("told %s; %+v after %v", b.told(), r, b.Now().Sub(b.begun))
	}
}

// While Dataflow's list cannot be had others ask, and a history takes only so much.
func TestASweepInTroubleGoesOnInANewHistory(t *testing.T) {
	b := sweepBundle(t, nil)
	b.dataflow.onList = func(int) error { return refusal(dataflow.KindTransient, "503") }
	b.RegisterDelayedCallback(func() {
		b.SetContinueAsNewSuggested(true)
		b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{JobID: "job-1", JobName: jobNamed(1), State: string(dataflow.StateQueued), Watched: true})
	}, 10*time.Minute)
	b.ExecuteWorkflow(runs.TypeSweep, runs.SweepInput{Version: runs.RecordVersion, Place: place})
	var in runs.SweepInput
	b.goesOnWith(t, &in)
	if took := b.Now().Sub(b.begun); in.Resume == nil || len(in.Resume.Asked) != 1 || !in.Resume.Look || took > 20*time.Minute {
		t.Errorf("goes on after %v with %+v", took, in.Resume)
	}
}

// The same while it looks at jobs that nobody asked about: the next history lists them again.
func TestASweepThatDoesNotComeToItsSuspectsListsThemInANewHistory(t *testing.T) {
	b := sweepBundle(t, nil)
	b.add("job-1", jobNamed(1))
	b.temporal.onDescribe = func(int, string) error { return serviceerror.NewUnavailable("down") }
	b.RegisterDelayedCallback(func() { b.SetContinueAsNewSuggested(true) }, 5*time.Minute)
	b.ExecuteWorkflow(runs.TypeSweep, runs.SweepInput{Version: runs.RecordVersion, Place: place})
	var in runs.SweepInput
	b.goesOnWith(t, &in)
	if in.Resume == nil || !in.Resume.Look || len(in.Resume.Suspects) != 0 {
		t.Errorf("goes on with %+v", in.Resume)
	}
}

// A suspect whose second look meets trouble keeps nobody from news, and is not forgotten.
func TestASuspectInTroubleIsLookedAtAgain(t *testing.T) {
	b := sweepBundle(t, nil)
	b.add("job-1", jobNamed(1))
	j := b.add("job-2", jobNamed(2))
	b.dataflow.onList = func(n int) error {
		b.dataflow.unlisted = map[string]bool{"job-1": n > 1} // so that it is not found anew
		return nil
	}
	trouble := func() bool {
		since := b.Now().Sub(b.begun)
		return since > 5*time.Minute && since < 50*time.Minute
	}
	b.temporal.onDescribe = func(_ int, id string) error {
		if trouble() && id == workflowOf(jobNamed(1)) {
			return serviceerror.NewUnavailable("down")
		}
		return nil
	}
	b.temporal.workflows[workflowOf(j.Name)] = &execution{open: true, parent: "dev/orders/k2"}
	b.RegisterDelayedCallback(func() {
		b.SignalWorkflow(runs.SignalAsk, runs.SweepAsk{JobID: j.ID, JobName: j.Name, State: string(dataflow.StateQueued), Watched: true})
	}, 12*time.Minute)
	b.RegisterDelayedCallback(func() {
		if got := b.told(); got != "job-2:RUNNING" {
			t.Errorf("told %q within half an hour", got)
		}
	}, 30*time.Minute)
	if r := b.sweep(t); r.OrphanCount != 1 || r.Unseen != 0 || r.Cleared != 0 {
		t.Errorf("%+v", r)
	}
	if took := b.Now().Sub(b.begun); took < 50*time.Minute || took > 80*time.Minute {
		t.Errorf("it took %v", took)
	}
}

func TestTheDailyLookAsksForTheSweep(t *testing.T) {
	b := sweepBundle(t, nil)
	b.temporal.onAsk = func(n int) error {
		if n < 3 {
			return serviceerror.NewUnavailable("down")
		}
		return nil
	}
	b.ExecuteWorkflow(runs.TypeDailySweep, runs.SweepInput{Version: runs.RecordVersion, Place: place})
	if err := b.GetWorkflowError(); err != nil || len(b.temporal.asks) != 3 || b.temporal.asks[2].Watched {
		t.Errorf("error %v, asks %+v", err, b.temporal.asks)
	}
}

// The first launch in a place arranges its daily look; no launch depends on that.
func TestTheDailyLookIsArrangedWithTheFirstLaunch(t *testing.T) {
	for name, fails := range map[string]bool{"at the first try": false, "again later, after a failure": true} {
		t.Run(name, func(t *testing.T) {
			var arranged []runs.Place
			b := setupWith(t, func(_ *worker.Workflows, a *worker.Activities) {
				a.Daily = func(_ context.Context, at runs.Place) error {
					arranged = append(arranged, at)
					if fails {
						return errors.New("no such permission")
					}
					return nil
				}
			})
			b.everyJob(allDone)
			r, err := b.run(t, runInput(planned("a"), planned("b", "a"), planned("c", "b")))
			if err != nil || r.Outcome != runs.OutcomeSucceeded {
				t.Fatalf("outcome %s, error %v", r.Outcome, err)
			}
			if len(arranged) != 1 || arranged[0] != place {
				t.Errorf("arranged for %v", arranged)
			}
		})
	}
}

// A job's workflow without news asks the sweep, again and again, and looks for nothing itself.
func TestTheSafetyTimerAsksTheSweep(t *testing.T) {
	b := setup(t)
	b.RegisterDelayedCallback(func() {
		b.SignalWorkflow(runs.SignalStatus, runs.JobStatus{JobID: "job-1", State: string(dataflow.StateDone), StateTime: b.Now(), Event: "sweep"})
	}, 330*time.Minute)
	in := jobInput()
	in.Sweep = true
	check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
	b.calls(t, map[string]int{"get": 0, "launch": 1})
	if n := len(b.temporal.asks); n < 5 || n > 6 {
		t.Errorf("asked %d times in 5.5 hours", n)
	}
	for _, ask := range b.temporal.asks {
		if !ask.Watched || ask.JobID != "job-1" || ask.JobName != in.JobName || ask.RunID != in.RunID || ask.State == "" || ask.StateTime.IsZero() {
			t.Errorf("asked %+v", ask)
		}
	}
}

// All that wait ask at the same instants, so that one list serves them.
func TestSafetyTimersMeet(t *testing.T) {
	instants := map[time.Time]int{}
	for i := range 12 {
		b := setup(t)
		b.SetStartTime(time.Date(2026, 11, 22, 6, 1+5*i, 7*i, 0, time.UTC))
		b.temporal.onAsk = func(int) error { instants[b.Now().Truncate(time.Minute)]++; return nil }
		b.ends(6*time.Hour, "job-1", dataflow.StateDone)
		in := jobInput()
		in.Sweep = true
		b.begun = b.Now()
		b.runJob(t, in)
	}
	for at := range instants {
		if at.Minute()%15 != 0 {
			t.Errorf("one asked at %v", at)
		}
	}
}

// Nothing is asked for a job that ends before its safety timer: but for the daily look, the sweep costs nothing.
func TestAJobWithNewsNeverAsks(t *testing.T) {
	b := setup(t)
	b.ends(40*time.Minute, "job-1", dataflow.StateDone)
	in := jobInput()
	in.Sweep = true
	check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
	if len(b.temporal.asks)+len(b.temporal.described) != 0 || len(b.dataflow.calls) != 3 {
		t.Errorf("asks %v, described %v, calls %v", b.temporal.asks, b.temporal.described, b.dataflow.calls)
	}
}

func TestTheSafetyTimerInTrouble(t *testing.T) {
	t.Run("an ask that fails is repeated soon", func(t *testing.T) {
		b := setup(t)
		b.temporal.onAsk = func(n int) error {
			if n < 4 {
				return serviceerror.NewUnavailable("down")
			}
			return nil
		}
		b.ends(65*time.Minute, "job-1", dataflow.StateDone)
		in := jobInput()
		in.Sweep = true
		check(t, b.runJob(t, in), runs.OutcomeSucceeded, "job-1")
		if len(b.temporal.asks) != 4 {
			t.Errorf("asked %d times", len(b.temporal.asks))
		}
	})
	t.Run("a closed run stops the job", func(t *testing.T) {
		b := setup(t)
		b.temporal.closed = map[string]bool{"dev/orders/k": true}
		in := jobInput()
		in.Sweep = true
		check(t, b.runJob(t, in), runs.OutcomeCancelled, "job-1")
	})
	t.Run("a run that cannot be seen is looked at again, without another ask", func(t *testing.T) {
		b := setup(t)
		b.temporal.onDescribe = func(n int, _ string) error {
			if n < 4 {
				return serviceerror.NewUnavailable("down")
			}
			return nil
		}
		b.temporal.closed = map[string]bool{"dev/orders/k": true}
		in := jobInput()
		in.Sweep = true
		check(t, b.runJob(t, in), runs.OutcomeCancelled, "job-1")
		// An hour to the look, and half an hour until the cancel is forced.
		if len(b.temporal.asks) != 1 || b.Now().Sub(b.begun) > 100*time.Minute {
			t.Errorf("asked %d times in %v", len(b.temporal.asks), b.Now().Sub(b.begun))
		}
	})
	// Of a workflow that began before there was a sweep.
	t.Run("what Dataflow said counts though the run cannot be seen", func(t *testing.T) {
		b := setup(t)
		b.temporal.onDescribe = func(int, string) error { return serviceerror.NewUnavailable("down") }
		b.RegisterDelayedCallback(func() {
			b.dataflow.mu.Lock()
			defer b.dataflow.mu.Unlock()
			b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateDone)
		}, 30*time.Minute)
		check(t, b.runJob(t, jobInput()), runs.OutcomeSucceeded, "job-1")
		b.calls(t, map[string]int{"get": 1})
	})
}

func TestANewerSweepInputIsRefused(t *testing.T) {
	for _, typ := range []string{runs.TypeSweep, runs.TypeDailySweep} {
		b := sweepBundle(t, nil)
		b.ExecuteWorkflow(typ, runs.SweepInput{Version: runs.RecordVersion + 1, Place: place})
		var app *temporal.ApplicationError
		if err := b.GetWorkflowError(); !errors.As(err, &app) || !strings.Contains(app.Message(), "newer worker") || len(b.dataflow.calls) != 0 {
			t.Errorf("%s: %v", typ, err)
		}
	}
}
