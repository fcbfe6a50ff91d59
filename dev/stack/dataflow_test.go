package stack_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

const scripted = `{"images": {"test/copy": {"script": [{"state": "RUNNING"}, {"after": "1s", "state": "DONE", "counters": {"rows": 7}}]}}}`

// startWithProcess starts a stack whose Dataflow emulator is a process of its own.
func startWithProcess(t *testing.T, rules ...faults.Rule) *stack.Stack {
	t.Helper()
	images := filepath.Join(t.TempDir(), "images.json")
	if err := os.WriteFile(images, []byte(scripted), 0o644); err != nil {
		t.Fatal(err)
	}
	return start(t, func(o *stack.Options) {
		o.Images, o.ImageMap, o.DataflowProcess = nil, images, true
		o.Faults = &faults.Options{Plan: faults.Plan{Seed: 5, Rules: rules}}
		o.Env = []string{"PENSTOCK_LOOKUP_HORIZON=4s", "PENSTOCK_CALL_TIMEOUT=4s"}
	})
}

// lines reads the launch ledger's lines of a kind.
func lines(t *testing.T, s *stack.Stack, kind string) []map[string]any {
	t.Helper()
	text, err := os.ReadFile(s.LaunchLedger())
	if err != nil {
		t.Fatal(err)
	}
	var out []map[string]any
	for line := range strings.Lines(string(text)) {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatal(err)
		}
		if l["kind"] == kind {
			out = append(out, l)
		}
	}
	return out
}

// The emulator dies while a job runs; the job is there again when it comes back, ends as its script says, and the run learns of it.
func TestKilledDataflowComesBackWithItsJobs(t *testing.T) {
	s := startWithProcess(t)
	if s.Dataflow != nil {
		t.Error("an emulator runs in this process")
	}
	// The answer of the launch never comes: the job is there all the same.
	if err := s.PutFault(t.Context(), faults.Rule{Name: "parked", At: faults.Dataflow, Operation: "*.launch", Fault: faults.Hang, Committed: true}); err != nil {
		t.Fatal(err)
	}
	upload(t, s, "in/1.csv")
	if counts, err := s.AwaitFault(t.Context(), "parked", 1); err != nil || counts.Injected < 1 {
		t.Fatalf("the launch is not parked: %+v, %v", counts, err)
	}
	if err := s.KillDataflow(); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteFault(t.Context(), "parked"); err != nil {
		t.Fatal(err)
	}
	address := s.Addresses.Dataflow
	if err := s.StartDataflow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.Part("dataflow").URL() + "/"; got != address {
		t.Errorf("it came back at %s, was at %s", got, address)
	}
	awaitRuns(t, s, 1)
	if n := len(lines(t, s, "launch")); n != 1 {
		t.Errorf("%d jobs were launched, want 1", n)
	}
	select {
	case err := <-s.Died():
		t.Errorf("a killed emulator is no death: %v", err)
	default:
	}
}

// Rules go where their place is, and those of the emulator are in force again after it died.
func TestRulesFindTheirLab(t *testing.T) {
	first := faults.Rule{Name: "first-launch", At: faults.Dataflow, Operation: "*.launch", Fault: faults.Latency, Delay: faults.Duration(time.Millisecond)}
	s := startWithProcess(t, first)
	for _, r := range []faults.Rule{
		{Name: "slow-gets", At: faults.Storage, Operation: "objects.get", Fault: faults.Latency, Delay: faults.Duration(time.Millisecond)},
		{Name: "slow-lists", At: faults.Dataflow, Operation: "jobs.list", Fault: faults.Latency, Delay: faults.Duration(time.Millisecond)},
		{Name: "gone", At: faults.Dataflow, Operation: "jobs.list", Fault: faults.Status, Status: 503},
		{Name: "lost", At: faults.Events, Operation: "job-status", Fault: faults.Lose, Count: 1},
	} {
		if err := s.PutFault(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteFault(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteFault(t.Context(), "gone"); err == nil {
		t.Error("a rule was deleted twice")
	}
	if _, err := s.FaultCounts(t.Context(), "gone"); err == nil {
		t.Error("a rule that is no more has counts")
	}
	if err := s.PutFault(t.Context(), faults.Rule{Name: "wrong", At: faults.Dataflow, Fault: faults.Latency}); err == nil {
		t.Error("a wrong rule was taken")
	}
	if err := s.KillDataflow(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartDataflow(t.Context()); err != nil {
		t.Fatal(err)
	}
	upload(t, s, "in/1.csv")
	awaitRuns(t, s, 1)
	for _, name := range []string{"first-launch", "slow-gets", "slow-lists", "lost"} {
		if counts, err := s.FaultCounts(t.Context(), name); err != nil || counts.Injected == 0 {
			t.Errorf("rule %s struck nothing: %+v, %v", name, counts, err)
		}
	}
	if n := len(s.Faults.Rules()); n != 2 {
		t.Errorf("the stack's own lab has %d rules, want those at storage and events", n)
	}
}
