package e2e_test

import (
	"bytes"
	"context"
	"flag"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	commonpb "go.temporal.io/api/common/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/proxy"
	"google.golang.org/protobuf/encoding/protojson"
)

// record makes the tests save the histories of their workflows, for the worker's replay
// tests: go test ./e2e -record, in dev/. worker/testdata/histories/README.md says when.
var record = flag.Bool("record", false, "save histories for the worker's replay tests where there are none")

// histories holds the saved histories, recording those that this state of the code leaves.
const (
	histories = "../../worker/testdata/histories"
	recording = "v4"
)

// keep saves the history of a run's newest execution under a name that says what
// happened, and the histories of some of its jobs' workflows, each named
// "<step>-<attempt>".
func keep(t *testing.T, r *run, name string, jobs ...string) {
	t.Helper()
	keepHistory(t, r.bench, r.id, "", name+".run")
	for _, job := range jobs {
		step, number, _ := strings.Cut(job, "-")
		attempt, err := strconv.Atoi(number)
		if err != nil {
			t.Fatalf("%q is no step and attempt", job)
		}
		keepHistory(t, r.bench, r.jobWorkflow(step, attempt), "", name+"."+job)
	}
}

// keepHistory saves the history of one execution.
func keepHistory(t *testing.T, b *bench, workflowID, runID, name string) {
	t.Helper()
	if !*record {
		return
	}
	path := filepath.Join(histories, recording, name+".json")
	if _, err := os.Stat(path); err == nil {
		return
	}
	h := &historypb.History{Events: b.history(t, workflowID, runID)}
	if err := b.anonymise(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	text, err := protojson.MarshalOptions{Indent: " "}.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// anonymise takes this machine out of a history: its name in those of sticky task
// queues and of whoever used the command line, which no replay looks at, and the folder of
// the pipelines files, which the positions in them hold.
func (b *bench) anonymise(ctx context.Context, h *historypb.History) error {
	for _, e := range h.Events {
		if a := e.GetWorkflowTaskScheduledEventAttributes(); a.GetTaskQueue().GetNormalName() != "" {
			a.TaskQueue.Name = "sticky"
		}
		if a := e.GetWorkflowExecutionStartedEventAttributes(); strings.HasPrefix(a.GetIdentity(), "penstock-cli/") {
			a.Identity = "penstock-cli/dev@e2e"
		}
	}
	return proxy.VisitPayloads(ctx, h, proxy.VisitPayloadsOptions{
		SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
			for _, p := range payloads {
				p.Data = bytes.ReplaceAll(p.Data, []byte(b.Pipelines), []byte("/pipelines"))
			}
			return payloads, nil
		},
	})
}
