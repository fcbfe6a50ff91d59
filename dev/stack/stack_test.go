package stack_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/stack"
)

const pipelineFile = `name: copy
purpose: Show that a file starts one run.
owner: data@example.com
on:
  - storage: {bucket: side-landing, object: "in/*.csv"}
steps:
  - name: only
    dataflow:
      template: gs://side-templates/copy.json
      parameters: {input: "${event.uri}"}
`

const templateFile = `{"image": "test/copy", "sdkInfo": {"language": "GO"},
 "metadata": {"name": "copy", "parameters": [{"name": "input", "label": "in", "helpText": "in"}]}}`

// start starts a stack with one pipeline whose job takes a moment.
func start(t *testing.T, change func(*stack.Options)) *stack.Stack {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"pipelines/copy.yaml": pipelineFile, "templates/copy.json": templateFile} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	o := stack.Options{
		Dir: filepath.Join(dir, "state"), Memory: true,
		Pipelines: filepath.Join(dir, "pipelines"), Templates: filepath.Join(dir, "templates"),
		Images: map[string]dataflowemulator.Program{"test/copy": dataflowemulator.Script{Launches: [][]dataflowemulator.Step{{
			{After: 50 * time.Millisecond, State: dataflowpb.JobState_JOB_STATE_RUNNING},
			{After: 50 * time.Millisecond, State: dataflowpb.JobState_JOB_STATE_DONE},
		}}}},
		Delivery: eventarc.Options{MinBackoff: 50 * time.Millisecond, MaxBackoff: time.Second},
		Progress: t.Output(),
	}
	if change != nil {
		change(&o)
	}
	s, err := stack.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, part := range []string{"temporal", "functions", "worker", "eventarc", "dataflow"} {
				t.Logf("--- %s\n%s", part, s.Logs(part))
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func upload(t *testing.T, s *stack.Stack, name string) {
	t.Helper()
	c, err := s.StorageClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	w := c.Bucket("side-landing").Object(name).NewWriter(t.Context())
	if _, err := io.WriteString(w, "a,b\n"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// awaitRuns waits until n runs of the pipeline have completed, and none is open.
func awaitRuns(t *testing.T, s *stack.Stack, n int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	c, err := s.TemporalClient(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var seen []string
	for ctx.Err() == nil {
		list, err := c.ListWorkflow(ctx, &workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowType = 'Run'"})
		if err == nil {
			seen = seen[:0]
			completed := 0
			for _, w := range list.Executions {
				seen = append(seen, w.Execution.WorkflowId+" "+w.Status.String())
				if w.Status == enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED {
					completed++
				}
			}
			if completed == n && len(list.Executions) == n {
				return
			}
		}
		select { // visibility offers no event to wait for
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("runs are %q, want %d completed", seen, n)
}

// Two stacks in one repository at one time: each delivers its own files to its
// own functions, and runs them on its own Temporal server.
func TestTwoStacksSideBySide(t *testing.T) {
	one := start(t, nil)
	two := start(t, func(o *stack.Options) { o.Push = true })
	if one.Addresses.Functions == two.Addresses.Functions || one.Addresses.Temporal == two.Addresses.Temporal {
		t.Fatalf("shared addresses: %+v, %+v", one.Addresses, two.Addresses)
	}
	upload(t, one, "in/1.csv")
	upload(t, two, "in/1.csv")
	upload(t, two, "in/2.csv")
	awaitRuns(t, one, 1)
	awaitRuns(t, two, 2)

	env, err := os.ReadFile(one.EnvFile())
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{
		"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_UI", "STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST",
		"GOOGLE_CLOUD_PROJECT", "DATAFLOW_ENDPOINT", "PENSTOCK_FUNCTIONS_URL", "PENSTOCK_PIPELINES",
	} {
		if !strings.Contains("\n"+string(env), "\n"+key+"=") || strings.Contains(string(env), "\n"+key+"=\n") {
			t.Errorf("dev.env has no %s:\n%s", key, env)
		}
	}
	if err := one.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(one.EnvFile()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("dev.env stays: %v", err)
	}
	for _, url := range []string{one.Addresses.Functions, one.Addresses.Storage, one.Addresses.Dataflow, one.Addresses.TemporalUI} {
		if response, err := http.Get(url); err == nil {
			response.Body.Close()
			t.Errorf("%s still answers", url)
		}
	}
	upload(t, two, "in/3.csv")
	awaitRuns(t, two, 3)
}

func TestKilledWorkerComesBackAndGoesOn(t *testing.T) {
	s := start(t, nil)
	if err := s.KillWorker(); err != nil {
		t.Fatal(err)
	}
	upload(t, s, "in/1.csv")
	if err := s.Events.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.StartWorker(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitRuns(t, s, 1)
	select {
	case err := <-s.Died():
		t.Errorf("a killed worker is no death: %v", err)
	default:
	}
}
