package worker_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

// kept is a bundle whose worker has a ledger. Its run's chain is testChain.
type kept struct {
	*bundle
	ledger *ledger.Ledger
	chains *chains
	down   error // what the ledger's calls fail with
	calls  int
	asked  func() // after a claim was answered, before the run hears of it
}

const testChain = "default-test-run-id" // the run ID that the test environment gives

func (k *kept) Acquire(ctx context.Context, mine ledger.Claim, state func(context.Context, ledger.Claim) (ledger.ChainState, error)) (ledger.Decision, error) {
	if k.calls++; k.down != nil {
		return ledger.Decision{}, k.down
	}
	d, err := k.ledger.Acquire(ctx, mine, state)
	if k.asked != nil {
		k.asked()
	}
	return d, err
}

func (k *kept) Finish(ctx context.Context, r ledger.Record) error {
	if k.calls++; k.down != nil {
		return k.down
	}
	return k.ledger.Finish(ctx, r)
}

func (k *kept) Read(ctx context.Context, deployment, pipeline, key string) (ledger.Entry, error) {
	if k.calls++; k.down != nil {
		return ledger.Entry{}, k.down
	}
	return k.ledger.Read(ctx, deployment, pipeline, key)
}

// chains stands in for Temporal's API: it knows one run.
type chains struct {
	executions
	first string // its chain; empty: it is forgotten
	open  bool
}

func (c *chains) DescribeWorkflowExecution(context.Context, string, string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	if c.first == "" {
		return nil, serviceerror.NewNotFound("workflow not found")
	}
	info := &workflowpb.WorkflowExecutionInfo{FirstRunId: c.first, Status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED}
	if c.open {
		info.Status = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}, nil
}

func setupLedger(t *testing.T) *kept {
	t.Helper()
	l, err := ledger.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	k := &kept{ledger: l, chains: &chains{}}
	k.bundle = setupWith(t, func(w *worker.Workflows, a *worker.Activities) {
		w.Ledger, a.Ledger, a.Temporal = true, k, k.chains
	})
	return k
}

func deduped(keep time.Duration) runs.RunInput {
	in := runInput(planned("only"))
	in.Dedupe = &pipeline.Dedupe{Keep: keep}
	return in
}

// before claims the key for an earlier run, which left the record unless it is empty.
func (k *kept) before(t *testing.T, age time.Duration, outcome runs.Outcome, change func(*ledger.Claim)) {
	t.Helper()
	c := ledger.Claim{Deployment: "dev", Pipeline: "orders", Key: "k", RunID: "dev/orders/k", Chain: "first", Identity: "k", At: time.Now().Add(-age)}
	if change != nil {
		change(&c)
	}
	if _, err := k.ledger.Claim(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if outcome == "" {
		return
	}
	if err := k.ledger.Finish(t.Context(), ledger.Record{
		Deployment: c.Deployment, Pipeline: c.Pipeline, Key: c.Key, RunID: c.RunID, Chain: c.Chain, Execution: c.Chain, Identity: c.Identity,
		Decision: "started", Outcome: outcome, Started: c.At, Ended: c.At.Add(time.Hour),
		Steps: []runs.StepResult{{Name: "only", Outcome: outcome, Attempts: []runs.JobResult{
			{Version: runs.RecordVersion, Outcome: outcome, Attempt: 1, JobName: "one", JobID: "job-of-old", State: string(dataflow.StateFailed)},
			{Version: runs.RecordVersion, Outcome: outcome, Attempt: 2, JobName: "two", JobID: "job-of-old-2", State: string(dataflow.StateDone)},
		}}},
	}); err != nil {
		t.Fatal(err)
	}
}

func TestARunWithDedupeClaimsItsKeyAndLeavesARecord(t *testing.T) {
	k := setupLedger(t)
	k.everyJob(allDone)
	k.dataflow.metrics = map[string]int64{"rows": 3}
	r, err := k.run(t, deduped(48*time.Hour))
	if err != nil || r.Outcome != runs.OutcomeSucceeded || r.Note != "" {
		t.Fatalf("%+v, %v", r, err)
	}
	e, err := k.ledger.Read(t.Context(), "dev", "orders", "k")
	if err != nil {
		t.Fatal(err)
	}
	if e.Claim.Chain != testChain || e.Claim.Expires.Sub(e.Claim.At) != 48*time.Hour {
		t.Errorf("claim %+v", e.Claim)
	}
	if e.Record == nil || e.Record.Outcome != runs.OutcomeSucceeded || e.Record.Config.Hash != "abc" || e.Record.Decision != "started" ||
		len(e.Record.Steps) != 1 || e.Record.Steps[0].Attempts[0].Metrics["rows"] != 3 || !e.Record.Ended.After(e.Record.Started) {
		t.Errorf("record %+v", e.Record)
	}
}

func TestARunWithoutDedupeLeavesARecordAndNoClaim(t *testing.T) {
	k := setupLedger(t)
	k.everyJob(func(string, int) dataflow.State { return dataflow.StateFailed })
	if _, err := k.run(t, runInput(planned("only"))); err == nil {
		t.Fatal("it succeeded")
	}
	if _, err := k.ledger.Read(t.Context(), "dev", "orders", "k"); !errors.Is(err, ledger.ErrNotFound) {
		t.Errorf("a claim: %v", err)
	}
	r, err := k.ledger.Record(t.Context(), "dev", "orders", "k", testChain)
	if err != nil || r.Outcome != runs.OutcomeFailed || !strings.Contains(r.Error, "step only failed") {
		t.Errorf("record %+v, %v", r, err)
	}
	if k.calls != 1 {
		t.Errorf("%d calls of the ledger, want one", k.calls)
	}
}

func TestARunWhoseKeyIsTakenLaunchesNothingAndNamesTheOther(t *testing.T) {
	for name, c := range map[string]struct {
		age     time.Duration
		outcome runs.Outcome // empty: it left no record
		claim   func(*ledger.Claim)
		open    bool
		want    runs.Outcome
		offer   bool
		reason  string
	}{
		"of a run that succeeded":          {age: 90 * 24 * time.Hour, outcome: runs.OutcomeSucceeded, want: runs.OutcomeDuplicate, reason: "ended as succeeded"},
		"of a run that failed":             {age: 90 * 24 * time.Hour, outcome: runs.OutcomeFailed, want: runs.OutcomeDuplicate, offer: true, reason: "ended as failed"},
		"of a run that is open":            {age: time.Hour, open: true, want: runs.OutcomeDuplicate, reason: "is still running"},
		"of a run that was lost long ago":  {age: 26 * 24 * time.Hour, want: runs.OutcomeDuplicate, offer: true, reason: "outcome is unknown"},
		"of a run that another event made": {age: time.Hour, outcome: runs.OutcomeSucceeded, claim: func(c *ledger.Claim) { c.Identity = "other" }, want: runs.OutcomeKeyTaken, reason: "ended as succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			k := setupLedger(t)
			k.before(t, c.age, c.outcome, c.claim)
			if c.open {
				k.chains.first, k.chains.open = "first", true
			}
			r, err := k.run(t, deduped(0))
			if err != nil || r.Outcome != c.want {
				t.Fatalf("%+v, %v", r, err)
			}
			if x := r.Taken; x == nil || x.RunID != "dev/orders/k" || x.Chain != "first" || x.Outcome != c.outcome || x.OfferRetry != c.offer || !strings.Contains(x.Reason, c.reason) {
				t.Errorf("taken by %+v", r.Taken)
			}
			if got := outcomes(r); got != "only:skipped/0" {
				t.Errorf("steps %s", got)
			}
			if n := len(k.dataflow.jobs); n != 0 {
				t.Errorf("%d jobs", n)
			}
			if _, err := k.ledger.Record(t.Context(), "dev", "orders", "k", testChain); !errors.Is(err, ledger.ErrNotFound) {
				t.Errorf("it left a record: %v", err)
			}
		})
	}
}

func TestAttemptsGoOnFromWhatTheLedgerKnows(t *testing.T) {
	for name, c := range map[string]struct {
		age     time.Duration
		outcome runs.Outcome
		claim   func(*ledger.Claim)
		retries string
		chain   string // that Temporal knows
		attempt int
	}{
		"after a claim that expired": {age: 90 * 24 * time.Hour, outcome: runs.OutcomeSucceeded, claim: func(c *ledger.Claim) { c.Expires = c.At.Add(time.Hour) }, attempt: 3},
		"for a retry":                {age: time.Hour, outcome: runs.OutcomeFailed, retries: "first", attempt: 3},
		"for a run that was lost":    {age: time.Hour, attempt: 1},
		"for a run that was ended":   {age: time.Hour, chain: "first", attempt: 1},
		"for an older one":           {age: time.Hour, chain: "other", attempt: 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := setupLedger(t)
			k.everyJob(allDone)
			k.before(t, c.age, c.outcome, c.claim)
			k.chains.first = c.chain
			var first []bool
			k.SetOnChildWorkflowStartedListener(func(_ *workflow.Info, _ workflow.Context, args converter.EncodedValues) {
				var job runs.JobInput
				if err := args.Get(&job); err != nil {
					t.Error(err)
				}
				first = append(first, job.First)
			})
			in := deduped(0)
			in.Retries = c.retries
			r, err := k.run(t, in)
			if err != nil || r.Outcome != runs.OutcomeSucceeded {
				t.Fatalf("%+v, %v", r, err)
			}
			last, _ := r.Steps[0].Last()
			if last.Attempt != c.attempt || len(k.dataflow.jobs) != 1 || k.dataflow.jobs[0].Name != runs.JobName("dev", "orders", "k", "only", c.attempt) {
				t.Errorf("attempt %d, jobs %+v", last.Attempt, k.dataflow.jobs)
			}
			if !slices.Equal(first, []bool{false}) { // somebody may have used the name
				t.Errorf("the job's name is taken to be new: %v", first)
			}
		})
	}
}

// What a run had done whose claim has expired is done again, also where it left no record.
func TestARunAfterAnExpiredClaimDoesNotTakeTheOldJobsForItsOwn(t *testing.T) {
	expired := func(c *ledger.Claim) { // by the clock of the test environment as well
		c.At = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		c.Expires = c.At.Add(time.Hour)
	}
	for name, c := range map[string]struct {
		claim   func(*ledger.Claim)
		retries string
		old     []dataflow.State // of the jobs of the run before
		spec    string           // of theirs; empty: as of this run's
		jobs    int
		attempt int
	}{
		"that was done":                    {expired, "", []dataflow.State{dataflow.StateDone}, "", 2, 2},
		"that failed at first":             {expired, "", []dataflow.State{dataflow.StateFailed, dataflow.StateDone}, "", 3, 3},
		"that did something else":          {expired, "", []dataflow.State{dataflow.StateFailed, dataflow.StateDone}, "0123456789abcdef", 3, 3},
		"whose job runs still":             {expired, "", []dataflow.State{dataflow.StateRunning}, "", 1, 1},
		"but of one that was lost":         {nil, "", []dataflow.State{dataflow.StateDone}, "", 1, 1},
		"but of one that a person retries": {expired, "first", []dataflow.State{dataflow.StateDone}, "", 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := setupLedger(t)
			k.everyJob(allDone)
			k.before(t, 24*time.Hour, "", c.claim)
			in := deduped(0)
			in.Retries = c.retries
			spec := cmp.Or(c.spec, dataflow.Launch{Template: in.Steps[0].Job.Template, Parameters: in.Steps[0].Job.Parameters}.SpecHash())
			for i, state := range c.old {
				id := fmt.Sprint("old-", i+1)
				k.dataflow.jobs = append(k.dataflow.jobs, &dataflow.Job{
					ID: id, CreateTime: k.begun.Add(-2 * time.Hour), Name: runs.JobName("dev", "orders", "k", "only", i+1), Type: dataflow.TypeBatch, State: state, StateTime: k.begun.Add(-time.Hour),
					Labels: map[string]string{runs.LabelDeployment: runs.DeploymentLabel("dev", namespace), runs.LabelSpec: spec},
				})
				if !state.Terminal() {
					k.RegisterDelayedCallback(func() {
						k.dataflow.mu.Lock()
						defer k.dataflow.mu.Unlock()
						k.dataflow.set(k.dataflow.job(id), dataflow.StateDone)
					}, 10*time.Minute)
				}
			}
			r, err := k.run(t, in)
			if err != nil || r.Outcome != runs.OutcomeSucceeded {
				t.Fatalf("%+v, %v", r, err)
			}
			last, _ := r.Steps[0].Last()
			if last.Attempt != c.attempt || len(k.dataflow.jobs) != c.jobs || len(r.Steps[0].Attempts) != c.attempt {
				t.Errorf("ended with attempt %d of %d, jobs %+v", last.Attempt, len(r.Steps[0].Attempts), k.dataflow.jobs)
			}
		})
	}
}

// A reset begins anew what an execution before it has done in part, and takes that for its own.
func TestARunAfterAnExpiredClaimTakesItsOwnJobsForItsOwn(t *testing.T) {
	k := setupLedger(t)
	k.everyJob(allDone)
	k.before(t, 0, "", func(c *ledger.Claim) {
		c.At = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
		c.Expires = c.At.Add(time.Hour)
	})
	own := ledger.Claim{Deployment: "dev", Pipeline: "orders", Key: "k", RunID: "default-test-workflow-id", Chain: "default-test-run-id", Identity: "k", At: k.begun.Add(-time.Hour)}
	gone := func(context.Context, ledger.Claim) (ledger.ChainState, error) { return ledger.ChainUnknown, nil }
	if d, err := k.ledger.Acquire(t.Context(), own, gone); err != nil || d.Verdict != ledger.Mine {
		t.Fatalf("%+v, %v", d, err)
	}
	in := deduped(0)
	job := func(n int, spec string, created time.Duration) {
		k.dataflow.jobs = append(k.dataflow.jobs, &dataflow.Job{
			ID: fmt.Sprint("job-of-", n), Name: runs.JobName("dev", "orders", "k", "only", n), Type: dataflow.TypeBatch, State: dataflow.StateDone,
			CreateTime: k.begun.Add(created), StateTime: k.begun.Add(-time.Minute),
			Labels: map[string]string{runs.LabelDeployment: runs.DeploymentLabel("dev", namespace), runs.LabelSpec: spec},
		})
	}
	job(1, "0123456789abcdef", -24*time.Hour)
	job(2, dataflow.Launch{Template: in.Steps[0].Job.Template, Parameters: in.Steps[0].Job.Parameters}.SpecHash(), -59*time.Minute)
	r, err := k.run(t, in)
	if err != nil || r.Outcome != runs.OutcomeSucceeded {
		t.Fatalf("%+v, %v", r, err)
	}
	if last, _ := r.Steps[0].Last(); last.JobID != "job-of-2" || len(k.dataflow.jobs) != 2 {
		t.Errorf("ended with %+v of %d jobs", last, len(k.dataflow.jobs))
	}
}

func TestARetryOfARunWhoseKeyWasTakenKeepsWhatTheOtherHasDone(t *testing.T) {
	for name, c := range map[string]struct {
		earlier map[string]runs.StepResult
		jobs    []string
	}{
		"what is done": {nil, []string{runs.JobName("dev", "orders", "k", "last", 1)}},
		"but what is to be done again": {map[string]runs.StepResult{"only": {Name: "only", Outcome: runs.OutcomePending}},
			[]string{runs.JobName("dev", "orders", "k", "only", 3), runs.JobName("dev", "orders", "k", "last", 1)}},
	} {
		t.Run(name, func(t *testing.T) {
			k := setupLedger(t)
			k.everyJob(allDone)
			k.before(t, time.Hour, runs.OutcomeSucceeded, nil)
			in := deduped(0)
			in.Steps = append(in.Steps, planned("last", "only"))
			in.Retries, in.Earlier = "first", c.earlier
			if r, err := k.run(t, in); err != nil || r.Outcome != runs.OutcomeSucceeded {
				t.Fatalf("%+v, %v", r, err)
			}
			var jobs []string
			for _, j := range k.dataflow.jobs {
				jobs = append(jobs, j.Name)
			}
			if !slices.Equal(jobs, c.jobs) {
				t.Errorf("jobs %q, want %q", jobs, c.jobs)
			}
		})
	}
}

func TestNoRunWithDedupeGoesOnWithoutALedger(t *testing.T) {
	b := setup(t)
	r, err := b.run(t, deduped(0))
	if err == nil || r.Outcome != runs.OutcomeFailed || !strings.Contains(r.Error, "set PENSTOCK_LEDGER") {
		t.Errorf("%+v, %v", r, err)
	}
	if n := len(b.dataflow.jobs); n != 0 {
		t.Errorf("%d jobs", n)
	}
}

func TestAClaimThatCannotBeReadFailsTheRun(t *testing.T) {
	k := setupLedger(t)
	k.down = &ledger.DamagedError{Object: "gs://ledger/claim.json", Err: errors.New("it is not JSON")}
	r, err := k.run(t, deduped(0))
	if err == nil || !strings.Contains(r.Error, "gs://ledger/claim.json") || len(k.dataflow.jobs) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestALedgerThatDoesNotAnswer(t *testing.T) {
	t.Run("is asked until it does", func(t *testing.T) {
		k := setupLedger(t)
		k.everyJob(allDone)
		k.down = errors.New("503")
		k.RegisterDelayedCallback(func() {
			if n := len(k.dataflow.jobs); n != 0 {
				t.Errorf("%d jobs before the claim", n)
			}
			var state runs.RunResult
			if v, err := k.QueryWorkflow(runs.QueryState); err != nil || v.Get(&state) != nil || !strings.Contains(state.Steps[0].Waiting, "503") {
				t.Errorf("it waits for %q (%v)", state.Steps[0].Waiting, err)
			}
			k.down = nil
		}, 6*time.Hour)
		if r, err := k.run(t, deduped(0)); err != nil || r.Outcome != runs.OutcomeSucceeded {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("does not hold a run that is cancelled", func(t *testing.T) {
		k := setupLedger(t)
		k.down = errors.New("503")
		k.RegisterDelayedCallback(k.CancelWorkflow, time.Hour)
		r, err := k.run(t, deduped(0))
		if err == nil || r.Outcome != runs.OutcomeCancelled || len(k.dataflow.jobs) != 0 {
			t.Errorf("%+v, %v", r, err)
		}
	})
	t.Run("lets a run that was cancelled meanwhile tell nothing in place of the key's own", func(t *testing.T) {
		k := setupLedger(t)
		k.before(t, 90*24*time.Hour, runs.OutcomeSucceeded, nil)
		k.down = errors.New("503")
		k.RegisterDelayedCallback(func() { k.CancelWorkflow(); k.down = nil }, time.Hour)
		if r, err := k.run(t, deduped(0)); err == nil || r.Outcome != runs.OutcomeCancelled || r.Note != "" {
			t.Fatalf("%+v, %v", r, err)
		}
		last, err := k.ledger.Last(t.Context(), "dev", "orders", ledger.KeyHash("k"))
		if err != nil || last.Chain != "first" || last.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the key's newest record: %+v, %v", last, err)
		}
	})
	t.Run("before the run is cancelled hides no attempt", func(t *testing.T) {
		k := setupLedger(t)
		k.before(t, 90*24*time.Hour, runs.OutcomeSucceeded, func(c *ledger.Claim) { c.Expires = c.At.Add(time.Hour) })
		k.asked = k.CancelWorkflow
		if r, err := k.run(t, deduped(0)); err == nil || r.Outcome != runs.OutcomeCancelled || r.Note != "" {
			t.Fatalf("%+v, %v", r, err)
		}
		if e, err := k.ledger.Read(t.Context(), "dev", "orders", "k"); err != nil || e.Claim.Chain != testChain || e.Record != nil {
			t.Fatalf("the key's claim: %+v, %v", e, err)
		}
		next := ledger.Claim{Deployment: "dev", Pipeline: "orders", Key: "k", RunID: "dev/orders/k", Chain: "next", Identity: "k", At: time.Now()}
		d, err := k.ledger.Acquire(t.Context(), next, func(context.Context, ledger.Claim) (ledger.ChainState, error) { return ledger.ChainClosed, nil })
		if err != nil || d.Verdict != ledger.Mine || d.Earlier == nil || len(d.Earlier.Steps) != 1 || len(d.Earlier.Steps[0].Attempts) != 2 {
			t.Errorf("the next run of the key goes on from %+v, %v", d, err)
		}
	})
	t.Run("before the key's first run is cancelled leaves its record", func(t *testing.T) {
		k := setupLedger(t)
		k.asked = k.CancelWorkflow
		if r, err := k.run(t, deduped(0)); err == nil || r.Outcome != runs.OutcomeCancelled {
			t.Fatalf("%+v, %v", r, err)
		}
		if e, err := k.ledger.Read(t.Context(), "dev", "orders", "k"); err != nil || e.Record == nil || e.Record.Outcome != runs.OutcomeCancelled {
			t.Errorf("%+v, %v", e, err)
		}
	})
	t.Run("for the final record is told in a note", func(t *testing.T) {
		k := setupLedger(t)
		k.everyJob(allDone)
		k.down = errors.New("503")
		begun := k.Now()
		r, err := k.run(t, runInput(planned("only")))
		if err != nil || r.Outcome != runs.OutcomeSucceeded || !strings.Contains(r.Note, "no final record") || !strings.Contains(r.Note, "503") {
			t.Errorf("%+v, %v", r, err)
		}
		if took := k.Now().Sub(begun); took > 25*time.Minute {
			t.Errorf("it was open for %v", took)
		}
	})
}
