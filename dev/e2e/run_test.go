package e2e_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
	"github.com/penstock/penstock/runs"
)

// A year of real observations lands, with the spoiled rows of the example, and goes
// through two real Beam pipelines.
func TestWeatherFromFileToFigures(t *testing.T) {
	t.Parallel()
	const purpose = "Clean each file of daily observations as it lands, and give its monthly figures."
	examples := filepath.Join("..", "..", "examples")
	year := readFile(t, examples, "weather", "data", "seattle-2014.csv")
	spoiled := readFile(t, examples, "weather", "data", "spoiled", "seattle-2014-additions.csv")
	key := shared.upload(t, "weather-landing", "daily/seattle-2014.csv", year+spoiled)
	r := &run{bench: shared, pipeline: "weather", key: key, id: runs.RunID(deployment, "weather", key)}

	res := r.result(t)
	if res.Outcome != runs.OutcomeSucceeded || len(res.Steps) != 2 {
		t.Fatalf("the run: %+v", res)
	}
	got := shared.download(t, "weather-summaries", "seattle/2014.csv")
	if want := readFile(t, examples, "pipelines", "weather", "testdata", "seattle-2014-summary.csv"); got != want {
		t.Errorf("summaries:\n%s\nwant:\n%s", got, want)
	}

	clean, summarise := res.Steps[0].Attempts[0], res.Steps[1].Attempts[0]
	for step, a := range map[string]runs.JobResult{"clean": clean, "summarise": summarise} {
		if a.State != "JOB_STATE_DONE" || a.JobID == "" || a.Attempt != 1 || a.Adopted || a.JobName != r.jobName(step, 1) {
			t.Errorf("the attempt of %s: %+v", step, a)
		}
	}
	if m := clean.Metrics; m["rows_bad"] == 0 || m["rows_read"] != m["rows_good"]+m["rows_bad"] {
		t.Errorf("rows of clean: %v", m)
	}
	if got, want := summarise.Parameters["input"], clean.Parameters["output"]; got != want || want != "gs://weather-clean/seattle/2014.csv" {
		t.Errorf("summarise read %q, clean wrote %q", got, want)
	}
	if got := r.state(t); got.Outcome != runs.OutcomeSucceeded || len(got.Steps) != 2 {
		t.Errorf("the query answers %+v", got)
	}

	d, err := shared.Client.DescribeWorkflow(t.Context(), r.id, "")
	if err != nil {
		t.Fatal(err)
	}
	if d.WorkflowType.Name != runs.TypeRun || d.TaskQueueName != runs.TaskQueue(deployment) {
		t.Errorf("workflow of type %s on task queue %s", d.WorkflowType.Name, d.TaskQueueName)
	}
	if got, err := d.GetStaticSummary(); err != nil || got != purpose {
		t.Errorf("static summary %q (%v), want the purpose", got, err)
	}
	for attribute, want := range map[temporal.SearchAttributeKeyKeyword]string{
		runs.AttrPipeline: "weather", runs.AttrKey: key, runs.AttrOutcome: string(runs.OutcomeSucceeded), runs.AttrConfig: res.Config.Hash,
	} {
		if got, _ := d.TypedSearchAttributes.GetKeyword(attribute); got != want || want == "" {
			t.Errorf("search attribute %s is %q, want %q", attribute.GetName(), got, want)
		}
	}
	memo := func(name string, to any) {
		if err := converter.GetDefaultDataConverter().FromPayload(d.Memo.GetFields()[name], to); err != nil {
			t.Errorf("memo %s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		runs.MemoIdentity: key, runs.MemoKey: key, runs.MemoPipeline: "weather", runs.MemoPurpose: purpose, runs.MemoOwner: "weather@example.com",
	} {
		var got string
		if memo(name, &got); got != want {
			t.Errorf("memo %s is %q, want %q", name, got, want)
		}
	}
	var config pipeline.Version
	if memo(runs.MemoConfig, &config); config != res.Config || config.Hash == "" {
		t.Errorf("memo and result disagree on the config version: %+v, %+v", config, res.Config)
	}
	child, err := shared.Client.DescribeWorkflow(t.Context(), r.jobWorkflow("clean", 1), "")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := child.TypedSearchAttributes.GetKeyword(runs.AttrStep); child.WorkflowType.Name != runs.TypeJob || got != "clean" {
		t.Errorf("the job's workflow is of type %s for step %q", child.WorkflowType.Name, got)
	}

	// The same change, told once more, is a duplicate that names its run.
	generation, err := strconv.ParseInt(key[strings.LastIndex(key, "#")+1:], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	status, answer := postStorage(t, shared, finalized("weather-landing", "daily/seattle-2014.csv", generation))
	if status != http.StatusOK || len(answer.Decisions) != 1 || answer.Decisions[0].Outcome != "duplicate" || answer.Decisions[0].RunID != r.id {
		t.Errorf("%d answers a redelivery: %+v, want duplicate of %s", status, answer, r.id)
	}
}

func TestOneEventPostedTwoHundredTimesStartsOneRun(t *testing.T) {
	t.Parallel()
	const posts, clients = 200, 32
	e := finalized(landing, "one/"+t.Name(), 1)
	r := &run{bench: shared, pipeline: "one", object: e.Storage.Name, key: e.Identity(), id: runs.RunID(deployment, "one", e.Identity())}

	var (
		mu      sync.Mutex
		counts  = map[string]int{}
		slowest time.Duration
		left    = make(chan struct{}, posts)
		wg      sync.WaitGroup
	)
	for range posts {
		left <- struct{}{}
	}
	close(left)
	for range clients {
		wg.Go(func() {
			for range left {
				began := time.Now()
				status, a := postStorage(t, shared, e)
				took := time.Since(began)
				mu.Lock()
				slowest = max(slowest, took)
				if status != http.StatusOK || len(a.Decisions) != 1 || a.Decisions[0].RunID != r.id {
					t.Errorf("%d: %+v", status, a)
				} else {
					counts[a.Decisions[0].Outcome]++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if want := map[string]int{"started": 1, "duplicate": posts - 1}; !maps.Equal(counts, want) {
		t.Errorf("decisions %v, want %v", counts, want)
	}
	t.Logf("the slowest of %d answers to %d clients took %v", posts, clients, slowest.Round(time.Millisecond))
	if slowest > 30*time.Second {
		t.Errorf("the slowest answer took %v", slowest)
	}

	r.job(t, "only", 1).done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run: %+v", res)
	}
	r.wantJobs(t, map[string]int{"only": 1})
	// Nor does it start a second one once the first is over.
	if _, a := postStorage(t, shared, e); len(a.Decisions) != 1 || a.Decisions[0].Outcome != "duplicate" {
		t.Errorf("the answer after the run's end: %+v", a)
	}
}

func TestAnOverwriteIsAnotherEvent(t *testing.T) {
	t.Parallel()
	first := shared.land(t, "one")
	second := shared.land(t, "one")
	for _, r := range []*run{first, second} {
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run: %+v", res)
		}
	}
	if first.id == second.id {
		t.Errorf("both have the run ID %s", first.id)
	}
}

// While a job runs nothing of ours is alive but one timer; and a job that goes well
// costs three calls of Dataflow.
func TestWhatAJobCosts(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "one")
	job := r.job(t, "only", 1)
	child := r.jobWorkflow("only", 1)
	eventually(t, "the job's workflow has heard that its job runs", func() bool {
		events := shared.history(t, child, "")
		heard := count(events, enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED) >= 2 // QUEUED, RUNNING
		return heard && count(events, enumspb.EVENT_TYPE_ACTIVITY_TASK_COMPLETED) == 1 && settled(events)
	})
	for id, timers := range map[string]int{child: 1, r.id: 0} {
		events := shared.history(t, id, "")
		open := count(events, enumspb.EVENT_TYPE_TIMER_STARTED) - count(events, enumspb.EVENT_TYPE_TIMER_FIRED) - count(events, enumspb.EVENT_TYPE_TIMER_CANCELED)
		if open != timers || !settled(events) {
			t.Errorf("%s has %d open timers, want %d; its history: %v", id, open, timers, types(events))
		}
		d, err := shared.Client.DescribeWorkflowExecution(t.Context(), id, "")
		if err != nil {
			t.Fatal(err)
		}
		if len(d.PendingActivities) > 0 || d.PendingWorkflowTask != nil {
			t.Errorf("%s has work pending while its job runs: %v, %v", id, d.PendingActivities, d.PendingWorkflowTask)
		}
	}
	if got, want := shared.Calls.of(job.JobName), []string{"jobs.list", "flexTemplates.launch"}; !slices.Equal(got, want) {
		t.Errorf("calls of Dataflow while the job runs: %v, want %v", got, want)
	}

	job.done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run: %+v", res)
	}
	if got, want := shared.Calls.of(job.JobName), []string{"jobs.list", "flexTemplates.launch", "jobs.getMetrics"}; !slices.Equal(got, want) {
		t.Errorf("calls of Dataflow: %v, want %v", got, want)
	}
	ofRun, ofJob := shared.history(t, r.id, ""), shared.history(t, child, "")
	t.Logf("a run of one job that goes well: %d events for the run, %d for the job's workflow; billed actions: %v and %v",
		len(ofRun), len(ofJob), actions(ofRun), actions(ofJob))
	if n := count(ofJob, enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED); n != 2 {
		t.Errorf("%d activities for a job, want 2: launch and report", n)
	}
	if n := count(ofJob, enumspb.EVENT_TYPE_TIMER_STARTED); n != 1 {
		t.Errorf("%d timers for a job, want 1", n)
	}
	keep(t, r, "succeeded", "only-1")
}

// actions counts what Temporal Cloud bills (https://docs.temporal.io/cloud/actions).
func actions(events []*historypb.HistoryEvent) map[string]int {
	n := map[string]int{}
	for _, e := range events {
		switch e.EventType {
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED, enumspb.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED, enumspb.EVENT_TYPE_TIMER_STARTED,
			enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED, enumspb.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
			enumspb.EVENT_TYPE_START_CHILD_WORKFLOW_EXECUTION_INITIATED, enumspb.EVENT_TYPE_MARKER_RECORDED:
			n[e.EventType.String()]++
			n["all"]++
		}
	}
	return n
}

func count(events []*historypb.HistoryEvent, of enumspb.EventType) int {
	n := 0
	for _, e := range events {
		if e.EventType == of {
			n++
		}
	}
	return n
}

// settled says that no workflow task is waiting or under way.
func settled(events []*historypb.HistoryEvent) bool {
	for _, e := range slices.Backward(events) {
		switch e.EventType {
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_COMPLETED:
			return true
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_SCHEDULED, enumspb.EVENT_TYPE_WORKFLOW_TASK_STARTED:
			return false
		}
	}
	return false
}

func types(events []*historypb.HistoryEvent) []string {
	var names []string
	for _, e := range events {
		names = append(names, e.EventType.String())
	}
	return names
}

// finalized is the event of an object that landed.
func finalized(bucket, name string, generation int64) *events.Event {
	return &events.Event{
		Kind: events.KindStorage, ID: strconv.FormatInt(time.Now().UnixNano(), 10),
		Storage: &events.Storage{Change: events.Finalized, Bucket: bucket, Name: name, Generation: generation, Size: 8},
	}
}

// postStorage gives a storage event to the functions as Eventarc would, once.
func postStorage(t *testing.T, b *bench, e *events.Event) (int, answer) {
	t.Helper()
	body, err := json.Marshal(e.Storage)
	if err != nil {
		t.Error(err)
		return 0, answer{}
	}
	return b.post(t, "StorageTrigger", storageHeader(e.ID, "finalized", e.Storage.Bucket), string(body))
}

func readFile(t *testing.T, path ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
