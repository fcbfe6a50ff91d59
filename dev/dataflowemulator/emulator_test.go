package dataflowemulator_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/dataflowemulator/rest"
)

const (
	project  = "acme"
	region   = "us-central1"
	deadline = time.Minute
)

// script goes to RUNNING, says so, and fails.
func script() dataflowemulator.Script {
	return dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{
		{State: pb.JobState_JOB_STATE_RUNNING}, {State: pb.JobState_JOB_STATE_FAILED, Message: "row 7 has no date"},
	}}}
}

func start(t *testing.T, config dataflowemulator.Config) *dataflowemulator.Emulator {
	t.Helper()
	e, err := dataflowemulator.New(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close the emulator: %v", err)
		}
	})
	return e
}

// launch launches a job of an image and returns its ID.
func launch(t *testing.T, e *dataflowemulator.Emulator, image, name string, parameters map[string]string) string {
	t.Helper()
	out, err := e.LaunchFlexTemplate(t.Context(), request(image, name, parameters))
	if err != nil {
		t.Fatalf("launch %s: %v", name, err)
	}
	return out.Job.Id
}

func request(image, name string, parameters map[string]string) *pb.LaunchFlexTemplateRequest {
	return &pb.LaunchFlexTemplateRequest{ProjectId: project, Location: region, LaunchParameter: &pb.LaunchFlexTemplateParameter{
		JobName: name, Parameters: parameters, Template: &pb.LaunchFlexTemplateParameter_ContainerSpec{ContainerSpec: &pb.ContainerSpec{Image: image}},
		Environment: &pb.FlexTemplateRuntimeEnvironment{AdditionalUserLabels: map[string]string{"team": "data"}},
	}}
}

func wait(t *testing.T, e *dataflowemulator.Emulator, id string) pb.JobState {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	state, err := e.Wait(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// states is a sink that lets a test wait for a job's state.
type states struct {
	mu      sync.Mutex
	changed *sync.Cond
	events  []dataflowemulator.StatusEvent
}

func newStates() *states {
	s := &states{}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *states) Deliver(_ context.Context, event dataflowemulator.StatusEvent) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, event)
	s.changed.Broadcast()
	return nil
}

// until returns all events once one says that the job is in the state.
func (s *states) until(t *testing.T, id, state string) []dataflowemulator.StatusEvent {
	t.Helper()
	late := time.AfterFunc(deadline, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed.Broadcast()
	})
	defer late.Stop()
	end := time.Now().Add(deadline)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for _, e := range s.events {
			p := payload(t, e)
			if p["id"] != id {
				continue
			}
			if p["currentState"] == state {
				return slices.Clone(s.events)
			}
			if p["currentState"] == "JOB_STATE_FAILED" {
				t.Fatalf("job %s has failed and will not be %s", id, state)
			}
		}
		if time.Now().After(end) {
			t.Fatalf("no event says that job %s is %s; %d events came", id, state, len(s.events))
		}
		s.changed.Wait()
	}
}

func payload(t *testing.T, event dataflowemulator.StatusEvent) map[string]any {
	t.Helper()
	var data struct {
		Type    string         `json:"@type"`
		Payload map[string]any `json:"payload"`
	}
	if err := json.Unmarshal(event.Data, &data); err != nil {
		t.Fatalf("event data %s: %v", event.Data, err)
	}
	if data.Type != "type.googleapis.com/google.events.cloud.dataflow.v1beta3.JobEventData" {
		t.Errorf("event data is of type %q", data.Type)
	}
	return data.Payload
}

func TestEachStateIsAnEvent(t *testing.T) {
	sink := newStates()
	e := start(t, dataflowemulator.Config{
		Images: map[string]dataflowemulator.Program{"acme/x": script()}, Sink: sink, ProjectNumbers: map[string]string{project: "660670451013"},
	})
	id := launch(t, e, "acme/x", "orders", nil)
	var got, times []string
	for _, event := range sink.until(t, id, "JOB_STATE_FAILED") {
		p := payload(t, event)
		got = append(got, p["currentState"].(string))
		times = append(times, p["currentStateTime"].(string))
		if event.Type != "google.cloud.dataflow.job.v1beta3.statusChanged" || event.Source != "//dataflow.googleapis.com/projects/acme/locations/us-central1" ||
			event.Subject != "jobs/orders" || event.Job != "orders" || event.Project != "660670451013" || event.Location != region || event.ID == "" {
			t.Errorf("attributes %+v", event)
		}
		want := map[string]any{"id": id, "name": "orders", "projectId": project, "location": region, "type": "JOB_TYPE_BATCH", "labels": map[string]any{"team": "data"}}
		for field, value := range want {
			if !reflect.DeepEqual(p[field], value) {
				t.Errorf("payload's %s is %v, want %v", field, p[field], value)
			}
		}
		if !strings.HasSuffix(p["createTime"].(string), "Z") || !strings.HasSuffix(p["startTime"].(string), "Z") {
			t.Errorf("times %v and %v do not end in Z", p["createTime"], p["startTime"])
		}
	}
	if want := []string{"JOB_STATE_QUEUED", "JOB_STATE_RUNNING", "JOB_STATE_FAILED"}; !slices.Equal(got, want) {
		t.Errorf("states %v, want %v", got, want)
	}
	for i := 1; i < len(times); i++ {
		before, _ := time.Parse(time.RFC3339Nano, times[i-1])
		after, err := time.Parse(time.RFC3339Nano, times[i])
		if err != nil || !after.After(before) {
			t.Errorf("currentStateTime does not grow: %v", times)
		}
	}
}

func TestReplacedJobsEventNamesItsSuccessor(t *testing.T) {
	sink := newStates()
	e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": dataflowemulator.Script{Streaming: true}}, Sink: sink})
	old := launch(t, e, "acme/x", "orders", nil)
	sink.until(t, old, "JOB_STATE_RUNNING")
	in := request("acme/x", "orders", nil)
	in.LaunchParameter.Update = true
	out, err := e.LaunchFlexTemplate(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	for _, event := range sink.until(t, old, "JOB_STATE_UPDATED") {
		if p := payload(t, event); p["currentState"] == "JOB_STATE_UPDATED" && p["replacedByJobId"] != out.Job.Id {
			t.Errorf("the event says replaced by %v, want %s", p["replacedByJobId"], out.Job.Id)
		}
	}
}

func TestHTTPSinkPostsBinaryCloudEventsAndTriesAgain(t *testing.T) {
	type post struct {
		header http.Header
		body   map[string]any
	}
	posts := make(chan post, 10)
	answers := []int{503, 200}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := post{header: r.Header}
		if err := json.NewDecoder(r.Body).Decode(&p.body); err != nil {
			t.Errorf("body: %v", err)
		}
		w.WriteHeader(answers[0])
		answers = answers[1:]
		posts <- p
	}))
	defer server.Close()
	event := dataflowemulator.StatusEvent{
		ID: "1", Source: "//s", Type: dataflowemulator.StatusEventType, Subject: "jobs/orders", Time: time.Date(2026, 11, 22, 1, 2, 3, 4000, time.UTC),
		Job: "orders", Project: "7", Location: region, Data: []byte(`{"payload": {}}`),
	}
	if err := (dataflowemulator.HTTPSink{URL: server.URL}).Deliver(t.Context(), event); err != nil {
		t.Fatal(err)
	}
	for try := range 2 {
		p := <-posts
		for name, want := range map[string]string{
			"Ce-Specversion": "1.0", "Ce-Id": "1", "Ce-Source": "//s", "Ce-Type": dataflowemulator.StatusEventType, "Ce-Subject": "jobs/orders", "Ce-Time": "2026-11-22T01:02:03.000004Z",
			"Ce-Job": "orders", "Ce-Project": "7", "Ce-Location": region, "Content-Type": "application/json; charset=utf-8",
		} {
			if got := p.header.Get(name); got != want {
				t.Errorf("try %d: header %s is %q, want %q", try+1, name, got, want)
			}
		}
		if p.body["payload"] == nil {
			t.Errorf("try %d: body %v", try+1, p.body)
		}
	}
}

func TestLedgerHasEachLaunchAndState(t *testing.T) {
	path := filepath.Join(t.TempDir(), "launches.jsonl")
	for run := range 2 { // an emulator that starts again writes on
		e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": script()}, Ledger: path})
		id := launch(t, e, "acme/x", fmt.Sprintf("orders-%d", run), map[string]string{"input": "gs://a/b"})
		wait(t, e, id)
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var got []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct {
			Kind, Job, State, Image string
			Parameters              map[string]string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatalf("line %s: %v", lines.Bytes(), err)
		}
		got = append(got, strings.TrimSpace(line.Kind+" "+line.Job+" "+line.State+line.Image+line.Parameters["input"]))
	}
	var want []string
	for _, job := range []string{"orders-0", "orders-1"} {
		want = append(want, "launch "+job+" acme/xgs://a/b", "state "+job+" JOB_STATE_QUEUED", "state "+job+" JOB_STATE_RUNNING", "state "+job+" JOB_STATE_FAILED")
	}
	if !slices.Equal(got, want) {
		t.Errorf("ledger:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if _, err := dataflowemulator.New(dataflowemulator.Config{Ledger: filepath.Join(t.TempDir(), "none", "x")}); err == nil {
		t.Error("an impossible ledger is no error")
	}
}

func TestTemplatesComeFromCloudStorage(t *testing.T) {
	asked := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.Method + " " + r.URL.EscapedPath() + "?" + r.URL.RawQuery
		switch {
		case strings.Contains(r.URL.Path, "none"):
			http.NotFound(w, r)
		case strings.Contains(r.URL.Path, "down"):
			http.Error(w, "later", http.StatusServiceUnavailable)
		default:
			fmt.Fprint(w, `{"image": "acme/x"}`)
		}
	}))
	defer server.Close()
	for _, endpoint := range []string{server.URL, strings.TrimPrefix(server.URL, "http://")} {
		e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": script()}, StorageEndpoint: endpoint})
		for path, want := range map[string]codes.Code{"gs://b/dir/my template#1.json": codes.OK, "gs://b/none": codes.NotFound, "gs://b/down": codes.Unavailable, "gs://b": codes.InvalidArgument} {
			in := request("", "orders", nil)
			in.LaunchParameter.Template = &pb.LaunchFlexTemplateParameter_ContainerSpecGcsPath{ContainerSpecGcsPath: path}
			in.ValidateOnly = true
			if _, err := e.LaunchFlexTemplate(t.Context(), in); status.Code(err) != want {
				t.Errorf("%s: %v, want %v", path, err, want)
			}
		}
	}
	var seen []string
	for len(asked) > 0 {
		seen = append(seen, <-asked)
	}
	if want := "GET /storage/v1/b/b/o/dir%2Fmy%20template%231.json?alt=media"; !slices.Contains(seen, want) {
		t.Errorf("asked %v, want %s", seen, want)
	}
}

func TestHooks(t *testing.T) {
	var mu sync.Mutex
	var calls []string
	var fail func(seam string, op dataflowemulator.Operation) error
	seam := func(name string) func(context.Context, dataflowemulator.Operation) error {
		return func(_ context.Context, op dataflowemulator.Operation) error {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, name+" "+op.Method)
			if fail == nil {
				return nil
			}
			return fail(name, op)
		}
	}
	e := start(t, dataflowemulator.Config{
		Images: map[string]dataflowemulator.Program{"acme/x": dataflowemulator.Script{}},
		Hooks:  dataflowemulator.Hooks{Before: seam("before"), Committed: seam("committed")},
	})
	down := status.Error(codes.Unavailable, "down")

	fail = func(seam string, _ dataflowemulator.Operation) error {
		if seam == "before" {
			return down
		}
		return nil
	}
	if _, err := e.LaunchFlexTemplate(t.Context(), request("acme/x", "orders", nil)); !errors.Is(err, down) {
		t.Errorf("an error before the launch: %v", err)
	}
	if calls[len(calls)-1] != "before flexTemplates.launch" {
		t.Errorf("calls %v", calls)
	}
	var id string
	fail = func(seam string, op dataflowemulator.Operation) error {
		if seam == "committed" {
			id = op.JobID
			return down
		}
		return nil
	}
	if _, err := e.LaunchFlexTemplate(t.Context(), request("acme/x", "orders", nil)); !errors.Is(err, down) {
		t.Errorf("an error after the launch: %v", err)
	}
	fail = nil
	if j, err := e.GetJob(t.Context(), &pb.GetJobRequest{ProjectId: project, Location: region, JobId: id}); err != nil || j.Name != "orders" {
		t.Errorf("the launch that was not answered has no job: %v", err)
	}
	if list, err := e.ListJobs(t.Context(), &pb.ListJobsRequest{ProjectId: project, Location: region}); err != nil || len(list.Jobs) != 1 {
		t.Errorf("there are %d jobs, %v, want the second launch's only", len(list.GetJobs()), err)
	}

	// A face of the API cuts the connection when it is asked for no answer.
	fail = func(string, dataflowemulator.Operation) error { return dataflowemulator.ErrNoAnswer }
	server := httptest.NewServer(rest.Handler(e))
	defer server.Close()
	resp, err := http.Get(server.URL + "/v1b3/projects/acme/jobs")
	if err == nil {
		resp.Body.Close()
		t.Errorf("answered %s, want a cut connection", resp.Status)
	}
}

func TestEachLaunchOfAScriptCanDiffer(t *testing.T) {
	e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": dataflowemulator.Script{Launches: [][]dataflowemulator.Step{
		{{State: pb.JobState_JOB_STATE_FAILED, Message: "first"}}, {{State: pb.JobState_JOB_STATE_DONE}},
	}}}})
	for i, want := range []pb.JobState{pb.JobState_JOB_STATE_FAILED, pb.JobState_JOB_STATE_DONE, pb.JobState_JOB_STATE_DONE} {
		if got := wait(t, e, launch(t, e, "acme/x", "orders", nil)); got != want {
			t.Errorf("launch %d ended in %v, want %v", i+1, got, want)
		}
	}
}

func TestNothingStartsAfterClose(t *testing.T) {
	e := start(t, dataflowemulator.Config{Images: map[string]dataflowemulator.Program{"acme/x": dataflowemulator.Script{}}})
	launch(t, e, "acme/x", "orders", nil)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := e.LaunchFlexTemplate(t.Context(), request("acme/x", "again", nil)); status.Code(err) != codes.Unavailable {
		t.Errorf("a launch after Close: %v", err)
	}
}
