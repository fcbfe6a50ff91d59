package faults_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	dataflow "google.golang.org/api/dataflow/v1b3"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/dataflowemulator/rest"
	"github.com/penstock/penstock/dev/faults"
)

const within = 30 * time.Second

// dataflowBench is an emulator under a lab's rules, and Google's Go client of it.
type dataflowBench struct {
	*testing.T
	lab      *faults.Lab
	log      *lines
	emulator *dataflowemulator.Emulator
	api      *dataflow.ProjectsLocationsService
}

// startDataflow makes one with two templates: of image quick, whose jobs are DONE at once, and slow, whose jobs run until they are stopped.
func startDataflow(t *testing.T, rules ...string) *dataflowBench {
	t.Helper()
	lab, log := open(t, rules...)
	config := dataflowemulator.Config{Hooks: lab.DataflowHooks(), Templates: map[string]string{}, Images: map[string]dataflowemulator.Program{
		"quick": dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{{State: pb.JobState_JOB_STATE_RUNNING}, {State: pb.JobState_JOB_STATE_DONE}}}},
		"slow":  dataflowemulator.Script{},
	}}
	for image := range config.Images {
		file := filepath.Join(t.TempDir(), image)
		if err := os.WriteFile(file, []byte(`{"image": "`+image+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
		config.Templates["gs://t/"+image] = file
	}
	e, err := dataflowemulator.New(config)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rest.Handler(e))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	// A connection for each call: Go's client would send a GET again over a new one when a used one breaks.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	api, err := dataflow.NewService(t.Context(), option.WithEndpoint(server.URL), option.WithHTTPClient(client))
	if err != nil {
		t.Fatal(err)
	}
	return &dataflowBench{t, lab, log, e, api.Projects.Locations}
}

func (b *dataflowBench) launch(ctx context.Context, image, name string) (string, error) {
	out, err := b.api.FlexTemplates.Launch("p", "us-central1", &dataflow.LaunchFlexTemplateRequest{
		LaunchParameter: &dataflow.LaunchFlexTemplateParameter{JobName: name, ContainerSpecGcsPath: "gs://t/" + image},
	}).Context(ctx).Do()
	if err != nil {
		return "", err
	}
	return out.Job.Id, nil
}

func (b *dataflowBench) mustLaunch(image, name string) string {
	b.Helper()
	id, err := b.launch(b.Context(), image, name)
	if err != nil {
		b.Fatal(err)
	}
	return id
}

func (b *dataflowBench) jobs() []string {
	b.Helper()
	out, err := b.emulator.ListJobs(b.Context(), &pb.ListJobsRequest{ProjectId: "p", Location: "us-central1"})
	if err != nil {
		b.Fatal(err)
	}
	var names []string
	for _, j := range out.Jobs {
		names = append(names, j.Name)
	}
	slices.Sort(names)
	return names
}

func (b *dataflowBench) end(id string) string {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), within)
	defer cancel()
	state, err := b.emulator.Wait(ctx, id)
	if err != nil {
		b.Fatal(err)
	}
	return state.String()
}

// refused is what an API's refusal says.
type refused struct {
	header  http.Header
	message string
}

func wantCode(t *testing.T, err error, code int) refused {
	t.Helper()
	var api *googleapi.Error
	if !errors.As(err, &api) || api.Code != code {
		t.Fatalf("answered %v, want %d", err, code)
	}
	return refused{api.Header, api.Message}
}

func TestDataflowCalls(t *testing.T) {
	t.Run("429 with Retry-After launches nothing", func(t *testing.T) {
		b := startDataflow(t, `{"name": "busy", "at": "dataflow", "operation": "flexTemplates.launch", "fault": "status", "status": 429, "retryAfter": "2500ms", "count": 1}`)
		_, err := b.launch(t.Context(), "quick", "orders")
		if api := wantCode(t, err, 429); api.header.Get("Retry-After") != "3" || !strings.Contains(api.message, "fault busy") {
			t.Errorf("answered %+v", api)
		}
		if jobs := b.jobs(); len(jobs) != 0 {
			t.Errorf("jobs %q", jobs)
		}
		b.mustLaunch("quick", "orders")
		if got := b.log.injected(t); len(got) != 1 || got[0].Job != "orders" || got[0].Operation != "flexTemplates.launch" {
			t.Errorf("the log has %+v", got)
		}
	})
	t.Run("429 without Retry-After, and 503", func(t *testing.T) {
		b := startDataflow(t, `{"name": "busy", "at": "dataflow", "subject": "a", "fault": "status", "status": 429}`, `{"name": "down", "at": "dataflow", "subject": "b", "fault": "status", "status": 503, "message": "gone fishing"}`)
		_, err := b.launch(t.Context(), "quick", "a")
		if api := wantCode(t, err, 429); api.header.Get("Retry-After") != "" {
			t.Errorf("Retry-After %q", api.header.Get("Retry-After"))
		}
		_, err = b.launch(t.Context(), "quick", "b")
		if api := wantCode(t, err, 503); api.message != "gone fishing" {
			t.Errorf("it says %q", api.message)
		}
	})
	t.Run("a job is known by its name when a call has its ID", func(t *testing.T) {
		b := startDataflow(t, `{"name": "deny", "at": "dataflow", "operation": "jobs.*", "subject": "orders", "fault": "status", "status": 403}`)
		id := b.mustLaunch("slow", "orders")
		_, err := b.api.Jobs.Get("p", "us-central1", id).Do()
		wantCode(t, err, 403)
		_, err = b.api.Jobs.Update("p", "us-central1", id, &dataflow.Job{RequestedState: "JOB_STATE_CANCELLED"}).Do()
		wantCode(t, err, 403)
		if _, err := b.api.Jobs.Get("p", "us-central1", b.mustLaunch("slow", "others")).Do(); err != nil {
			t.Error(err)
		}
	})
	t.Run("a reset launches nothing", func(t *testing.T) {
		b := startDataflow(t, `{"name": "cut", "at": "dataflow", "operation": "*.launch", "fault": "reset"}`)
		if _, err := b.launch(t.Context(), "quick", "orders"); err == nil || errors.As(err, new(*googleapi.Error)) {
			t.Errorf("answered %v, want a broken connection", err)
		}
		if jobs := b.jobs(); len(jobs) != 0 {
			t.Errorf("jobs %q", jobs)
		}
	})
	t.Run("the answer is lost after the commit", func(t *testing.T) {
		b := startDataflow(t, `{"name": "lost", "at": "dataflow", "operation": "*.launch", "fault": "reset", "committed": true, "count": 1}`)
		if _, err := b.launch(t.Context(), "slow", "orders"); err == nil || errors.As(err, new(*googleapi.Error)) {
			t.Errorf("answered %v, want a broken connection", err)
		}
		if jobs := b.jobs(); !slices.Equal(jobs, []string{"orders"}) {
			t.Errorf("jobs %q", jobs)
		}
		_, err := b.launch(t.Context(), "slow", "orders")
		wantCode(t, err, 409)
	})
	t.Run("a call hangs until its caller gives up, before and after the commit", func(t *testing.T) {
		b := startDataflow(t, `{"name": "before", "at": "dataflow", "subject": "a", "fault": "hang"}`, `{"name": "after", "at": "dataflow", "subject": "b", "fault": "hang", "committed": true}`)
		for _, name := range []string{"a", "b"} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if _, err := b.launch(ctx, "slow", name); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: answered %v, want a timeout", name, err)
			}
			cancel()
		}
		if jobs := b.jobs(); !slices.Equal(jobs, []string{"b"}) {
			t.Errorf("jobs %q", jobs)
		}
	})
	t.Run("a late call whose caller has given up takes effect only where it proceeds", func(t *testing.T) {
		b := startDataflow(t, `{"name": "dropped", "at": "dataflow", "subject": "a", "fault": "latency", "delay": "1h"}`,
			`{"name": "late", "at": "dataflow", "subject": "b", "fault": "latency", "delay": "1h", "proceeds": true}`,
			`{"name": "launched", "at": "dataflow", "subject": "b", "fault": "reset", "committed": true}`)
		for _, name := range []string{"a", "b"} {
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			if _, err := b.launch(ctx, "slow", name); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: answered %v, want a timeout", name, err)
			}
			cancel()
		}
		if jobs := b.jobs(); len(jobs) != 0 {
			t.Errorf("jobs %q before their time", jobs)
		}
		b.lab.Delete("dropped") // which ends its delay
		b.lab.Delete("late")
		awaitInjected(t, b.log, 3) // the last is about what took effect
		if jobs := b.jobs(); !slices.Equal(jobs, []string{"b"}) {
			t.Errorf("jobs %q, want b alone", jobs)
		}
	})
	t.Run("a hanging call is cut off when its rule ends", func(t *testing.T) {
		b := startDataflow(t, `{"name": "hang", "at": "dataflow", "fault": "hang"}`)
		over := make(chan error, 1)
		go func() {
			_, err := b.launch(b.Context(), "slow", "orders")
			over <- err
		}()
		awaitInjected(t, b.log, 1)
		b.lab.Delete("hang")
		if err := <-over; err == nil || errors.As(err, new(*googleapi.Error)) {
			t.Errorf("answered %v, want a broken connection", err)
		}
	})
	t.Run("latency", func(t *testing.T) {
		b := startDataflow(t, `{"name": "slow", "at": "dataflow", "operation": "*.launch", "fault": "latency", "delay": "200ms"}`)
		began := time.Now()
		b.mustLaunch("quick", "orders")
		if took := time.Since(began); took < 200*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

// awaitInjected waits until the log has n lines.
func awaitInjected(t *testing.T, log *lines, n int) {
	t.Helper()
	for end := time.Now().Add(within); len(log.injected(t)) < n; {
		if time.Now().After(end) {
			t.Fatalf("%d faults after %v, want %d", len(log.injected(t)), within, n)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestDataflowBehaviour(t *testing.T) {
	t.Run("a launch under an active name answers 409, or the job that there is", func(t *testing.T) {
		b := startDataflow(t)
		id := b.mustLaunch("slow", "orders")
		_, err := b.launch(t.Context(), "slow", "orders")
		wantCode(t, err, 409)
		if err := b.lab.Put(faults.Rule{Name: "same", At: faults.Dataflow, Fault: faults.SameName, Form: "existing"}); err != nil {
			t.Fatal(err)
		}
		if again := b.mustLaunch("slow", "orders"); again != id {
			t.Errorf("job %s, want the active %s", again, id)
		}
	})
	t.Run("a quota is refused at the launch, or by a job that fails", func(t *testing.T) {
		b := startDataflow(t, `{"name": "quota", "at": "dataflow", "fault": "quota", "limit": 0, "form": "refuse"}`)
		_, err := b.launch(t.Context(), "quick", "orders")
		wantCode(t, err, 429)
		limit := 0
		if err := b.lab.Put(faults.Rule{Name: "quota", At: faults.Dataflow, Fault: faults.Quota, Limit: &limit, Form: "fail"}); err != nil {
			t.Fatal(err)
		}
		if got := b.end(b.mustLaunch("quick", "orders")); got != "JOB_STATE_FAILED" {
			t.Errorf("the job ended in %s", got)
		}
	})
	t.Run("lists lag", func(t *testing.T) {
		b := startDataflow(t, `{"name": "lag", "at": "dataflow", "operation": "jobs.list", "fault": "list-lag", "delay": "1h"}`)
		id := b.mustLaunch("slow", "orders")
		if jobs := b.jobs(); len(jobs) != 0 {
			t.Errorf("jobs %q", jobs)
		}
		if _, err := b.api.Jobs.Get("p", "us-central1", id).Do(); err != nil {
			t.Error(err)
		}
		b.lab.Delete("lag")
		if jobs := b.jobs(); len(jobs) != 1 {
			t.Errorf("jobs %q", jobs)
		}
	})
	t.Run("QUEUED jobs are hidden", func(t *testing.T) {
		b := startDataflow(t, `{"name": "hidden", "at": "dataflow", "fault": "hide-queued"}`, `{"name": "queued", "at": "job", "fault": "hang", "state": "QUEUED"}`)
		b.mustLaunch("quick", "orders")
		if jobs := b.jobs(); len(jobs) != 0 {
			t.Errorf("jobs %q", jobs)
		}
	})
	t.Run("a job is not yet ready for canceling", func(t *testing.T) {
		b := startDataflow(t, `{"name": "young", "at": "dataflow", "fault": "cancel-not-ready", "delay": "1h"}`)
		_, err := b.api.Jobs.Update("p", "us-central1", b.mustLaunch("slow", "orders"), &dataflow.Job{RequestedState: "JOB_STATE_CANCELLED"}).Do()
		if api := wantCode(t, err, 400); !strings.Contains(api.message, "not yet ready for canceling") {
			t.Error(api)
		}
	})
}

func TestJobs(t *testing.T) {
	stop := func(b *dataflowBench, id string, force bool) {
		b.Helper()
		job := &dataflow.Job{RequestedState: "JOB_STATE_CANCELLED"}
		if force {
			job.Labels = map[string]string{"force_cancel_job": "true"}
		}
		if _, err := b.api.Jobs.Update("p", "us-central1", id, job).Do(); err != nil {
			b.Fatal(err)
		}
	}
	state := func(b *dataflowBench, id string) string {
		b.Helper()
		j, err := b.api.Jobs.Get("p", "us-central1", id).Do()
		if err != nil {
			b.Fatal(err)
		}
		return j.CurrentState
	}
	until := func(b *dataflowBench, id, want string) {
		b.Helper()
		for end := time.Now().Add(within); state(b, id) != want; {
			if time.Now().After(end) {
				b.Fatalf("the job is %s, not %s", state(b, id), want)
			}
		}
	}
	t.Run("fails with a message", func(t *testing.T) {
		b := startDataflow(t, `{"name": "doomed", "at": "job", "subject": "orders", "fault": "fail", "message": "disk full"}`)
		id := b.mustLaunch("slow", "orders")
		if got := b.end(id); got != "JOB_STATE_FAILED" {
			t.Errorf("the job ended in %s", got)
		}
		out, err := b.api.Jobs.Messages.List("p", "us-central1", id).MinimumImportance("JOB_MESSAGE_ERROR").Do()
		if err != nil || len(out.JobMessages) != 1 || out.JobMessages[0].MessageText != "disk full" {
			t.Errorf("messages %+v, %v", out, err)
		}
		if got := b.end(b.mustLaunch("quick", "others")); got != "JOB_STATE_DONE" {
			t.Errorf("another job ended in %s", got)
		}
		if got := b.log.injected(t); len(got) != 1 || got[0].Job != "orders" || got[0].Operation != "slow" {
			t.Errorf("the log has %+v", got)
		}
	})
	for _, where := range []string{"QUEUED", "PENDING", "RUNNING"} {
		t.Run("hangs in "+where+" until it is cancelled", func(t *testing.T) {
			b := startDataflow(t, `{"name": "stuck", "at": "job", "fault": "hang", "state": "`+where+`"}`)
			id := b.mustLaunch("quick", "orders")
			until(b, id, "JOB_STATE_"+where)
			stop(b, id, false)
			if got := b.end(id); got != "JOB_STATE_CANCELLED" {
				t.Errorf("the job ended in %s", got)
			}
		})
	}
	t.Run("hangs in CANCELLING until it is cancelled by force", func(t *testing.T) {
		b := startDataflow(t, `{"name": "stuck", "at": "job", "fault": "hang", "state": "CANCELLING"}`)
		id := b.mustLaunch("quick", "orders")
		until(b, id, "JOB_STATE_RUNNING")
		stop(b, id, false)
		until(b, id, "JOB_STATE_CANCELLING")
		stop(b, id, true)
		if got := b.end(id); got != "JOB_STATE_CANCELLED" {
			t.Errorf("the job ended in %s", got)
		}
	})
	t.Run("goes on when the rule ends, or its delay is over", func(t *testing.T) {
		b := startDataflow(t, `{"name": "stuck", "at": "job", "subject": "a", "fault": "hang", "state": "PENDING"}`, `{"name": "late", "at": "job", "subject": "b", "fault": "hang", "state": "PENDING", "delay": "10ms"}`)
		first, second := b.mustLaunch("quick", "a"), b.mustLaunch("quick", "b")
		if got := b.end(second); got != "JOB_STATE_DONE" {
			t.Errorf("the job that hangs for a moment ended in %s", got)
		}
		until(b, first, "JOB_STATE_PENDING")
		b.lab.Delete("stuck")
		if got := b.end(first); got != "JOB_STATE_DONE" {
			t.Errorf("the job that hung ended in %s", got)
		}
	})
}
