package e2e_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	historypb "go.temporal.io/api/history/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/penstock/penstock/runs"
)

// record makes the tests save the histories of their workflows for the replay tests of
// the worker: go test ./e2e -record, in dev/. A history that is there already stays:
// the worker must be able to replay what earlier versions of it began. Put what is new
// into a new folder when RecordVersion or a workflow's commands change.
var record = flag.Bool("record", false, "save histories for the worker's replay tests where there are none")

const histories = "../../worker/testdata/histories/v1"

// keep saves the history of a run's newest execution, and of the workflows of its jobs,
// under a name that says what happened.
func keep(t *testing.T, r *run, name string) {
	t.Helper()
	keepHistory(t, r.bench, r.id, "", name+".run")
	for _, j := range r.Jobs.of(r.object) {
		attempt := j.JobName[strings.LastIndex(j.JobName, "-")+1:]
		keepHistory(t, r.bench, runs.JobWorkflowID(project, location, j.JobName), "", name+"."+j.Parameters["step"]+"-"+attempt)
	}
}

// keepHistory saves the history of one execution.
func keepHistory(t *testing.T, b *bench, workflowID, runID, name string) {
	t.Helper()
	if !*record {
		return
	}
	path := filepath.Join(histories, name+".json")
	if _, err := os.Stat(path); err == nil {
		return
	}
	h := &historypb.History{Events: b.history(t, workflowID, runID)}
	for _, e := range h.Events {
		anonymise(e)
	}
	text, err := protojson.MarshalOptions{Indent: " "}.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(histories, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
	if host, err := os.Hostname(); err == nil && strings.Contains(string(text), host) {
		t.Errorf("%s names this machine, %s", path, host)
	}
}

// anonymise takes the name of this machine out of an event: sticky task queues have it,
// which no replay looks at.
func anonymise(e *historypb.HistoryEvent) {
	if a := e.GetWorkflowTaskScheduledEventAttributes(); a.GetTaskQueue().GetNormalName() != "" {
		a.TaskQueue.Name = "sticky"
	}
}
