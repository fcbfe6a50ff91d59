package service

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	namespacepb "go.temporal.io/api/namespace/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// workflows are a namespace as far as reconciling asks it: it keeps closed runs for 72 hours.
type workflows struct {
	client.Client
	mu       sync.Mutex
	byID     map[string]*workflowpb.WorkflowExecutionInfo
	results  map[string]runs.RunResult
	unlisted map[string]bool // that the list does not show yet
	gone     map[string]bool // that the list shows still
	// described is called when a workflow was asked for; nil: nothing is.
	described func()
}

func (w *workflows) DescribeWorkflowExecution(_ context.Context, id, _ string) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.described != nil {
		w.described()
	}
	info := w.byID[id]
	if info == nil || w.gone[id] {
		return nil, serviceerror.NewNotFound("no such workflow")
	}
	return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: info}, nil
}

// ListWorkflow gives a page of two at a time.
func (w *workflows) ListWorkflow(_ context.Context, q *workflowservice.ListWorkflowExecutionsRequest) (*workflowservice.ListWorkflowExecutionsResponse, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, prefix, _ := strings.Cut(q.GetQuery(), "STARTS_WITH '")
	prefix, _, _ = strings.Cut(prefix, "'")
	var since, until time.Time
	if _, text, ok := strings.Cut(q.GetQuery(), "StartTime >= '"); ok {
		since, _ = time.Parse(time.RFC3339Nano, strings.SplitN(text, "'", 2)[0])
	}
	if _, text, ok := strings.Cut(q.GetQuery(), "StartTime < '"); ok {
		until, _ = time.Parse(time.RFC3339Nano, strings.SplitN(text, "'", 2)[0])
	}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(w.byID)) {
		at := w.byID[id].GetStartTime().AsTime()
		if strings.HasPrefix(id, prefix) && !w.unlisted[id] && !at.Before(since) && (until.IsZero() || at.Before(until)) && id > string(q.GetNextPageToken()) {
			ids = append(ids, id)
		}
	}
	answer := &workflowservice.ListWorkflowExecutionsResponse{}
	if len(ids) > 2 {
		ids, answer.NextPageToken = ids[:2], []byte(ids[1])
	}
	for _, id := range ids {
		answer.Executions = append(answer.Executions, w.byID[id])
	}
	return answer, nil
}

func (w *workflows) GetWorkflowHistory(_ context.Context, id, _ string, _ bool, _ enumspb.HistoryEventFilterType) client.HistoryEventIterator {
	w.mu.Lock()
	defer w.mu.Unlock()
	p, err := converter.GetDefaultDataConverter().ToPayloads(w.results[id])
	if err != nil {
		panic(err)
	}
	return &iterator{[]*historypb.HistoryEvent{{EventType: enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_COMPLETED, Attributes: &historypb.HistoryEvent_WorkflowExecutionCompletedEventAttributes{
		WorkflowExecutionCompletedEventAttributes: &historypb.WorkflowExecutionCompletedEventAttributes{Result: p},
	}}}}
}

func (w *workflows) WorkflowService() workflowservice.WorkflowServiceClient { return namespaces{} }

type namespaces struct {
	workflowservice.WorkflowServiceClient
}

func (namespaces) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest, ...grpc.CallOption) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{Config: &namespacepb.NamespaceConfig{WorkflowExecutionRetentionTtl: durationpb.New(72 * time.Hour)}}, nil
}

// stored is a generation in the bucket landing.
type stored struct {
	name           string
	generation     int64
	age            time.Duration
	size           int
	metageneration int
	superseded     bool
}

// resource is the object as Cloud Storage tells of it, and as its event did.
func (o stored) resource(now time.Time) map[string]any {
	created := now.Add(-o.age).UTC().Format("2006-01-02T15:04:05.000Z")
	r := map[string]any{
		"kind": "storage#object", "bucket": "landing", "name": o.name, "generation": strconv.FormatInt(o.generation, 10),
		"metageneration": strconv.Itoa(max(o.metageneration, 1)), "size": strconv.Itoa(o.size), "contentType": "text/csv",
		"timeCreated": created, "updated": created, "metadata": map[string]string{"kind": "full"},
	}
	if o.superseded {
		r["timeDeleted"] = now.UTC().Format(time.RFC3339)
	}
	return r
}

func (o stored) identity() string {
	return fmt.Sprintf("finalized:landing/%s#%d", o.name, o.generation)
}

// reconcileBench is a deployment with the bucket landing.
type reconcileBench struct {
	*Service
	t       *testing.T
	w       *workflows
	now     time.Time
	request ReconcileRequest

	mu      sync.Mutex
	objects []stored
	refuse  []int    // statuses with which the next lists are refused
	posted  []string // identities of events that the functions got
}

const orders = `name: orders
purpose: Load.
owner: me@example.com
on:
  - storage: {bucket: landing, object: "in/**"}
    when: event.size > 0
steps:
  - name: load
    dataflow: {template: gs://templates/load.json}
`

func newReconcileBench(t *testing.T, files ...string) *reconcileBench {
	t.Helper()
	if len(files) == 0 {
		files = []string{orders}
	}
	b := &reconcileBench{t: t, now: time.Now(), w: &workflows{byID: map[string]*workflowpb.WorkflowExecutionInfo{}, results: map[string]runs.RunResult{}, unlisted: map[string]bool{}, gone: map[string]bool{}}}
	b.Service = &Service{temporal: b.w, namespace: "default", deployment: "dev", converter: converter.GetDefaultDataConverter()}
	var all []*pipeline.Pipeline
	for i, file := range files {
		p, problems := pipeline.Parse(fmt.Sprintf("%d.yaml", i), []byte(file))
		if problems.HasErrors() {
			t.Fatal(problems)
		}
		all = append(all, p)
	}
	bucket := httptest.NewServer(http.HandlerFunc(b.bucket))
	t.Cleanup(bucket.Close)
	functions := httptest.NewServer(http.HandlerFunc(b.function))
	t.Cleanup(functions.Close)
	b.request = ReconcileRequest{
		Pipelines: pipeline.NewSet(all), Pipeline: all[0].Name, From: b.now.Add(-48 * time.Hour), To: b.now,
		Buckets:   &Buckets{base: bucket.URL, client: bucket.Client(), pause: time.Millisecond},
		Functions: Functions{URL: functions.URL},
	}
	return b
}

// bucket serves the objects, two a page.
func (b *reconcileBench) bucket(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.refuse) > 0 {
		status := b.refuse[0]
		b.refuse = b.refuse[1:]
		http.Error(w, `{"error":{"message":"later"}}`, status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	q := r.URL.Query()
	if name, ok := strings.CutPrefix(r.URL.Path, "/storage/v1/b/landing/o/"); ok {
		for _, o := range b.objects {
			if o.name == name && strconv.FormatInt(o.generation, 10) == q.Get("generation") {
				_ = json.NewEncoder(w).Encode(o.resource(b.now))
				return
			}
		}
		http.Error(w, `{"error":{"message":"No such object"}}`, http.StatusNotFound)
		return
	}
	if r.URL.Path != "/storage/v1/b/landing/o" || q.Get("versions") != "true" {
		http.Error(w, `{"error":{"message":"The specified bucket does not exist."}}`, http.StatusNotFound)
		return
	}
	from, _ := strconv.Atoi(q.Get("pageToken"))
	items := []any{}
	for _, o := range b.objects {
		if strings.HasPrefix(o.name, q.Get("prefix")) {
			items = append(items, o.resource(b.now))
		}
	}
	answer := map[string]any{"items": items[from:min(from+2, len(items))]}
	if from+2 < len(items) {
		answer["nextPageToken"] = strconv.Itoa(from + 2)
	}
	_ = json.NewEncoder(w).Encode(answer)
}

// function takes an event as the functions do: once for each run ID.
func (b *reconcileBench) function(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	e, err := events.DecodeBytes(r.Header, body, "")
	if err != nil || r.URL.Path != "/StorageTrigger" || r.Header.Get(deadletters.HeaderIdentity) != url.PathEscape(e.Identity()) {
		b.t.Errorf("the functions got %s %q: %v", r.URL, body, err)
		return
	}
	b.mu.Lock()
	b.posted = append(b.posted, e.Identity())
	b.mu.Unlock()
	decisions := []RedriveDecision{}
	for _, m := range b.request.Pipelines.Match(e) {
		if only := r.Header.Get(deadletters.HeaderPipeline); only != "" && only != m.Pipeline.Name {
			continue
		}
		d := RedriveDecision{Pipeline: m.Pipeline.Name}
		plan, skip, err := m.Evaluate()
		switch {
		case err != nil:
			d.Decision = string(DeadLettered)
		case skip != nil:
			d.Decision = string(Skipped)
		default:
			d.RunID, d.Decision = runs.RunID("dev", m.Pipeline.Name, plan.Key), string(Started)
			if !b.start(m.Pipeline.Name, plan.Key, plan.Identity, 0) {
				d.Decision = "duplicate"
			}
		}
		decisions = append(decisions, d)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"identity": e.Identity(), "decisions": decisions})
}

// start makes a run that succeeded, and that began some time ago; false: there is one.
func (b *reconcileBench) start(pipeline, key, identity string, age time.Duration) bool {
	b.w.mu.Lock()
	defer b.w.mu.Unlock()
	id := runs.RunID("dev", pipeline, key)
	if b.w.byID[id] != nil {
		return false
	}
	b.w.byID[id] = &workflowpb.WorkflowExecutionInfo{
		Execution: &commonpb.WorkflowExecution{WorkflowId: id, RunId: "e"}, Type: &commonpb.WorkflowType{Name: runs.TypeRun},
		Status: enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED, StartTime: timestamppb.New(b.now.Add(-age)),
		Memo: memo(b.t, map[string]any{runs.MemoIdentity: identity, runs.MemoKey: key}),
	}
	b.w.results[id] = runs.RunResult{Version: 1, Outcome: runs.OutcomeSucceeded}
	return true
}

func (b *reconcileBench) ran(o stored) {
	b.start(b.request.Pipeline, o.identity(), o.identity(), o.age)
}

func (b *reconcileBench) put(objects ...stored) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.objects = append(b.objects, objects...)
}

type reconciled struct {
	Reconciliation
	objects map[string]ReconciledObject // by NAME#GENERATION
	extras  []ExtraRun
}

func (b *reconcileBench) reconcile() reconciled {
	b.t.Helper()
	got := reconciled{objects: map[string]ReconciledObject{}}
	var err error
	got.Reconciliation, err = b.Reconcile(b.t.Context(), b.request, ReconcileObserver{
		Object: func(o ReconciledObject) error {
			name := fmt.Sprintf("%s#%d", o.Name, o.Generation)
			if _, twice := got.objects[name]; twice {
				b.t.Errorf("%s was told of twice", name)
			}
			got.objects[name] = o
			return nil
		},
		Extra: func(r ExtraRun) error { got.extras = append(got.extras, r); return nil },
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

func (b *reconcileBench) want(got reconciled, want map[string]Finding) {
	b.t.Helper()
	counts := map[Finding]int{}
	for name, verdict := range want {
		counts[verdict]++
		if got.objects[name].Verdict != verdict {
			b.t.Errorf("%s is %q, want %s: %+v", name, got.objects[name].Verdict, verdict, got.objects[name])
		}
	}
	if len(got.objects) != len(want) || !maps.Equal(got.Counts, counts) {
		b.t.Errorf("told of %d objects, counted as %v; want %v", len(got.objects), got.Counts, counts)
	}
}

// with gives the bench a ledger.
func (b *reconcileBench) with(t *testing.T) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	b.ledger = l
	return l
}

func (b *reconcileBench) claim(l *ledger.Ledger, key, identity string, age time.Duration) {
	b.t.Helper()
	if _, err := l.Claim(b.t.Context(), ledger.Claim{
		Deployment: "dev", Pipeline: b.request.Pipeline, Key: key, RunID: runs.RunID("dev", b.request.Pipeline, key), Chain: "c-" + strconv.Itoa(int(age.Minutes())), Identity: identity, At: b.now.Add(-age),
	}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *reconcileBench) record(l *ledger.Ledger, key, identity, chain, decision, jobID string) {
	b.t.Helper()
	if err := l.Finish(b.t.Context(), ledger.Record{
		Deployment: "dev", Pipeline: b.request.Pipeline, Key: key, RunID: runs.RunID("dev", b.request.Pipeline, key), Chain: chain, Execution: chain, Identity: identity,
		Decision: decision, Outcome: runs.OutcomeSucceeded, Started: b.now.Add(-2 * time.Hour), Ended: b.now.Add(-time.Hour),
		Steps: []runs.StepResult{{Name: "load", Outcome: runs.OutcomeSucceeded, Attempts: []runs.JobResult{{Outcome: runs.OutcomeSucceeded, Attempt: 1, JobName: "n", JobID: jobID}}}},
	}); err != nil {
		b.t.Fatal(err)
	}
}

const day = 24 * time.Hour

// The event that is made of an object is the one that its creation was delivered as.
func TestAnObjectsEventIsTheOneThatWasDelivered(t *testing.T) {
	now := time.Now()
	for _, o := range []stored{
		{name: "in/a.csv", generation: 7, size: 3},
		{name: `in/ü "b" 100%/#9?x=/..`, generation: 1 << 60, size: 1},
		{name: "in/old", generation: 5, superseded: true},
	} {
		item, err := json.Marshal(o.resource(now))
		if err != nil {
			t.Fatal(err)
		}
		got := objectOf("landing", item)
		if got.err != nil {
			t.Fatal(got.err)
		}
		o.superseded = false // it was not, when its event was sent
		body, err := json.Marshal(o.resource(now))
		if err != nil {
			t.Fatal(err)
		}
		delivered, err := events.DecodeBytes(http.Header{
			"Ce-Specversion": {"1.0"}, "Ce-Id": {"123"}, "Ce-Type": {"google.cloud.storage.object.v1.finalized"}, "Ce-Bucket": {"landing"},
			"Ce-Source": {"//storage.googleapis.com/projects/_/buckets/landing"}, "Ce-Time": {got.letter.Header.Get("Ce-Time")}, "Content-Type": {"application/json"},
		}, body, "")
		if err != nil {
			t.Fatal(err)
		}
		if got.event.Identity() != delivered.Identity() {
			t.Errorf("%s has the identity %s, and was delivered as %s", o.name, got.event.Identity(), delivered.Identity())
		}
		delivered.ID = got.event.ID // a delivery's own
		one, _ := json.Marshal(got.event)
		other, _ := json.Marshal(delivered)
		if string(one) != string(other) {
			t.Errorf("%s reads as\n%s\nand was delivered as\n%s", o.name, one, other)
		}
	}
}

func TestWhatCameOfObjects(t *testing.T) {
	b := newReconcileBench(t)
	ran, running, missed, empty := stored{name: "in/ran", generation: 1, size: 1, age: time.Hour}, stored{name: "in/running", generation: 2, size: 1, age: time.Hour}, stored{name: "in/missed", generation: 3, size: 1, age: time.Hour}, stored{name: "in/empty", generation: 4, age: time.Hour}
	over, again := stored{name: "in/again", generation: 5, size: 1, age: 2 * time.Hour, superseded: true}, stored{name: "in/again", generation: 6, size: 1, age: time.Hour}
	changed := stored{name: "in/changed", generation: 9, size: 1, age: time.Hour, metageneration: 3} // its size is not among its metadata
	b.put(ran, running, missed, empty, over, again, changed,
		stored{name: "elsewhere", generation: 7, size: 1}, stored{name: "in/before", generation: 8, size: 1, age: 50 * time.Hour})
	b.ran(ran)
	b.ran(running)
	b.w.byID[runs.RunID("dev", "orders", running.identity())].Status = enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	b.ran(again)
	b.w.unlisted[runs.RunID("dev", "orders", again.identity())] = true // lists lag
	got := b.reconcile()
	b.want(got, map[string]Finding{
		"in/ran#1": FindingRan, "in/running#2": FindingRunning, "in/missed#3": FindingMissed, "in/empty#4": FindingSkipped,
		"in/again#5": FindingMissed, "in/again#6": FindingRan, "in/changed#9": FindingMissed,
	})
	if o := got.objects["in/ran#1"]; o.Outcome != runs.OutcomeSucceeded || o.RunID != runs.RunID("dev", "orders", ran.identity()) || o.Source != FromTemporal {
		t.Errorf("what ran is %+v", o)
	}
	if o := got.objects["in/empty#4"]; !strings.Contains(o.Reason, "event.size > 0") {
		t.Errorf("what is skipped is %+v", o)
	}
	if got.Left != 3 || got.Extra != 0 || len(b.posted) != 0 {
		t.Errorf("%d left, %d extra, posted %q", got.Left, got.Extra, b.posted)
	}
}

func TestOnlyWhatWasMissedIsStarted(t *testing.T) {
	b := newReconcileBench(t)
	for i := range 9 {
		o := stored{name: fmt.Sprintf("in/%d", i), generation: int64(i + 1), size: 1, age: time.Hour}
		switch i {
		case 0:
			o.size = 0
		case 1:
			o.age = 80 * time.Hour // Temporal would have forgotten its run
		case 2, 3, 4, 5:
			b.ran(o)
		}
		b.put(o)
	}
	b.request.StartMissing, b.request.From = true, b.now.Add(-100*time.Hour)
	got := b.reconcile()
	want := []string{"finalized:landing/in/6#7", "finalized:landing/in/7#8", "finalized:landing/in/8#9"}
	if !slices.Equal(b.posted, want) {
		t.Errorf("started %q, want %q", b.posted, want)
	}
	if got.Started != 3 || got.Left != 1 || got.Counts[FindingMissed] != 3 || got.Counts[FindingUnknown] != 1 {
		t.Errorf("found %+v", got.Reconciliation)
	}
	if o := got.objects["in/7#8"]; o.Start == nil || !o.Start.Delivered || len(o.Start.Decisions) != 1 || o.Start.Decisions[0].Decision != "started" {
		t.Errorf("what was started is %+v", o)
	}
	// The second time there is nothing to start.
	again := b.reconcile()
	if len(b.posted) != 3 || again.Started != 0 || again.Counts[FindingMissed] != 0 || again.Counts[FindingRan] != 7 {
		t.Errorf("the second time: %+v, posted %q", again.Reconciliation, b.posted)
	}
}

func TestWhatTemporalHasForgottenIsUnknownUnlessTheLedgerTells(t *testing.T) {
	const dedupe = orders + "dedupe: {keep: forever}\n"
	old := stored{name: "in/old", generation: 1, size: 1, age: 10 * day}
	young := stored{name: "in/young", generation: 2, size: 1, age: 70 * time.Hour}
	for name, c := range map[string]struct {
		file   string
		ledger func(*reconcileBench, *ledger.Ledger)
		want   Finding
		source string
		says   string
	}{
		"no ledger":                          {dedupe, nil, FindingUnknown, "", "no ledger is known"},
		"a ledger, and keys are not claimed": {orders, func(*reconcileBench, *ledger.Ledger) {}, FindingUnknown, "", "dedupe"},
		"a ledger that may be younger":       {dedupe, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, "other", "other", day) }, FindingUnknown, "", "begin the window later"},
		"a ledger that was in use then":      {dedupe, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, "other", "other", 30*day) }, FindingMissed, FromLedger, "no claim of it"},
		"its final record": {orders, func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, old.identity(), old.identity(), "c", "started", "j")
		}, FindingRan, FromLedger, "forgotten"},
		"its claim, without a record":       {dedupe, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, old.identity(), old.identity(), 10*day) }, FindingRan, FromLedger, "no final record"},
		"its key, claimed by another event": {dedupe, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, old.identity(), "event:x#1", 10*day) }, FindingKeyTaken, FromLedger, "another"},
		"its key, on record for another event": {orders, func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, old.identity(), "event:x#1", "c", "started", "j")
		}, FindingKeyTaken, FromLedger, "another"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t, c.file)
			b.request.From = b.now.Add(-20 * day)
			if c.ledger != nil {
				c.ledger(b, b.with(t))
			}
			b.put(old, young)
			got := b.reconcile()
			// Its run would not be over for as long as Temporal keeps it.
			b.want(got, map[string]Finding{"in/old#1": c.want, "in/young#2": FindingMissed})
			if o := got.objects["in/old#1"]; o.Source != c.source || !strings.Contains(o.Reason, c.says) {
				t.Errorf("it is %+v", o)
			}
		})
	}
}

// A pipelines file whose key has changed does not make what ran by the earlier one run again.
func TestWhatClaimedAnotherKeyIsNotMissed(t *testing.T) {
	const keyed, sized = orders + "dedupe: {keep: forever}\nkey: ${event.name}\n", orders + "dedupe: {keep: forever}\n"
	old := stored{name: "in/old", generation: 1, size: 1, age: 10 * day}
	own := old.identity()
	replace := func(b *reconcileBench, l *ledger.Ledger, key string) {
		b.t.Helper()
		seen, err := l.Read(b.t.Context(), "dev", "orders", key)
		if err == nil {
			c := seen.Claim
			c.Chain, c.Identity, c.At = "later", "event:x#1", b.now.Add(-9*day)
			_, err = l.TakeOver(b.t.Context(), seen, c)
		}
		if err != nil {
			b.t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		file    string
		size    int
		do      func(*reconcileBench, *ledger.Ledger)
		want    Finding
		outcome runs.Outcome
		says    string
	}{
		"others claimed theirs": {keyed, 1, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, "k", "event:x#1", 9*day) }, FindingMissed, "", "under whichever key"},
		"it claimed its own":    {keyed, 1, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, own, own, 10*day) }, FindingRan, "", "another key"},
		"it claimed its own, and its end is on record": {keyed, 1, func(b *reconcileBench, l *ledger.Ledger) {
			b.claim(l, own, own, 10*day)
			b.record(l, own, own, "c", "started", "j")
		}, FindingRan, runs.OutcomeSucceeded, "another key"},
		"it claimed one, when the file wanted it": {sized, 0, func(b *reconcileBench, l *ledger.Ledger) { b.claim(l, "k", own, 10*day) }, FindingRan, "", "another key"},
		"it claimed one that another event has now": {sized, 1, func(b *reconcileBench, l *ledger.Ledger) {
			b.claim(l, "k", own, 10*day)
			b.record(l, "k", own, "c-14400", "started", "j")
			replace(b, l, "k")
		}, FindingRan, runs.OutcomeSucceeded, "another key"},
		"who had a key before is not known": {sized, 1, func(b *reconcileBench, l *ledger.Ledger) {
			b.claim(l, "k", own, 10*day)
			replace(b, l, "k")
		}, FindingUnknown, "", "left no final record"},
		"a claim that cannot be read": {sized, 1, func(b *reconcileBench, l *ledger.Ledger) {
			dir := filepath.Join(l.String(), "v1/dev/orders", ledger.KeyHash("k"))
			if err := errors.Join(os.MkdirAll(dir, 0o750), os.WriteFile(filepath.Join(dir, "claim.1.json"), []byte("{"), 0o600)); err != nil {
				b.t.Fatal(err)
			}
		}, FindingUnknown, "", "cannot be used"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t, c.file)
			l := b.with(t)
			b.claim(l, "before", "event:before", 30*day)
			then := b.now.Add(-30 * day)
			if err := os.Chtimes(filepath.Join(l.String(), "v1/dev/orders", ledger.KeyHash("before"), "claim.1.json"), then, then); err != nil {
				t.Fatal(err)
			}
			c.do(b, l)
			o := old
			o.size = c.size
			b.put(o)
			b.request.From, b.request.StartMissing = b.now.Add(-20*day), true
			got := b.reconcile()
			b.want(got, map[string]Finding{"in/old#1": c.want})
			if o := got.objects["in/old#1"]; o.Outcome != c.outcome || !strings.Contains(o.Reason, c.says) || c.want == FindingRan && (o.RunID != runs.RunID("dev", "orders", o.Key) || o.Source != FromLedger) {
				t.Errorf("it is %+v", o)
			}
			if started := len(b.posted) > 0; started != (c.want == FindingMissed) {
				t.Errorf("posted %q", b.posted)
			}
		})
	}
}

// A ledger whose bucket is busy is asked again, for a list as for what is in it.
func TestALedgerThatIsBusyIsAskedAgain(t *testing.T) {
	b := newReconcileBench(t, orders+"dedupe: {keep: forever}\n")
	l := b.with(t)
	b.claim(l, "before", "event:before", 30*day)
	b.claim(l, "k", "finalized:landing/in/ran#2", 10*day)
	var mu sync.Mutex
	asked := map[string]int{}
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.String()]++
		if n := asked[r.URL.String()]; n < 3 {
			http.Error(w, `{"error":{"message":"later"}}`, []int{429, 503}[n-1])
			return
		}
		if name, ok := strings.CutPrefix(r.URL.Path, "/storage/v1/b/ledger/o/"); ok {
			data, err := os.ReadFile(filepath.Join(l.String(), strings.Replace(name, "claim.json", "claim.1.json", 1)))
			if err != nil {
				http.Error(w, "No such object: "+name, http.StatusNotFound)
				return
			}
			w.Header().Set("X-Goog-Generation", "1")
			_, _ = w.Write(data)
			return
		}
		items := []any{}
		for _, key := range []string{"before", "k"} {
			if name := "v1/dev/orders/" + ledger.KeyHash(key) + "/claim.json"; strings.HasPrefix(name, r.URL.Query().Get("prefix")) {
				items = append(items, map[string]string{"name": name, "timeCreated": b.now.Format(time.RFC3339)})
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"items": items})
	}))
	defer bucket.Close()
	var err error
	if b.ledger, err = ledger.OpenFrom(t.Context(), "gs://ledger", func(string) string { return bucket.URL }); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.ledger.Close() }()
	b.put(stored{name: "in/missed", generation: 1, size: 1, age: 10 * day}, stored{name: "in/ran", generation: 2, size: 1, age: 10 * day})
	b.request.From = b.now.Add(-20 * day)
	b.want(b.reconcile(), map[string]Finding{"in/missed#1": FindingMissed, "in/ran#2": FindingRan})
}

// What Temporal forgets while a reconciliation goes on is not missed.
func TestWhatTemporalForgetsMeanwhile(t *testing.T) {
	object := stored{name: "in/x", generation: 1, size: 1, age: 70 * time.Hour}
	t.Run("since its age was right", func(t *testing.T) {
		b := newReconcileBench(t)
		b.request.From = b.now.Add(-80 * time.Hour)
		now := b.now
		b.w.described = func() { now = now.Add(2 * time.Hour) }
		r := &reconciler{Service: b.Service, q: &b.request, now: func() time.Time { return now }, retention: 72 * time.Hour}
		j, err := r.judgeOf(t.Context(), b.request.Pipelines.Pipeline("orders"))
		if err != nil {
			t.Fatal(err)
		}
		item, err := json.Marshal(object.resource(b.now))
		if err != nil {
			t.Fatal(err)
		}
		o := objectOf("landing", item)
		if got, err := j.judge(t.Context(), &o); err != nil || got.Verdict != FindingUnknown {
			t.Errorf("it is %+v, %v", got, err)
		}
	})
	for name, key := range map[string]string{"since it was listed": object.identity(), "since it was listed, under another key": "other"} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t)
			b.request.From, b.request.StartMissing = b.now.Add(-80*time.Hour), true
			b.put(object)
			b.start("orders", key, object.identity(), object.age)
			id := runs.RunID("dev", "orders", key)
			b.w.gone[id] = true
			got := b.reconcile()
			b.want(got, map[string]Finding{"in/x#1": FindingRan})
			if o := got.objects["in/x#1"]; o.RunID != id || len(b.posted) > 0 {
				t.Errorf("it is %+v, posted %q", o, b.posted)
			}
		})
	}
}

func TestWhatTheFunctionsSaidOfObjects(t *testing.T) {
	object := stored{name: "in/x", generation: 1, size: 1, age: time.Hour}
	other := runs.RunID("dev", "orders", "another-key")
	line := func(decision, reason, runID string) string {
		text, _ := json.Marshal(map[string]string{"severity": "INFO", "identity": object.identity(), "pipeline": "orders", "decision": decision, "reason": reason, "runId": runID})
		return string(text) + "\n"
	}
	for name, c := range map[string]struct {
		log  string
		want Finding
		says string
	}{
		"started, and deleted since":         {line("started", "", "dev/orders/x"), FindingRan, "does not know the run any more"},
		"started under another key":          {line("started", "", other), FindingRan, ""},
		"another event had the key":          {line("key-taken", "by another", ""), FindingKeyTaken, "by another"},
		"a dead letter that is gone":         {line("dead-lettered", "no such field", ""), FindingDeadLettered, "no such field"},
		"skipped by another version":         {line("skipped", "when was false", ""), FindingMissed, "when was false"},
		"nothing final":                      {line("undecided", "Temporal is down", ""), FindingMissed, "Temporal is down"},
		"nothing final, then started":        {line("undecided", "", "") + line("started", "", "") + line("undecided", "", ""), FindingRan, ""},
		"as Cloud Logging prints it":         {`[{"insertId":"1","jsonPayload":` + line("dead-lettered", "poison", "") + `},{"textPayload":"hello"}]`, FindingDeadLettered, "poison"},
		"of another pipeline":                {strings.Replace(line("started", "", ""), "orders", "others", 1), FindingMissed, ""},
		"amid what is no decision":           {"Serving function\n{\"message\":\"x\"}\n" + line("dead-lettered", "poison", ""), FindingDeadLettered, "poison"},
		"before it got as far as a pipeline": {strings.Replace(line("dead-lettered", "poison", ""), `"pipeline":"orders"`, `"pipeline":""`, 1), FindingDeadLettered, "poison"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t)
			b.put(object)
			b.start("orders", "another-key", object.identity(), time.Hour)
			b.w.unlisted[other] = true
			var err error
			if b.request.Decisions, err = ReadDecisions(strings.NewReader(c.log)); err != nil {
				t.Fatal(err)
			}
			got := b.reconcile()
			b.want(got, map[string]Finding{"in/x#1": c.want})
			if o := got.objects["in/x#1"]; !strings.Contains(o.Reason, c.says) {
				t.Errorf("it is %+v", o)
			}
		})
	}
	for name, log := range map[string]string{"of something else": "hello\nworld\n", "cut off": `[{"jsonPayload":` + line("started", "", "") + `}`, "of one endless line": `{"x":"` + strings.Repeat("x", 2<<20) + `"}`} {
		if _, err := ReadDecisions(strings.NewReader(log)); err == nil {
			t.Errorf("a log %s is taken", name)
		}
	}
}

func TestADeadLetterIsFoundAndLeft(t *testing.T) {
	b, letters := newReconcileBench(t), newLetterBench(t)
	b.put(stored{name: "in/x", generation: 7, size: 1, age: time.Hour}, stored{name: "in/y", generation: 7, size: 1, age: time.Hour}, stored{name: "in/z", generation: 7, size: 1, age: time.Hour})
	id := letters.bury(letterOf("in/x"))
	foreign := letterOf("in/y")
	foreign.Attributes[deadletters.AttrPipeline] = "others"
	letters.bury(foreign)
	// What Pub/Sub itself forwarded never got as far as a pipeline.
	forwarded := forwardedItem("landing", "p")
	body, err := json.Marshal(stored{name: "in/z", generation: 7, size: 1, age: time.Hour}.resource(b.now))
	if err != nil {
		t.Fatal(err)
	}
	forwarded.Data = body
	maps.Copy(forwarded.Attributes, map[string]string{"bucketId": "landing", "objectId": "in/z", "eventType": "OBJECT_FINALIZE", "payloadFormat": "JSON_API_V1", "objectGeneration": "7"})
	letters.bury(forwarded)
	b.request.Queue = letters.Queue
	got := b.reconcile()
	b.want(got, map[string]Finding{"in/x#7": FindingDeadLettered, "in/y#7": FindingMissed, "in/z#7": FindingDeadLettered})
	if o := got.objects["in/x#7"]; o.DeadLetter != id || o.Reason != "no such field" || o.Source != FromDeadLetters {
		t.Errorf("it is %+v", o)
	}
	if left := letters.left(t); len(left) != 3 {
		t.Errorf("%d dead letters are left of 3", len(left))
	}
}

// Bodies have up to 10 MB each, and thousands of letters are looked at.
func TestReconcilingKeepsNoBodyOfADeadLetter(t *testing.T) {
	b, letters := newReconcileBench(t), newLetterBench(t)
	for i := range 150 {
		letters.bury(letterOf(fmt.Sprint("in/", i)))
	}
	var bodies []weak.Pointer[byte]
	kept := -1
	b.request.Queue = letters.open(t, pulls(func(_ context.Context, _ *pubsubpb.PullRequest, answer *pubsubpb.PullResponse, pull func() error) error {
		if len(bodies) == 150 { // those of the calls before this one have been looked at
			runtime.GC()
			kept = 0
			for _, body := range bodies {
				if body.Value() != nil {
					kept++
				}
			}
		}
		err := pull()
		for _, m := range answer.GetReceivedMessages() {
			bodies = append(bodies, weak.Make(&m.GetMessage().Data[0]))
		}
		return err
	}))
	if got := b.reconcile(); kept != 0 || strings.Contains(strings.Join(got.Notes, "\n"), "more dead letters") {
		t.Errorf("of 150 dead letters %d are kept; it notes %q", kept, got.Notes)
	}
}

func TestADeadLetterThatCannotBeReadIsNoted(t *testing.T) {
	b, letters := newReconcileBench(t), newLetterBench(t)
	b.put(stored{name: "in/x", generation: 7, size: 1, age: time.Hour})
	strange := letterOf("in/y")
	strange.Attributes[deadletters.AttrForm] = "newer"
	id := letters.bury(strange)
	letters.bury(letterOf("in/x"))
	b.request.Queue = letters.Queue
	got := b.reconcile()
	b.want(got, map[string]Finding{"in/x#7": FindingDeadLettered})
	if notes := strings.Join(got.Notes, "\n"); !strings.Contains(notes, "read dead letter "+id) {
		t.Errorf("it notes %q", notes)
	}
	// A subscription that gives nothing ends it.
	if _, err := letters.server.GServer.DeleteSubscription(t.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: deadSub}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Reconcile(t.Context(), b.request, ReconcileObserver{}); err == nil || !strings.Contains(err.Error(), "no subscription") {
		t.Errorf("without the subscription it ends with %v", err)
	}
}

func TestRunsThatNoObjectExplains(t *testing.T) {
	b := newReconcileBench(t)
	kept, before, moved := stored{name: "in/kept", generation: 1, size: 1, age: time.Hour}, stored{name: "in/before", generation: 2, size: 1, age: 49 * time.Hour}, stored{name: "elsewhere", generation: 3, size: 1, age: time.Hour}
	b.put(kept, before, moved)
	b.ran(kept)
	b.ran(moved)
	b.start("orders", before.identity(), before.identity(), 47*time.Hour) // it came late
	b.ran(stored{name: "in/deleted", generation: 4, age: time.Hour})
	b.start("orders", "message", "pubsub:projects/p/topics/t#1", time.Hour)
	b.start("orders", "hand", "", time.Hour)
	b.start("orders", "older", "event:x#1", 60*time.Hour)
	b.start("others", "other", "event:x#2", time.Hour)
	got := b.reconcile()
	b.want(got, map[string]Finding{"in/kept#1": FindingRan})
	want := map[string]string{
		moved.identity(): "no trigger", "finalized:landing/in/deleted#4": "is gone", "pubsub:projects/p/topics/t#1": "cannot be listed", "": "something else than an event",
	}
	for _, r := range got.extras {
		if reason, ok := want[r.Identity]; !ok || !strings.Contains(r.Reason, reason) {
			t.Errorf("extra: %+v", r)
		}
		delete(want, r.Identity)
	}
	if len(want) > 0 || got.Extra != 4 {
		t.Errorf("%d extra, not told of: %v", got.Extra, want)
	}
}

func TestKeysThatOthersHave(t *testing.T) {
	const keyed = `name: orders
purpose: Load.
owner: me@example.com
on:
  - storage: {bucket: landing, object: "in/{day}/*"}
key: ${object.day}
dedupe: {keep: forever}
steps:
  - name: load
    dataflow: {template: gs://templates/load.json}
`
	b := newReconcileBench(t, keyed)
	first, second := stored{name: "in/mon/a", generation: 1, age: time.Hour}, stored{name: "in/mon/b", generation: 2, age: time.Hour}
	renamed := stored{name: "in/tue/a", generation: 3, age: time.Hour}
	repeated, beaten := stored{name: "in/wed/a", generation: 4, age: time.Hour}, stored{name: "in/thu/a", generation: 5, age: time.Hour}
	b.put(first, second, renamed, repeated, beaten)
	b.start("orders", "mon", first.identity(), time.Hour)
	b.start("orders", renamed.identity(), renamed.identity(), time.Hour) // when the file had no key
	b.start("orders", "wed", repeated.identity(), time.Hour)
	b.w.results["dev/orders/wed"] = runs.RunResult{Version: 1, Outcome: runs.OutcomeDuplicate, Taken: &runs.Taken{Outcome: runs.OutcomeFailed, Reason: "run x ended as failed"}}
	b.start("orders", "thu", beaten.identity(), time.Hour)
	b.w.results["dev/orders/thu"] = runs.RunResult{Version: 1, Outcome: runs.OutcomeKeyTaken, Taken: &runs.Taken{ByAnotherEvent: true, Identity: "event:x#1", Reason: "run y has it"}}
	got := b.reconcile()
	b.want(got, map[string]Finding{
		"in/mon/a#1": FindingRan, "in/mon/b#2": FindingKeyTaken, "in/tue/a#3": FindingRan, "in/wed/a#4": FindingDuplicate, "in/thu/a#5": FindingKeyTaken,
	})
	if o := got.objects["in/mon/b#2"]; o.By != first.identity() {
		t.Errorf("the key is taken by %q", o.By)
	}
	if o := got.objects["in/tue/a#3"]; o.RunID != runs.RunID("dev", "orders", renamed.identity()) || !strings.Contains(o.Reason, "earlier version") {
		t.Errorf("what ran under another key is %+v", o)
	}
	if o := got.objects["in/wed/a#4"]; o.Outcome != runs.OutcomeFailed || o.Reason != "run x ended as failed" {
		t.Errorf("the duplicate is %+v", o)
	}
	if o := got.objects["in/thu/a#5"]; o.By != "event:x#1" {
		t.Errorf("the key is taken by %q", o.By)
	}
	if got.Extra != 0 {
		t.Errorf("extra: %+v", got.extras)
	}
}

func TestWhatCountedMoreThanOnce(t *testing.T) {
	object := stored{name: "in/x", generation: 1, size: 1, age: time.Hour}
	for name, c := range map[string]struct {
		file string
		do   func(*reconcileBench, *ledger.Ledger)
		want int
	}{
		"one run": {orders, func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, object.identity(), object.identity(), "a", "started", "j1")
		}, 0},
		"two chains, and a job of each": {orders, func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, object.identity(), object.identity(), "a", "started", "j1")
			b.record(l, object.identity(), object.identity(), "b", "started", "j2")
		}, 2},
		"two chains, and one job": {orders, func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, object.identity(), object.identity(), "a", "started", "j1")
			b.record(l, object.identity(), object.identity(), "b", "started", "j1")
		}, 0},
		"a person's retry": {orders, func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, object.identity(), object.identity(), "a", "started", "j1")
			b.record(l, object.identity(), object.identity(), "b", "retry", "j2")
		}, 0},
		"a claim that expires": {orders + "dedupe: {keep: 2h}\n", func(b *reconcileBench, l *ledger.Ledger) {
			b.record(l, object.identity(), object.identity(), "a", "started", "j1")
			b.record(l, object.identity(), object.identity(), "b", "started", "j2")
		}, 0},
		"runs under two keys": {orders, func(b *reconcileBench, _ *ledger.Ledger) { b.start("orders", "other", object.identity(), time.Hour) }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t, c.file)
			b.put(object)
			b.ran(object)
			c.do(b, b.with(t))
			got := b.reconcile()
			if o := got.objects["in/x#1"]; o.Verdict != FindingRan || len(o.Twice) != c.want || got.Twice != min(c.want, 1) {
				t.Errorf("%+v, %d twice", o, got.Twice)
			}
		})
	}
}

// An object tells its metadata as they are. Where they decide, and may have been others, nothing is started on a guess.
func TestADecisionThatTheObjectDoesNotTellIsUnknown(t *testing.T) {
	file := func(when, key string) string {
		return strings.Replace(orders, "event.size > 0", when, 1) + key
	}
	for name, c := range map[string]struct {
		file   string
		object stored
		want   Finding
	}{
		"metadata, as they were":       {file("event.metadata.kind == 'full'", ""), stored{}, FindingMissed},
		"metadata, changed since":      {file("event.metadata.kind == 'full'", ""), stored{metageneration: 2}, FindingUnknown},
		"skipped for metadata":         {file("event.metadata.kind == 'part'", ""), stored{}, FindingSkipped},
		"skipped for changed metadata": {file("event.metadata.kind == 'part'", ""), stored{metageneration: 2}, FindingUnknown},
		"metadata of a superseded one": {file("event.metadata.kind == 'full'", ""), stored{superseded: true}, FindingUnknown},
		"a key of the delivery's ID":   {file("event.size > 0", "key: ${event.id}\n"), stored{}, FindingUnknown},
		"a key of the delivery's time": {file("event.size > 0", "key: ${string(event.time)}\n"), stored{}, FindingUnknown},
		"a year of the event's time":   {file("event.time.getFullYear() > 2000", ""), stored{}, FindingMissed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t, c.file)
			c.object.name, c.object.generation, c.object.size, c.object.age = "in/x", 1, 1, time.Hour
			b.put(c.object)
			b.request.StartMissing = true
			b.want(b.reconcile(), map[string]Finding{"in/x#1": c.want})
			if started := len(b.posted) > 0; started != (c.want == FindingMissed) {
				t.Errorf("posted %q", b.posted)
			}
		})
	}
}

// What other pipelines that want it have made of an event may be forgotten: they are not asked again.
func TestWhatWasMissedIsGivenToNoOtherPipeline(t *testing.T) {
	b := newReconcileBench(t, orders, strings.Replace(orders, "name: orders", "name: audits", 1))
	object := stored{name: "in/x", generation: 1, size: 1, age: time.Hour}
	b.put(object)
	b.request.StartMissing = true
	o := b.reconcile().objects["in/x#1"]
	if o.Start == nil || !o.Start.Delivered || len(o.Start.Decisions) != 1 || o.Start.Decisions[0].Pipeline != "orders" || o.Start.Decisions[0].Decision != string(Started) {
		t.Errorf("it is %+v, %+v", o, o.Start)
	}
	if len(b.w.byID) != 1 {
		t.Errorf("%d runs, want one", len(b.w.byID))
	}
}

func TestFunctionsThatDoNotAnswerAreAskedOnce(t *testing.T) {
	b := newReconcileBench(t)
	for i := range 5 {
		b.put(stored{name: fmt.Sprintf("in/%d", i), generation: 1, size: 1, age: time.Hour})
	}
	asked := 0
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		w.WriteHeader(http.StatusForbidden)
	}))
	defer gone.Close()
	b.request.StartMissing, b.request.Functions.URL = true, gone.URL
	if got := b.reconcile(); asked != 1 || got.Left != 5 || got.Started != 0 {
		t.Errorf("asked %d times: %+v", asked, got.Reconciliation)
	}
}

func TestABucketThatIsBusyIsAskedAgain(t *testing.T) {
	b := newReconcileBench(t)
	b.put(stored{name: "in/x", generation: 1, size: 1, age: time.Hour})
	b.refuse = []int{429, 503, 500}
	b.want(b.reconcile(), map[string]Finding{"in/x#1": FindingMissed})
	b.refuse = []int{403}
	_, err := b.Reconcile(t.Context(), b.request, ReconcileObserver{})
	if err == nil || !strings.Contains(err.Error(), "roles/storage.objectViewer") || !strings.Contains(err.Error(), "gs://landing/in") {
		t.Errorf("a bucket that may not be listed is %v", err)
	}
	b.refuse = []int{503, 503, 503, 503, 503, 503, 503}
	if _, err = b.Reconcile(t.Context(), b.request, ReconcileObserver{}); err == nil || len(b.refuse) != 1 {
		t.Errorf("a bucket that is always busy is %v", err)
	}
}

func TestWhatCannotBeListedIsSaid(t *testing.T) {
	const rest = `purpose: Load.
owner: me@example.com
steps:
  - name: load
    dataflow: {template: gs://templates/load.json}
`
	for name, c := range map[string]struct {
		on    string
		says  []string
		fails bool
	}{
		"messages only":       {`on: [{pubsub: {topic: items}}]`, []string{"messages of topic items cannot be listed"}, true},
		"events only":         {`on: [{event: {type: com.x}}]`, []string{"events of type com.x cannot be listed"}, true},
		"deletions only":      {`on: [{storage: {bucket: landing, kinds: [deleted]}}]`, []string{"deleted"}, true},
		"objects and more":    {`on: [{storage: {bucket: landing, kinds: [finalized, archived]}}, {pubsub: {topic: items}}]`, []string{"archived", "messages of topic items"}, false},
		"objects, three ways": {`on: [{storage: {bucket: landing, object: "in/**"}}, {storage: {bucket: landing, object: "in/x/*"}}, {storage: {bucket: landing, object: "in*"}}]`, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newReconcileBench(t, "name: orders\n"+c.on+"\n"+rest)
			b.put(stored{name: "in/x/y", generation: 1, size: 1, age: time.Hour})
			objects := 0
			got, err := b.Reconcile(t.Context(), b.request, ReconcileObserver{Object: func(ReconciledObject) error { objects++; return nil }})
			text := strings.Join(got.Notes, "\n")
			if err != nil {
				text = err.Error()
			}
			for _, want := range c.says {
				if !strings.Contains(text, want) {
					t.Errorf("it says %q, want %q", text, want)
				}
			}
			if (err != nil) != c.fails || !c.fails && objects != 1 {
				t.Errorf("%d objects, %v", objects, err)
			}
		})
	}
}

func TestAnObserverEndsAReconciliation(t *testing.T) {
	b := newReconcileBench(t)
	b.put(stored{name: "in/x", generation: 1, size: 1, age: time.Hour})
	full := errors.New("the disk is full")
	if _, err := b.Reconcile(t.Context(), b.request, ReconcileObserver{Object: func(ReconciledObject) error { return full }}); !errors.Is(err, full) {
		t.Errorf("it ends with %v", err)
	}
}
