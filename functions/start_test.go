package functions

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/runs"
)

func TestStartOfARun(t *testing.T) {
	b := setup(t, ordersFile)
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 7))
	if len(b.temporal.started) != 1 {
		t.Fatalf("%d runs", len(b.temporal.started))
	}
	got := b.temporal.started[0]
	const identity = "finalized:landing/orders/a.csv#7"
	if got.workflow != runs.TypeRun || got.options.ID != "dev/orders/"+identity || got.options.TaskQueue != "penstock-dev" {
		t.Errorf("started %s under %s on %s", got.workflow, got.options.ID, got.options.TaskQueue)
	}
	if got.options.WorkflowIDReusePolicy != enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE || !got.options.WorkflowExecutionErrorWhenAlreadyStarted {
		t.Error("a second start would not be told apart from the first")
	}
	if got.options.WorkflowExecutionTimeout != 0 || got.options.WorkflowRunTimeout != 0 {
		t.Error("a timeout of Temporal's ends a run without regard to its jobs")
	}
	if len(got.options.TypedSearchAttributes.GetUntypedValues()) != 0 || len(got.options.SearchAttributes) != 0 { //nolint:staticcheck // to show that it is not used
		t.Error("an unregistered search attribute fails the start")
	}
	if got.options.StaticSummary != "Load each order export." || got.options.Memo[runs.MemoIdentity] != identity || got.options.Memo[runs.MemoOwner] != "data@example.com" {
		t.Errorf("summary %q, memo %v", got.options.StaticSummary, got.options.Memo)
	}
	var in runs.RunInput
	if err := json.Unmarshal(got.input, &in); err != nil {
		t.Fatal(err)
	}
	if in.Version != runs.RecordVersion || in.Deployment != "dev" || in.Pipeline != "orders" || in.Key != identity || in.Identity != identity ||
		in.Project != "penstock-dev" || in.Location != "us-central1" || in.Config.Hash == "" {
		t.Errorf("input %+v", in)
	}
	if in.Event == nil || in.Event.Identity() != identity {
		t.Error("the run does not keep the event of an object's change, which a retry by a changed pipelines file needs")
	}
	if len(in.Steps) != 1 || in.Steps[0].Job.Parameters["input"] != "gs://landing/orders/a.csv" {
		t.Errorf("steps %+v", in.Steps)
	}
}

func TestStreamingPipelineIsATypeOfItsOwn(t *testing.T) {
	b := setup(t, strings.Replace(ordersFile, "template:", "streaming: true\n      template:", 1))
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 7))
	if len(b.temporal.started) != 1 || b.temporal.started[0].workflow != runs.TypeStreamingRun {
		t.Errorf("started %+v", b.temporal.started)
	}
}

func TestStartOfTheUsersWorkflow(t *testing.T) {
	b := setup(t, auditFile)
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 7))
	if len(b.temporal.started) != 1 {
		t.Fatalf("%d workflows", len(b.temporal.started))
	}
	got := b.temporal.started[0]
	if got.workflow != "Audit" || got.options.TaskQueue != "audits" || got.options.ID != "dev/audit/finalized:landing/orders/a.csv#7" {
		t.Errorf("started %s under %s on %s", got.workflow, got.options.ID, got.options.TaskQueue)
	}
	var in struct {
		SpecVersion string `json:"specversion"`
		Type        string `json:"type"`
		Data        struct {
			Name string `json:"name"`
		} `json:"data"`
	}
	if err := json.Unmarshal(got.input, &in); err != nil || in.SpecVersion != "1.0" || in.Type != "google.cloud.storage.object.v1.finalized" || in.Data.Name != "orders/a.csv" {
		t.Errorf("its input is not the event: %s (%v)", got.input, err)
	}
}

func TestSignalCarriesTheIdentity(t *testing.T) {
	b := setup(t, approvalsFile)
	b.post(t, NamePubSubTrigger, approval("17"))
	if len(b.temporal.signals) != 1 {
		t.Fatalf("%d signals", len(b.temporal.signals))
	}
	got := b.temporal.signals[0]
	raw := got.arg.(converter.RawValue).Payload().GetData()
	var arg struct {
		Identity string          `json:"identity"`
		Event    json.RawMessage `json:"event"`
	}
	if err := json.Unmarshal(raw, &arg); err != nil || got.workflowID != "approval-17" || got.name != "approved" ||
		arg.Identity != "pubsub:projects/penstock-dev/topics/approvals#7" || len(arg.Event) == 0 {
		t.Errorf("signal %q to %s with %s (%v)", got.name, got.workflowID, raw, err)
	}
}

// A closed workflow would not take the signal, and rejecting duplicates would drop it.
func TestSignalThatMayStartStartsAgainAfterTheWorkflowClosed(t *testing.T) {
	b := setup(t, ingestFile)
	b.post(t, NamePubSubTrigger, item([]byte("x")))
	if len(b.temporal.started) != 1 {
		t.Fatalf("%d starts", len(b.temporal.started))
	}
	got := b.temporal.started[0]
	if got.options.ID != "collector" || got.workflow != "Collect" || got.options.TaskQueue != "collectors" ||
		got.options.WorkflowIDReusePolicy != enumspb.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE {
		t.Errorf("started %s under %s on %s with %s", got.workflow, got.options.ID, got.options.TaskQueue, got.options.WorkflowIDReusePolicy)
	}
}

func TestJobStatusGoesToTheJobsWorkflow(t *testing.T) {
	b := setup(t)
	b.post(t, NameJobStatus, jobEvent("dev-orders-load-abc-1", "JOB_STATE_FAILED"))
	if len(b.temporal.signals) != 1 {
		t.Fatalf("%d signals", len(b.temporal.signals))
	}
	got := b.temporal.signals[0]
	status := got.arg.(runs.JobStatus)
	if got.workflowID != "dataflow/penstock-dev/us-central1/dev-orders-load-abc-1" || got.name != runs.SignalStatus ||
		status.JobID != "2026-11-22_1" || status.State != "JOB_STATE_FAILED" || status.StateTime.IsZero() || status.Event == "" {
		t.Errorf("signal %q to %s: %+v", got.name, got.workflowID, status)
	}
}

// A job whose workflow is gone needs nobody once it is over. One that goes on is the sweep's to look for.
func TestJobStatusThatNobodyWaitsFor(t *testing.T) {
	const job, sweep = "dataflow/penstock-dev/us-central1/dev-orders-load-abc-1", "dev/sweep/penstock-dev/us-central1"
	gone := overTheWire(serviceerror.NewNotFound("workflow not found"))
	for name, tt := range map[string]struct {
		state  string
		ask    error // of the ask
		status int
		asks   int
	}{
		"a job that is over":                     {"JOB_STATE_DONE", nil, 200, 0},
		"a job that was updated":                 {"JOB_STATE_UPDATED", nil, 200, 0},
		"a job that runs":                        {"JOB_STATE_RUNNING", nil, 200, 1},
		"a job in a state that Google added":     {"JOB_STATE_PONDERING", nil, 200, 1},
		"a job that runs, and the sweep is deaf": {"JOB_STATE_RUNNING", serviceerror.NewUnavailable("down"), 503, 0},
		"a job that runs, and a proxy answers":   {"JOB_STATE_RUNNING", proxyNotFound(), 503, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			b.temporal.fail = func(id string) error {
				if id == job {
					return gone
				}
				return tt.ask
			}
			w, _ := b.post(t, NameJobStatus, jobEvent("dev-orders-load-abc-1", tt.state))
			if w.Code != tt.status || len(b.temporal.signals) != tt.asks {
				t.Fatalf("answered %d, asked %+v", w.Code, b.temporal.signals)
			}
			if tt.asks == 0 {
				return
			}
			signal, start := b.temporal.signals[0], b.temporal.started[0]
			ask, _ := signal.arg.(runs.SweepAsk)
			if signal.workflowID != sweep || signal.name != runs.SignalAsk || ask.Watched || ask.JobID != "2026-11-22_1" || ask.Version != runs.RecordVersion {
				t.Errorf("asked %+v", signal)
			}
			if start.workflow != runs.TypeSweep || start.options.ID != sweep || start.options.TaskQueue != "penstock-dev" {
				t.Errorf("started %s with %+v", start.workflow, start.options)
			}
		})
	}
}

func TestKeyThatAnotherEventTook(t *testing.T) {
	b := setup(t, dailyFile)
	post := func(object string, generation int) Decision {
		t.Helper()
		w, a := b.post(t, NameStorageTrigger, finalized(object, generation))
		if w.Code != 200 || len(a.Decisions) != 1 {
			t.Fatalf("answered %d %s", w.Code, w.Body)
		}
		return a.Decisions[0]
	}
	if d := post("daily/2026-11-22/a.csv", 1); d.Outcome != Started || d.RunID != "dev/daily/2026-11-22" || d.Key != "2026-11-22" {
		t.Fatalf("first event: %+v", d)
	}
	if d := post("daily/2026-11-22/a.csv", 1); d.Outcome != Duplicate || !d.Remembered {
		t.Errorf("the same event again: %+v", d)
	}
	if d := post("daily/2026-11-22/b.csv", 1); d.Outcome != KeyTaken || !strings.Contains(d.Reason, "finalized:landing/daily/2026-11-22/a.csv#1") {
		t.Errorf("another event of the day: %+v", d)
	}
	b.memory = newMemory(b.now) // another instance
	if d := post("daily/2026-11-22/a.csv", 1); d.Outcome != Duplicate || d.Remembered {
		t.Errorf("the same event at another instance: %+v", d)
	}
	if d := post("daily/2026-11-22/b.csv", 1); d.Outcome != KeyTaken {
		t.Errorf("another event at another instance: %+v", d)
	}
	if !strings.Contains(b.log.String(), `"severity":"WARNING"`) {
		t.Error("a taken key is not warned of")
	}
}

// A default key belongs to one event alone, so who started the run need not be asked.
func TestDuplicateOfADefaultKeyCostsNoSecondCall(t *testing.T) {
	b := setup(t, ordersFile)
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	b.memory = newMemory(b.now)
	if _, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1)); a.outcomes() != "orders: duplicate" {
		t.Errorf("answered %s", a.outcomes())
	}
	if b.temporal.calls["describe"] != 0 {
		t.Error("Temporal was asked who started the run")
	}
}

func TestManyDeliveriesOfOneEvent(t *testing.T) {
	for name, file := range map[string]string{
		"default key":         ordersFile,
		"key of the pipeline": strings.Replace(ordersFile, "steps:", "key: ${event.name}\nsteps:", 1),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := setup(t, file)
				answering := make(chan struct{})
				b.temporal.fail = func(string) error { <-answering; return nil }
				var started, duplicate atomic.Int32
				var wg sync.WaitGroup
				deliver := func() {
					w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
					switch {
					case w.Code != http.StatusOK:
						t.Errorf("answered %d %s", w.Code, w.Body)
					case a.outcomes() == "orders: started":
						started.Add(1)
					case a.outcomes() == "orders: duplicate":
						duplicate.Add(1)
					}
				}
				for range 150 {
					wg.Go(deliver)
				}
				synctest.Wait() // all of them are on their way before Temporal answers the first
				for range 50 {
					wg.Go(deliver)
				}
				close(answering)
				wg.Wait()
				if started.Load() != 1 || duplicate.Load() != 199 {
					t.Errorf("%d started and %d duplicates, want 1 and 199", started.Load(), duplicate.Load())
				}
				if calls := b.temporal.calls["start"]; calls != 1 {
					t.Errorf("Temporal was asked %d times; an instance knows after once", calls)
				}
			})
		})
	}
}

// Events that share a key must not share an answer, though they arrive together.
func TestTwoEventsOfOneKeyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := setup(t, dailyFile)
		answering := make(chan struct{})
		b.temporal.fail = func(string) error { <-answering; return nil }
		outcomes := make(chan string, 2)
		for _, object := range []string{"daily/1/a.csv", "daily/1/b.csv"} {
			go func() {
				_, a := b.post(t, NameStorageTrigger, finalized(object, 1))
				outcomes <- a.outcomes()
			}()
		}
		synctest.Wait()
		close(answering)
		got := []string{<-outcomes, <-outcomes}
		slices.Sort(got)
		if want := []string{"daily: key-taken", "daily: started"}; !slices.Equal(got, want) {
			t.Errorf("answered %q, want %q", got, want)
		}
	})
}

// Were a failure remembered, its event would be lost.
func TestFailureIsNotRemembered(t *testing.T) {
	b := setup(t, ordersFile)
	b.temporal.fail = func(string) error { return serviceerror.NewUnavailable("away") }
	b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	b.temporal.fail = nil
	if w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1)); w.Code != 200 || a.outcomes() != "orders: started" {
		t.Errorf("redelivery: %d %s", w.Code, w.Body)
	}
}
