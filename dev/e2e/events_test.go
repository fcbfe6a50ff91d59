package e2e_test

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"go.temporal.io/api/proxy"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

// ownWorker polls the task queue of workflows that are the user's own.
func ownWorker(t *testing.T, b *bench) {
	t.Helper()
	w := worker.New(b.Client, "e2e-own", worker.Options{})
	// The event as any language sees it: one argument, an object.
	w.RegisterWorkflowWithOptions(func(_ workflow.Context, event map[string]any) (map[string]any, error) {
		return event, nil
	}, workflow.RegisterOptions{Name: "Ingest"})
	// Collector returns what it was told, once it was told to end.
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context) ([]string, error) {
		var told []string
		for {
			var signal struct {
				Identity string         `json:"identity"`
				Event    map[string]any `json:"event"`
			}
			workflow.GetSignalChannel(ctx, "file-arrived").Receive(ctx, &signal)
			if signal.Event["type"] != "google.cloud.storage.object.v1.finalized" {
				told = append(told, "not the event")
			}
			told = append(told, signal.Identity)
			if strings.Contains(signal.Identity, "/last#") {
				return told, nil
			}
		}
	}, workflow.RegisterOptions{Name: "Collector"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Stop)
}

func TestAWorkflowOfTheUsersOwnGetsTheEvent(t *testing.T) {
	t.Parallel()
	ownWorker(t, shared)
	identity := shared.upload(t, "e2e-own", "ingest/a b.csv", "x")
	wantOutcomes(t, shared.awaitDecided(t, "ingest", identity, 1), map[string]int{"started": 1})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var event struct {
		SpecVersion string `json:"specversion"`
		Type        string `json:"type"`
		Data        struct {
			Bucket     string      `json:"bucket"`
			Name       string      `json:"name"`
			Generation json.Number `json:"generation"`
		} `json:"data"`
	}
	if err := shared.Client.GetWorkflow(ctx, runs.RunID(deployment, "ingest", identity), "").Get(ctx, &event); err != nil {
		t.Fatal(err)
	}
	if event.SpecVersion != "1.0" || event.Type != "google.cloud.storage.object.v1.finalized" || event.Data.Bucket != "e2e-own" ||
		event.Data.Name != "ingest/a b.csv" || !strings.HasSuffix(identity, "#"+event.Data.Generation.String()) {
		t.Errorf("the workflow got %+v, want the CloudEvent of %s", event, identity)
	}
}

func TestASignalReachesTheWorkflowThatRuns(t *testing.T) {
	t.Parallel()
	ownWorker(t, shared)
	l := shared.readLetters(t)
	collector := func(id string, want ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		var told []string
		if err := shared.Client.GetWorkflow(ctx, id, "").Get(ctx, &told); err != nil {
			t.Fatal(err)
		}
		if strings.Join(told, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s was told %q, want %q", id, told, want)
		}
	}
	signalled := func(pipeline, name, outcome string) string {
		t.Helper()
		identity := shared.upload(t, "e2e-own", name, "x")
		wantOutcomes(t, shared.awaitDecided(t, pipeline, identity, 1), map[string]int{outcome: 1})
		return identity
	}
	buried := func(identity string) {
		t.Helper()
		letter := l.await(t, identity, func(m *pubsub.Message) bool { return m.Attributes["penstock-identity"] == identity })
		if reason := letter.Attributes["penstock-reason"]; !strings.Contains(reason, "collector-monday") || letter.Attributes["penstock-pipeline"] != "collect" {
			t.Errorf("the letter's attributes are %q, want the pipeline and a reason that names the workflow", letter.Attributes)
		}
	}

	// Nobody is there: a signal cannot wait, so it is kept.
	buried(signalled("collect", "collect/monday/early", "dead-lettered"))

	if _, err := shared.Client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "collector-monday", TaskQueue: "e2e-own"}, "Collector"); err != nil {
		t.Fatal(err)
	}
	first := signalled("collect", "collect/monday/first", "signalled")
	last := signalled("collect", "collect/monday/last", "signalled")
	collector("collector-monday", first, last)
	// It has closed: as if it were not there.
	buried(signalled("collect", "collect/monday/late", "dead-lettered"))

	// With start nobody has to be there, before or after.
	first = signalled("gather", "gather/tuesday/first", "signalled")
	last = signalled("gather", "gather/tuesday/last", "signalled")
	collector("gatherer-tuesday", first, last)
	again := signalled("gather", "gather/tuesday/again/last", "signalled")
	collector("gatherer-tuesday", again)
}

func TestAnEventStartsByTypeAndSource(t *testing.T) {
	t.Parallel()
	header := func(id, kind, source string) map[string]string {
		return map[string]string{"ce-specversion": "1.0", "ce-id": id, "ce-type": kind, "ce-source": source, "Content-Type": "application/json"}
	}
	const kind, source = "com.example.export.finished", "//erp.example.com/exports"
	shared.publish(t, header("u1", kind, source), `{"file":"upstream-1"}`)
	identity := "event:" + source + "#u1"
	wantOutcomes(t, shared.awaitDecided(t, "upstream", identity, 1), map[string]int{"started": 1})
	r := shared.runOf("upstream", identity, "upstream-1")
	r.job(t, "only", 1).done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run is %s: %s", res.Outcome, res.Error)
	}
	// The same once more, and what only looks alike.
	for _, other := range []struct {
		header map[string]string
		want   []string
	}{
		{header("u1", kind, source), []string{"duplicate"}},
		{header("u2", kind, "//erp.example.com/imports"), nil},
		{header("u3", "com.example.export.begun", source), nil},
	} {
		code, a := shared.post(t, "EventTrigger", other.header, `{"file":"upstream-1"}`)
		var got []string
		for _, d := range a.Decisions {
			got = append(got, d.Outcome)
		}
		if code != http.StatusOK || strings.Join(got, " ") != strings.Join(other.want, " ") {
			t.Errorf("%v: answered %d %v, want 200 %v", other.header, code, got, other.want)
		}
	}
	r.wantJobs(t, map[string]int{"only": 1})
}

// The status of every job in the project comes to JobStatus.
func TestJobStatusTakesNewsOfOurJobsAlone(t *testing.T) {
	t.Parallel()
	l := shared.readLetters(t)
	status := func(name string) (map[string]string, string) {
		return map[string]string{
			"ce-specversion": "1.0", "ce-id": "status-" + name, "ce-type": "google.cloud.dataflow.job.v1beta3.statusChanged",
			"ce-source": "//dataflow.googleapis.com/projects/" + project + "/locations/" + location, "ce-subject": "jobs/" + name,
			"ce-job": name, "ce-project": "123456789012", "ce-location": location, "Content-Type": "application/json",
		}, `{"@type":"type.googleapis.com/google.events.cloud.dataflow.v1beta3.JobEventData","payload":{"id":"2026-11-22_00_00_00-1","projectId":"` + project + `","name":"` + name + `","location":"` + location + `","currentState":"JOB_STATE_RUNNING","currentStateTime":"2026-11-22T00:00:00Z"}}`
	}
	for _, job := range []struct {
		name string
		want []string
	}{
		{"somebody-elses-job", nil},
		{deployment + "2-pipeline-step-abcdefghijklm-1", nil}, // another deployment's, whose ID begins as ours
		{deployment + "-nobody-watches-abcdefghijklm-1", []string{"skipped"}},
	} {
		header, body := status(job.name)
		code, a := shared.post(t, "JobStatus", header, body)
		var got []string
		for _, d := range a.Decisions {
			got = append(got, d.Outcome)
		}
		if code != http.StatusOK || strings.Join(got, " ") != strings.Join(job.want, " ") {
			t.Errorf("%s: answered %d %v, want 200 %v", job.name, code, got, job.want)
		}
	}
	header, _ := status("malformed")
	const body = `{"payload":{"id":7,"name":"malformed"`
	if code, a := shared.post(t, "JobStatus", header, body); code != http.StatusOK || len(a.Decisions) != 1 || a.Decisions[0].Outcome != "dead-lettered" {
		t.Errorf("a malformed status: answered %d %+v, want 200 and dead-lettered", code, a)
	}
	l.await(t, "the malformed status", func(m *pubsub.Message) bool { return string(m.Data) == body })
}

func TestOneFileStartsEveryPipelineThatWantsIt(t *testing.T) {
	t.Parallel()
	identity := shared.upload(t, "e2e-pair", "pair.csv", "x")
	for _, pipeline := range []string{"pair-one", "pair-other"} {
		wantOutcomes(t, shared.awaitDecided(t, pipeline, identity, 1), map[string]int{"started": 1})
		r := shared.runOf(pipeline, identity, "pair.csv")
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run of %s is %s: %s", pipeline, res.Outcome, res.Error)
		}
	}
}

// faultyTemporal passes everything on to a Temporal server but what fault keeps from
// it, or from its answer.
type faultyTemporal struct {
	workflowservice.WorkflowServiceServer
	mu sync.Mutex
	// fault, if not nil, says of the start of a workflow whether it reaches the server,
	// and whether its answer comes back.
	fault func(workflowID string) (arrives, answered bool)
}

func (f *faultyTemporal) StartWorkflowExecution(ctx context.Context, r *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	f.mu.Lock()
	arrives, answered := true, true
	if f.fault != nil {
		arrives, answered = f.fault(r.GetWorkflowId())
	}
	f.mu.Unlock()
	// A code that the client does not try again by itself, such as a proxy may have.
	lost := status.Error(codes.PermissionDenied, "not today")
	if !arrives {
		return nil, lost
	}
	response, err := f.WorkflowServiceServer.StartWorkflowExecution(ctx, r)
	if !answered {
		return nil, lost
	}
	return response, err
}

// serveFaultyTemporal stands between a stack and the shared stack's server.
func serveFaultyTemporal(t *testing.T) (*faultyTemporal, string) {
	t.Helper()
	service, err := proxy.NewWorkflowServiceProxyServer(proxy.WorkflowServiceProxyOptions{Client: shared.Client.WorkflowService()})
	if err != nil {
		t.Fatal(err)
	}
	f := &faultyTemporal{WorkflowServiceServer: service}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	// The errors that the client understands go on as they came.
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, r any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		response, err := handle(ctx, r)
		return response, serviceerror.ToStatus(err).Err()
	}))
	workflowservice.RegisterWorkflowServiceServer(server, f)
	healthy := health.NewServer() // the worker asks
	healthy.SetServingStatus("temporal.api.workflowservice.v1.WorkflowService", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(server, healthy)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(listener) // until it is stopped
	}()
	t.Cleanup(func() {
		server.Stop()
		<-served
	})
	return f, listener.Addr().String()
}

// Two deployments share a Temporal namespace, a project with its jobs, and a bucket.
// The file that both want gives each its own run. In one of them a start does not reach
// Temporal at first, and the answer to another is lost: the event comes again, and what
// was started stays single.
func TestTwoDeploymentsAndStartsThatGoAstray(t *testing.T) {
	faulty, address := serveFaultyTemporal(t)
	t.Setenv("TEMPORAL_ADDRESS", shared.Addresses.Temporal)
	other := newBench(t, func(o *stack.Options) {
		o.Deployment, o.ImageMap = "other", ""
		// Its functions and its worker speak to Temporal through the proxy.
		o.Env = append(o.Env, "DATAFLOW_ENDPOINT="+shared.Addresses.Dataflow, "TEMPORAL_ADDRESS="+address)
	})
	for _, trigger := range []eventarc.Trigger{
		{Name: "other-storage", Filters: map[string]string{"type": eventarc.StorageTypePrefix + "*", "bucket": "e2e-two"}, URL: other.Addresses.Functions + "/StorageTrigger"},
		{Name: "other-status", Filters: map[string]string{"type": eventarc.JobStatusType, "job": "other-*"}, URL: other.Addresses.Functions + "/JobStatus"},
	} {
		if err := shared.Events.AddTrigger(trigger); err != nil {
			t.Fatal(err)
		}
	}
	failed := map[string]int{}
	faulty.mu.Lock()
	faulty.fault = func(id string) (arrives, answered bool) {
		failed[id]++
		first := failed[id] == 1
		return !(first && strings.HasPrefix(id, "other/pair-one/")), !(first && strings.HasPrefix(id, "other/pair-other/"))
	}
	faulty.mu.Unlock()

	identity := shared.upload(t, "e2e-two", "shared.csv", "x")
	for _, pipeline := range []string{"pair-one", "pair-other"} {
		wantOutcomes(t, shared.awaitDecided(t, pipeline, identity, 1), map[string]int{"started": 1})
		shared.runOf(pipeline, identity, "shared.csv").job(t, "only", 1).done()
	}
	wantOutcomes(t, other.awaitDecided(t, "pair-one", identity, 2), map[string]int{"undecided": 1, "started": 1})
	wantOutcomes(t, other.awaitDecided(t, "pair-other", identity, 2), map[string]int{"undecided": 1, "duplicate": 1})
	statuses := []int{}
	for _, d := range shared.Events.Deliveries() {
		if d.Trigger == "other-storage" && d.Subject == "objects/shared.csv" {
			statuses = append(statuses, d.Status)
		}
	}
	if len(statuses) != 2 || statuses[0] != http.StatusServiceUnavailable || statuses[1] != http.StatusOK {
		t.Errorf("the deliveries to the other deployment were answered %v, want 503, then 200", statuses)
	}
	for _, pipeline := range []string{"pair-one", "pair-other"} {
		r := &run{bench: shared, pipeline: pipeline, object: "shared.csv", key: identity, id: runs.RunID("other", pipeline, identity)}
		shared.Jobs.await(t, runs.JobName("other", pipeline, identity, "only", 1)).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run of %s is %s: %s", r.id, res.Outcome, res.Error)
		}
		if res := shared.runOf(pipeline, identity, "shared.csv").result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run of %s is %s: %s", pipeline, res.Outcome, res.Error)
		}
	}
	jobs := map[string]int{}
	for _, j := range shared.Jobs.of("shared.csv") {
		jobs[j.JobName]++
	}
	if len(jobs) != 4 {
		t.Errorf("jobs %v, want 4, one for each deployment and pipeline", jobs)
	}
	for name, n := range jobs {
		if n != 1 {
			t.Errorf("%d jobs are called %s", n, name)
		}
	}
}

// Events that arrive while Temporal is down are not acknowledged, and start their runs
// when it is back.
func TestTemporalIsDownWhenTheEventComes(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *stack.Options) { o.Memory, o.ImageMap = false, "" })
	if err := b.KillTemporal(); err != nil {
		t.Fatal(err)
	}
	identity := b.upload(t, "e2e-pair", "while-down.csv", "x")
	eventually(t, "the event is answered 503", func() bool {
		for _, d := range b.Events.Deliveries() {
			if d.Subject == "objects/while-down.csv" && d.Status == http.StatusServiceUnavailable {
				return true
			}
		}
		return false
	})
	if err := b.StartTemporal(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pipeline := range []string{"pair-one", "pair-other"} {
		r := b.runOf(pipeline, identity, "while-down.csv")
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run of %s is %s: %s", pipeline, res.Outcome, res.Error)
		}
	}
	if err := b.Events.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pipeline := range []string{"pair-one", "pair-other"} {
		var outcomes map[string]int
		eventually(t, pipeline+" decides for good", func() bool {
			outcomes = map[string]int{}
			for _, d := range b.decided(func(d decision) bool { return d.Pipeline == pipeline && d.Identity == identity }) {
				outcomes[d.Outcome]++
			}
			return outcomes["started"]+outcomes["duplicate"] > 0
		})
		if outcomes["undecided"] == 0 || outcomes["started"] > 1 {
			t.Errorf("%s: decided %v, want undecided, then started once", pipeline, outcomes)
		}
	}
	if n := len(b.Jobs.of("while-down.csv")); n != 2 {
		t.Errorf("%d jobs, want one a pipeline", n)
	}
	if dead := b.Events.DeadLetters(); len(dead) > 0 {
		t.Errorf("dead letters: %+v", dead)
	}
}
