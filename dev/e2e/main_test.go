// Package e2e tests Penstock as its users meet it: on the local stack, where a real
// Temporal server, the functions as deployed and the worker's own process work with
// emulators of Google's services.
package e2e_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/runs"
)

const (
	deployment = "dev"
	project    = "penstock-dev"
	location   = "us-central1"

	landing = "e2e-landing" // the bucket whose objects start the pipelines of testdata/pipelines

	// patience bounds every wait for something that is to happen. Nothing is meant
	// to take nearly so long: it is for a busy machine.
	patience = 2 * time.Minute
)

// ones are pipelines like testdata/pipelines/one.yaml, each for one test that gets in
// the way of the Dataflow calls about its jobs.
var ones = []string{"quota", "unanswered", "early", "unlaunched", "late", "hinted", "unknown", "doubted"}

// shared is the stack of all tests that kill nothing. Each test has objects, and so
// runs and jobs, of its own.
var shared *bench

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "penstock-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Tests wait far more than they work.
	if err := flag.Set("test.parallel", "16"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if shared, err = startBench(context.Background(), dir, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if code != 0 {
		for _, part := range []string{"functions", "worker", "eventarc", "dataflow", "temporal"} {
			fmt.Fprintf(os.Stderr, "--- the last of the %s's log\n%s\n", part, tail(shared.Logs(part), 30))
		}
	}
	if err := shared.close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[:min(len(line), 500)]
	}
	return strings.Join(all, "\n")
}

// bench is a stack with what tests hold on to.
type bench struct {
	*stack.Stack
	Client    client.Client   // of Temporal
	Objects   *storage.Client // of Cloud Storage
	Jobs      *jobs           // of the templates held and held-streaming
	Calls     *calls          // of the Dataflow API
	Pipelines string          // the folder of pipelines files; a change is seen within a second
}

// newBench starts a stack of the test's own.
func newBench(t *testing.T, change func(*stack.Options)) *bench {
	t.Helper()
	b, err := startBench(t.Context(), t.TempDir(), change)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, part := range []string{"functions", "worker", "eventarc", "dataflow", "temporal"} {
				t.Logf("--- the last of the %s's log\n%s", part, tail(b.Logs(part), 30))
			}
		}
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// startBench starts a stack with the pipelines of testdata and of the weather
// example, its state below dir. change may adapt the options.
func startBench(ctx context.Context, dir string, change func(*stack.Options)) (_ *bench, err error) {
	weather := filepath.Join("..", "..", "examples", "weather")
	b := &bench{Pipelines: filepath.Join(dir, "pipelines"), Jobs: newJobs(), Calls: newCalls()}
	for _, from := range []string{filepath.Join("testdata", "pipelines"), filepath.Join(weather, "pipelines")} {
		if err := copyFiles(b.Pipelines, from); err != nil {
			return nil, err
		}
	}
	one, err := os.ReadFile(filepath.Join(b.Pipelines, "one.yaml"))
	if err != nil {
		return nil, err
	}
	for _, name := range ones {
		text := strings.NewReplacer("name: one\n", "name: "+name+"\n", `"one/**"`, `"`+name+`/**"`).Replace(string(one))
		if err := os.WriteFile(filepath.Join(b.Pipelines, name+".yaml"), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	o := stack.Options{
		Dir: filepath.Join(dir, "state"), Memory: true,
		Pipelines: b.Pipelines,
		ImageMap:  filepath.Join(weather, "images.json"),
		Seed: map[string]string{
			"e2e-templates":     filepath.Join("testdata", "templates"),
			"weather-templates": filepath.Join(weather, "templates"),
		},
		Images: map[string]dataflowemulator.Program{
			"e2e/held":           held{jobs: b.Jobs},
			"e2e/held-streaming": held{jobs: b.Jobs, streaming: true},
			"e2e/quick":          quick{},
		},
		Dataflow: func(c *dataflowemulator.Config) {
			c.ConcurrentJobs = -1
			c.Hooks = b.Calls.hooks()
		},
		Delivery: eventarc.Options{MinBackoff: 50 * time.Millisecond, MaxBackoff: time.Second},
		// The instance's name goes into histories, which the replay tests keep.
		Env: []string{
			"K_REVISION=e2e", "PENSTOCK_LOOKUP_HORIZON=4s", "PENSTOCK_CALL_TIMEOUT=10s",
			"PENSTOCK_DRAIN_GRACE=4s", "PENSTOCK_CANCEL_GRACE=4s", "PENSTOCK_HAND_OVER=15s",
		},
	}
	if change != nil {
		change(&o)
	}
	if b.Stack, err = stack.Start(ctx, o); err != nil {
		return nil, err
	}
	if b.Client, err = client.DialContext(ctx, client.Options{
		HostPort: b.Addresses.Temporal, Namespace: b.Addresses.Namespace, Identity: "e2e",
	}); err != nil {
		return nil, errors.Join(err, b.close())
	}
	if b.Objects, err = b.StorageClient(ctx); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) close() error {
	if b.Client != nil {
		b.Client.Close()
	}
	var err error
	if b.Objects != nil {
		err = b.Objects.Close()
	}
	return errors.Join(err, b.Stack.Close())
}

func copyFiles(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(to, 0o755); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, d.Name()), text, 0o644)
	})
}

// upload writes an object and gives the identity of the event that this makes.
func (b *bench) upload(t *testing.T, bucket, name, content string) string {
	t.Helper()
	w := b.Objects.Bucket(bucket).Object(name).NewWriter(t.Context())
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	e := events.Event{Kind: events.KindStorage, Storage: &events.Storage{
		Change: events.Finalized, Bucket: bucket, Name: name, Generation: w.Attrs().Generation,
	}}
	return e.Identity()
}

// download reads an object.
func (b *bench) download(t *testing.T, bucket, name string) string {
	t.Helper()
	r, err := b.Objects.Bucket(bucket).Object(name).NewReader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// run is a run that an object of the test's own started.
type run struct {
	*bench
	pipeline string
	object   string // the object's name
	key      string // the event's identity
	id       string // the workflow ID
}

// land uploads an object that starts the pipeline.
func (b *bench) land(t *testing.T, pipeline string) *run {
	t.Helper()
	object := pipeline + "/" + t.Name()
	key := b.upload(t, landing, object, "content\n")
	return &run{bench: b, pipeline: pipeline, object: object, key: key, id: runs.RunID(deployment, pipeline, key)}
}

// jobName is the name of an attempt's job, and jobWorkflow the ID of its workflow.
func (r *run) jobName(step string, attempt int) string {
	return runs.JobName(deployment, r.pipeline, r.key, step, attempt)
}

func (r *run) jobWorkflow(step string, attempt int) string {
	return runs.JobWorkflowID(project, location, r.jobName(step, attempt))
}

// job waits until the step's attempt has a job.
func (r *run) job(t *testing.T, step string, attempt int) *heldJob {
	t.Helper()
	return r.Jobs.await(t, r.jobName(step, attempt))
}

// awaitStart waits until the event was delivered and the run exists.
func (r *run) awaitStart(t *testing.T) {
	t.Helper()
	eventually(t, "the run "+r.id+" is started", func() bool {
		_, err := r.Client.DescribeWorkflowExecution(t.Context(), r.id, "")
		return err == nil
	})
}

// result waits for the run's end and gives its result, whichever way it ended.
func (r *run) result(t *testing.T) runs.RunResult {
	t.Helper()
	r.awaitStart(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var (
		res       runs.RunResult
		failed    *temporal.ApplicationError
		cancelled *temporal.CanceledError
	)
	err := r.Client.GetWorkflow(ctx, r.id, "").Get(ctx, &res)
	switch {
	case errors.As(err, &failed):
		err = failed.Details(&res)
	case errors.As(err, &cancelled):
		err = cancelled.Details(&res)
	}
	if err != nil {
		t.Fatalf("run %s: %v", r.id, err)
	}
	return res
}

// state asks the open run how it stands.
func (r *run) state(t *testing.T) runs.RunResult {
	t.Helper()
	answer, err := r.Client.QueryWorkflow(t.Context(), r.id, "", runs.QueryState)
	if err != nil {
		t.Fatal(err)
	}
	var res runs.RunResult
	if err := answer.Get(&res); err != nil {
		t.Fatal(err)
	}
	return res
}

// wantJobs says how many jobs each step has, over all attempts, and that none is left
// running.
func (r *run) wantJobs(t *testing.T, want map[string]int) {
	t.Helper()
	got := map[string]int{}
	for _, j := range r.Jobs.of(r.object) {
		got[j.Parameters["step"]]++
		if !j.over() {
			t.Errorf("job %s still runs", j.JobName)
		}
	}
	for step, n := range want {
		if got[step] != n {
			t.Errorf("step %s has %d jobs, want %d", step, got[step], n)
		}
		delete(got, step)
	}
	if len(got) > 0 {
		t.Errorf("jobs of steps that were to have none: %v", got)
	}
}

// history reads what is in the history of a workflow's execution now; no run ID means
// the newest execution.
func (b *bench) history(t *testing.T, workflowID, runID string) []*historypb.HistoryEvent {
	t.Helper()
	var all []*historypb.HistoryEvent
	for it := b.Client.GetWorkflowHistory(t.Context(), workflowID, runID, false, 0); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			t.Fatalf("history of %s: %v", workflowID, err)
		}
		all = append(all, e)
	}
	return all
}

// eventually waits for what announces itself to nobody.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-t.Context().Done():
			t.Fatalf("%s: %v", what, t.Context().Err())
		case <-deadline:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
