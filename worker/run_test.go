package worker_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/mock"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

// planned is a step with the steps that it needs; its template names it.
func planned(name string, needs ...string) pipeline.PlannedStep {
	return pipeline.PlannedStep{
		Name: name, Needs: needs,
		Job:     pipeline.Job{Template: "gs://templates/" + name + ".json", Parameters: map[string]string{"output": "gs://out/" + name}},
		Timeout: 24 * time.Hour,
		Retry:   pipeline.Retry{Attempts: 1, Backoff: time.Minute, MaxBackoff: time.Hour},
	}
}

func runInput(steps ...pipeline.PlannedStep) runs.RunInput {
	return runs.RunInput{
		Version: runs.RecordVersion, Deployment: "dev", Pipeline: "orders", Key: "k", Identity: "k",
		Config: pipeline.Version{Hash: "abc"}, Project: project, Location: location, Steps: steps,
	}
}

// run executes a run to its end and gives its result, whichever way it ended.
func (b *bundle) run(t *testing.T, in runs.RunInput) (runs.RunResult, error) {
	t.Helper()
	b.ExecuteWorkflow(runs.TypeRun, in)
	if !b.IsWorkflowCompleted() {
		t.Fatal("the run did not complete")
	}
	err := b.GetWorkflowError()
	var (
		r         runs.RunResult
		failed    *temporal.ApplicationError
		cancelled *temporal.CanceledError
	)
	switch {
	case err == nil:
		if err := b.GetWorkflowResult(&r); err != nil {
			t.Fatal(err)
		}
	case errors.As(err, &failed):
		if failed.Type() != worker.ErrorRunFailed {
			t.Fatalf("error of type %s: %v", failed.Type(), err)
		}
		if err := failed.Details(&r); err != nil {
			t.Fatal(err)
		}
	case errors.As(err, &cancelled):
		if err := cancelled.Details(&r); err != nil {
			t.Fatal(err)
		}
	default:
		t.Fatal(err)
	}
	return r, err
}

// everyJob lets each job come to the end that end says, by its step and attempt, 10 minutes after its launch.
func (b *bundle) everyJob(end func(step string, attempt int) dataflow.State) {
	attempts := map[string]int{}
	b.dataflow.launched = func(j *dataflow.Job) {
		step := strings.Split(j.Name, "-")[2]
		attempts[step]++
		attempt, id, name := attempts[step], j.ID, j.Name
		b.RegisterDelayedCallback(func() {
			state := end(step, attempt)
			if state == "" {
				return
			}
			b.dataflow.mu.Lock()
			b.dataflow.set(b.dataflow.job(id), state)
			b.dataflow.mu.Unlock()
			_ = b.SignalWorkflowByID(runs.JobWorkflowID(project, location, name), runs.SignalStatus, runs.JobStatus{JobID: id, State: string(state), StateTime: b.Now()})
		}, 10*time.Minute)
	}
}

func allDone(string, int) dataflow.State { return dataflow.StateDone }

func outcomes(r runs.RunResult) string {
	var s []string
	for _, step := range r.Steps {
		s = append(s, fmt.Sprintf("%s:%s/%d", step.Name, step.Outcome, len(step.Attempts)))
	}
	return strings.Join(s, " ")
}

func TestStepsRunWhenWhatTheyNeedIsDone(t *testing.T) {
	b := setup(t)
	b.everyJob(allDone)
	r, err := b.run(t, runInput(planned("last", "left", "right"), planned("left", "first"), planned("right", "first"), planned("first")))
	if err != nil || r.Outcome != runs.OutcomeSucceeded {
		t.Fatalf("outcome %s, error %v", r.Outcome, err)
	}
	var order []string
	for _, j := range b.dataflow.jobs {
		order = append(order, fmt.Sprintf("%s@%v", strings.Split(j.Name, "-")[2], j.CreateTime.Sub(b.dataflow.jobs[0].CreateTime).Round(time.Minute)))
	}
	slices.Sort(order) // of two steps that begin together either may be first
	if want := []string{"first@0s", "last@20m0s", "left@10m0s", "right@10m0s"}; !slices.Equal(order, want) {
		t.Errorf("jobs %v, want %v", order, want)
	}
}

func TestALaterStepSeesWhatAnEarlierOneDid(t *testing.T) {
	b := setup(t)
	b.dataflow.metrics = map[string]int64{"rows": 3}
	b.everyJob(allDone)
	load := planned("load", "clean")
	load.Job.Deferred = []pipeline.Deferred{{In: "parameters", Name: "input", Text: "${steps.clean.parameters.output}#${steps.clean.metrics.rows}"}}
	if _, err := b.run(t, runInput(planned("clean"), load)); err != nil {
		t.Fatal(err)
	}
	v, err := b.QueryWorkflow(runs.QueryState)
	if err != nil {
		t.Fatal(err)
	}
	var r runs.RunResult
	if err := v.Get(&r); err != nil {
		t.Fatal(err)
	}
	if got := r.Steps[1].Attempts[0].Parameters["input"]; got != "gs://out/clean#3" {
		t.Errorf("parameter input is %q", got)
	}
}

// A job's workflow gets what its expressions can use, and no more than Temporal takes.
func TestWhatALaterStepIsGiven(t *testing.T) {
	later := planned("load", "clean", "check")
	later.Job.Deferred = []pipeline.Deferred{{In: "parameters", Name: "input", Text: `${steps["clean"].parameters.output}`}}
	t.Run("is about the steps that it names", func(t *testing.T) {
		b := setup(t)
		b.everyJob(allDone)
		given := map[string][]string{}
		b.SetOnChildWorkflowStartedListener(func(_ *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
			var in runs.JobInput
			if err := args.Get(&in); err != nil {
				t.Error(err)
			}
			given[in.Step] = slices.Sorted(maps.Keys(in.Steps))
		})
		if _, err := b.run(t, runInput(planned("clean"), planned("check"), later)); err != nil {
			t.Fatal(err)
		}
		if want := []string{"clean"}; !slices.Equal(given["load"], want) || len(given["clean"]) != 0 {
			t.Errorf("given %v", given)
		}
	})
	t.Run("and too much of it fails the step", func(t *testing.T) {
		b := setup(t)
		b.everyJob(allDone)
		in := runInput(planned("clean"), planned("check"), later)
		in.Vars = pipeline.Vars{"event": map[string]any{"data": strings.Repeat("x", 1_600_000)}}
		r, err := b.run(t, in)
		if err == nil || r.Outcome != runs.OutcomeFailed || !strings.Contains(r.Error, "use less of it") || len(b.dataflow.jobs) != 2 {
			t.Errorf("%s: %s, %d jobs, error %v", r.Outcome, r.Error, len(b.dataflow.jobs), err)
		}
	})
}

func TestAFailedJobIsRetriedUnderTheNextName(t *testing.T) {
	b := setup(t)
	b.everyJob(func(_ string, attempt int) dataflow.State {
		if attempt < 3 {
			return dataflow.StateFailed
		}
		return dataflow.StateDone
	})
	s := planned("load")
	s.Retry.Attempts = 3
	r, err := b.run(t, runInput(s))
	if err != nil || outcomes(r) != "load:succeeded/3" {
		t.Fatalf("outcome %s, error %v", outcomes(r), err)
	}
	for i, j := range b.dataflow.jobs {
		if want := runs.JobName("dev", "orders", "k", "load", i+1); j.Name != want {
			t.Errorf("job %d is called %s, want %s", i+1, j.Name, want)
		}
	}
	if gap := b.dataflow.jobs[2].CreateTime.Sub(b.dataflow.jobs[1].CreateTime).Round(time.Minute); gap != 12*time.Minute {
		t.Errorf("%v between the second and the third launch, want the job's 10 minutes and a back-off doubled to 2", gap)
	}
}

func TestRetriesEnd(t *testing.T) {
	for name, tc := range map[string]struct {
		state   dataflow.State
		error   string
		retries int
		want    string
		says    string
	}{
		"after the attempts that were granted":     {dataflow.StateFailed, "row 7: bad date", 2, "load:failed/2", "row 7: bad date"},
		"at once when somebody cancelled the job":  {dataflow.StateCancelled, "", 5, "load:cancelled/1", "not by its run"},
		"not for want of quota, which is no fault": {dataflow.StateFailed, "Quota exceeded: too many concurrent jobs", 1, "load:succeeded/4", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.dataflow.errText = tc.error
			b.everyJob(func(_ string, attempt int) dataflow.State {
				if attempt == 4 {
					return dataflow.StateDone
				}
				return tc.state
			})
			s := planned("load")
			s.Retry.Attempts = tc.retries
			r, err := b.run(t, runInput(s))
			if outcomes(r) != tc.want || !strings.Contains(r.Error, tc.says) || (err == nil) != (r.Outcome == runs.OutcomeSucceeded) {
				t.Errorf("outcome %s, error %q (%v), want %s", outcomes(r), r.Error, err, tc.want)
			}
		})
	}
}

// A job that the quota will never take is given up in the end, and what is told of its
// attempts does not grow without bound.
func TestAQuotaThatIsNeverThere(t *testing.T) {
	b := setup(t)
	b.dataflow.errText = "Quota 'CPUS' exceeded. Limit: 24.0 in region us-central1." + strings.Repeat(" Ask for more.", 100)
	b.everyJob(func(string, int) dataflow.State { return dataflow.StateFailed })
	s := planned("load")
	s.Retry.Backoff, s.Retry.MaxBackoff = time.Second, time.Second
	r, err := b.run(t, runInput(s))
	took := b.Now().Sub(b.begun)
	if err == nil || r.Outcome != runs.OutcomeFailed || took < 20*time.Hour || took > 30*time.Hour || !strings.Contains(r.Error, "Quota 'CPUS' exceeded") {
		t.Errorf("outcome %s after %v, error %.200q", outcomes(r), took, r.Error)
	}
	attempts := r.Steps[0].Attempts
	for i, a := range attempts {
		if a.Attempt != i+1 || a.JobID == "" || a.State != string(dataflow.StateFailed) {
			t.Fatalf("attempt %d of %d: %+v", i+1, len(attempts), a)
		}
	}
	if early, late := attempts[3], attempts[len(attempts)-2]; len(early.Error) > 300 || early.Parameters != nil || len(late.Error) < 1000 || late.Parameters == nil {
		t.Errorf("told of the fourth attempt: %+v\nof the last but one: %+v", early, late)
	}
}

// Jobs that fail at once would be thousands in a day: a run's result has to stay small.
func TestAQuotaThatRefusesAtOnceIsGivenUpSooner(t *testing.T) {
	b := setup(t)
	b.dataflow.errText = "Quota 'CPUS' exceeded." + strings.Repeat(" Ask for more.", 100)
	b.dataflow.launched = func(j *dataflow.Job) { b.dataflow.set(j, dataflow.StateFailed) }
	s := planned("load")
	s.Retry.Backoff, s.Retry.MaxBackoff = time.Second, time.Second
	r, err := b.run(t, runInput(s))
	if err == nil || outcomes(r) != "load:failed/500" {
		t.Fatalf("outcome %s, error %v", outcomes(r), err)
	}
	if text, err := json.Marshal(r); err != nil || len(text) > 1<<20 {
		t.Errorf("its result has %d bytes (%v)", len(text), err)
	}
}

func TestARefusalIsNotRetried(t *testing.T) {
	b := setup(t)
	b.dataflow.onLaunch = func(int, dataflow.Launch) error { return refusal(dataflow.KindInvalid, "input: bad pattern") }
	s := planned("load")
	s.Retry.Attempts = 5
	r, _ := b.run(t, runInput(s))
	if r.Outcome != runs.OutcomeFailed || !strings.Contains(r.Error, "input: bad pattern") {
		t.Errorf("outcome %s, error %q", r.Outcome, r.Error)
	}
	b.calls(t, map[string]int{"launch": 1})
}

func TestATimeoutIsAFailedAttempt(t *testing.T) {
	b := setup(t)
	b.everyJob(func(_ string, attempt int) dataflow.State {
		if attempt == 2 {
			return dataflow.StateDone
		}
		return "" // hangs
	})
	s := planned("load")
	s.Retry.Attempts, s.Timeout = 2, time.Hour
	r, err := b.run(t, runInput(s))
	if err != nil || outcomes(r) != "load:succeeded/2" || r.Steps[0].Attempts[0].Outcome != runs.OutcomeTimedOut {
		t.Errorf("outcome %s, error %v, first attempt %+v", outcomes(r), err, r.Steps[0].Attempts)
	}
	b.calls(t, map[string]int{"cancel": 1})
}

// One of three steps fails: the others' jobs are cancelled, and the run ends after them.
func TestAFailingRunStopsItsOpenSteps(t *testing.T) {
	b := setup(t)
	b.everyJob(func(step string, _ int) dataflow.State {
		if step == "b" {
			return dataflow.StateFailed
		}
		return ""
	})
	r, err := b.run(t, runInput(planned("a"), planned("b"), planned("c"), planned("d", "a")))
	if err == nil || outcomes(r) != "a:cancelled/1 b:failed/1 c:cancelled/1 d:skipped/0" {
		t.Errorf("outcome %s, error %v", outcomes(r), err)
	}
	for _, j := range b.dataflow.jobs {
		if !j.State.Terminal() {
			t.Errorf("job %s is %s: nobody watches it", j.Name, j.State)
		}
	}
	if !strings.Contains(r.Error, "step b failed (attempt 1, job job-") {
		t.Errorf("error %q", r.Error)
	}
}

func TestCancellingARunCancelsItsJobsAndSaysWhich(t *testing.T) {
	for name, when := range map[string]func(b *bundle){
		"while they run":    func(b *bundle) { b.RegisterDelayedCallback(b.CancelWorkflow, 5*time.Minute) },
		"during the launch": func(b *bundle) { b.dataflow.launched = func(*dataflow.Job) { b.CancelWorkflow() } },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			when(b)
			r, err := b.run(t, runInput(planned("a"), planned("b", "a")))
			if !temporal.IsCanceledError(err) || outcomes(r) != "a:cancelled/1 b:skipped/0" {
				t.Errorf("outcome %s, error %v", outcomes(r), err)
			}
			if last, _ := r.Steps[0].Last(); last.JobID != "job-1" || last.State != string(dataflow.StateCancelled) {
				t.Errorf("attempt %+v", last)
			}
		})
	}
	t.Run("before they begin", func(t *testing.T) {
		b := setup(t)
		b.RegisterDelayedCallback(b.CancelWorkflow, 0)
		r, err := b.run(t, runInput(planned("a"), planned("b", "a")))
		if !temporal.IsCanceledError(err) || outcomes(r) != "a:skipped/0 b:skipped/0" || len(b.dataflow.jobs) != 0 {
			t.Errorf("outcome %s, error %v, jobs %v", outcomes(r), err, b.dataflow.jobs)
		}
	})
	t.Run("between two attempts", func(t *testing.T) {
		b := setup(t)
		b.everyJob(func(string, int) dataflow.State { return dataflow.StateFailed })
		b.RegisterDelayedCallback(b.CancelWorkflow, 10*time.Minute+30*time.Second)
		s := planned("a")
		s.Retry.Attempts = 5
		r, err := b.run(t, runInput(s))
		if !temporal.IsCanceledError(err) || outcomes(r) != "a:cancelled/1" {
			t.Errorf("outcome %s, error %v", outcomes(r), err)
		}
	})
	t.Run("too late", func(t *testing.T) {
		b := setup(t)
		b.dataflow.onCancel = func(int, bool) error {
			b.dataflow.set(b.dataflow.job("job-1"), dataflow.StateDone)
			return refusal(dataflow.KindTerminated, "the job has terminated")
		}
		b.RegisterDelayedCallback(b.CancelWorkflow, 5*time.Minute)
		r, err := b.run(t, runInput(planned("a")))
		if err != nil || outcomes(r) != "a:succeeded/1" {
			t.Errorf("outcome %s, error %v", outcomes(r), err)
		}
	})
}

// A child that is terminated, or handed over, leaves its job running: the attempt
// goes on under the same name, and adopts it.
func TestAnAttemptOutlivesItsWorkflow(t *testing.T) {
	for name, end := range map[string]func(runs.JobInput) (runs.JobResult, error){
		"terminated":  func(runs.JobInput) (runs.JobResult, error) { return runs.JobResult{}, &temporal.TerminatedError{} },
		"handed over": func(runs.JobInput) (runs.JobResult, error) { return runs.JobResult{HandedOver: true}, nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			var inputs []runs.JobInput
			b.OnWorkflow(runs.TypeJob, mock.Anything, mock.Anything).Return(func(_ workflow.Context, in runs.JobInput) (runs.JobResult, error) {
				inputs = append(inputs, in)
				if len(inputs) == 1 {
					return end(in)
				}
				return runs.JobResult{Outcome: runs.OutcomeSucceeded, Attempt: in.Attempt, JobID: "job-1", State: string(dataflow.StateDone)}, nil
			})
			r, err := b.run(t, runInput(planned("a")))
			if err != nil || outcomes(r) != "a:succeeded/1" {
				t.Fatalf("outcome %s, error %v", outcomes(r), err)
			}
			if len(inputs) != 2 || inputs[0].JobName != inputs[1].JobName || !inputs[0].First || inputs[1].First || inputs[1].Attempt != 1 {
				t.Errorf("inputs %+v", inputs)
			}
		})
	}
}

func TestDependantsOfAStreamingStepStartOnceItRuns(t *testing.T) {
	b := setup(t)
	b.everyJob(func(step string, _ int) dataflow.State {
		if step == "stream" {
			return dataflow.StateRunning
		}
		return dataflow.StateDone
	})
	stream := planned("stream")
	stream.Job.Streaming = true
	b.RegisterDelayedCallback(b.CancelWorkflow, 30*24*time.Hour)
	r, err := b.run(t, runInput(stream, planned("report", "stream")))
	if !temporal.IsCanceledError(err) || outcomes(r) != "stream:cancelled/1 report:succeeded/1" {
		t.Fatalf("outcome %s, error %v", outcomes(r), err)
	}
	if last, _ := r.Steps[0].Last(); last.State != string(dataflow.StateDrained) {
		t.Errorf("the streaming job ended %s, want it drained", last.State)
	}
}

// A retry that is stopped before it comes to a step stops what the step left running.
func TestAStoppedRetryStopsTheJobThatWasToGoOn(t *testing.T) {
	begin := func(t *testing.T) (*bundle, runs.RunInput) {
		t.Helper()
		b := setup(t)
		in := runInput(planned("a"), planned("b", "a"), planned("c", "a"))
		job := in.Steps[1].Job
		labels := map[string]string{
			runs.LabelDeployment: runs.DeploymentLabel("dev", namespace),
			runs.LabelSpec:       dataflow.Launch{Template: job.Template, Parameters: job.Parameters}.SpecHash(),
		}
		name := runs.JobName("dev", "orders", "k", "b", 1)
		b.dataflow.jobs = []*dataflow.Job{{ID: "old-b", Name: name, Project: project, Location: location, Labels: labels, Type: dataflow.TypeBatch, State: dataflow.StateRunning, StateTime: b.begun}}
		in.Retries = "first"
		in.Earlier = map[string]runs.StepResult{"b": {Name: "b", Outcome: runs.OutcomeRunning, Attempts: []runs.JobResult{{Attempt: 1, JobName: name, JobID: "old-b"}}}}
		return b, in
	}
	t.Run("when it is cancelled", func(t *testing.T) {
		b, in := begin(t)
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Minute)
		r, err := b.run(t, in)
		if !temporal.IsCanceledError(err) || outcomes(r) != "a:cancelled/1 b:cancelled/1 c:skipped/0" {
			t.Errorf("outcome %s, error %v", outcomes(r), err)
		}
		if j := b.dataflow.job("old-b"); j.State != dataflow.StateCancelled {
			t.Errorf("the earlier job is %s", j.State)
		}
	})
	t.Run("or says which it found, with other contents", func(t *testing.T) {
		b, in := begin(t)
		b.dataflow.jobs[0].Labels[runs.LabelSpec] = "0123456789abcdef"
		b.RegisterDelayedCallback(b.CancelWorkflow, time.Minute)
		r, err := b.run(t, in)
		if !temporal.IsCanceledError(err) || outcomes(r) != "a:cancelled/1 b:cancelled/1 c:skipped/0" || !strings.Contains(r.Steps[1].Error, "old-b") {
			t.Errorf("outcome %s (%s), error %v", outcomes(r), r.Steps[1].Error, err)
		}
	})
	t.Run("but not when it has no right to the key", func(t *testing.T) {
		b, in := begin(t)
		in.Dedupe = &pipeline.Dedupe{} // and there is no ledger
		r, err := b.run(t, in)
		if err == nil || outcomes(r) != "a:skipped/0 b:skipped/1 c:skipped/0" {
			t.Errorf("outcome %s, error %v", outcomes(r), err)
		}
		if j := b.dataflow.job("old-b"); j.State != dataflow.StateRunning {
			t.Errorf("the earlier job is %s", j.State)
		}
	})
}

func TestASecondExecutionGoesOnWhereTheFirstLeftOff(t *testing.T) {
	b := setup(t)
	b.everyJob(allDone)
	in := runInput(planned("a"), planned("b", "a"))
	in.Earlier = map[string]runs.StepResult{
		"a": {Name: "a", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{{Attempt: 1, JobID: "old-a", State: string(dataflow.StateDone)}}},
		"b": {Name: "b", Outcome: runs.OutcomeFailed, Attempts: []runs.JobResult{{Attempt: 1, JobID: "old-b", State: string(dataflow.StateFailed)}}},
	}
	r, err := b.run(t, in)
	if err != nil || outcomes(r) != "a:succeeded/1 b:succeeded/2" {
		t.Fatalf("outcome %s, error %v", outcomes(r), err)
	}
	if len(b.dataflow.jobs) != 1 || b.dataflow.jobs[0].Name != runs.JobName("dev", "orders", "k", "b", 2) {
		t.Errorf("jobs %+v", b.dataflow.jobs)
	}
}

// A run tells so much as Temporal takes: what is told of its newest attempts goes before the rest.
func TestAResultIsNoLargerThanTemporalTakes(t *testing.T) {
	b := setup(t)
	b.dataflow.metrics = map[string]int64{}
	for i := range 5000 {
		b.dataflow.metrics[fmt.Sprintf("a-counter-with-a-long-name-%06d-%s", i, strings.Repeat("x", 40))] = int64(i)
	}
	const attempts = 15
	b.everyJob(func(_ string, attempt int) dataflow.State {
		if attempt < attempts {
			return dataflow.StateFailed
		}
		return dataflow.StateDone
	})
	steps := []pipeline.PlannedStep{planned("a"), planned("b"), planned("c"), planned("d")}
	for i := range steps {
		steps[i].Retry.Attempts = attempts
	}
	r, err := b.run(t, runInput(steps...))
	if err != nil || r.Outcome != runs.OutcomeSucceeded {
		t.Fatalf("outcome %s, error %v", r.Outcome, err)
	}
	text, err := json.Marshal(r)
	if err != nil || len(text) > 1_600_000 {
		t.Errorf("a result of %d bytes (%v)", len(text), err)
	}
	for _, s := range r.Steps {
		first, last := s.Attempts[0], s.Attempts[len(s.Attempts)-1]
		if len(s.Attempts) != attempts || first.Metrics != nil || first.State == "" || len(last.Metrics) == 0 || last.Parameters["output"] == "" {
			t.Errorf("%s: %d attempts; of the first %d metrics, of the last %d", s.Name, len(s.Attempts), len(first.Metrics), len(last.Metrics))
		}
	}
	if !strings.Contains(r.Note, "left out") {
		t.Errorf("note %q", r.Note)
	}
}
