package stack_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

// A launch whose answer is lost, an event whose acknowledgement is lost, doubled and late status events, slow and broken connections to Temporal: each
// is met by the part that it is meant for, and a file starts one run all the same.
func TestFaultsReachEveryPart(t *testing.T) {
	plan, err := faults.ParsePlan([]byte(`{"seed": 11, "rules": [
		{"name": "lost-launch", "at": "dataflow", "operation": "flexTemplates.launch", "fault": "reset", "committed": true, "count": 1},
		{"name": "lost-ack", "at": "events", "operation": "storage", "fault": "unacknowledged", "count": 1},
		{"name": "doubled", "at": "events", "operation": "job-status", "fault": "duplicate", "delay": "20ms"},
		{"name": "late", "at": "events", "operation": "job-status", "fault": "shuffle", "jitter": "50ms"},
		{"name": "far-worker", "at": "temporal", "operation": "worker", "fault": "latency", "delay": "1ms"},
		{"name": "far-functions", "at": "temporal", "operation": "functions", "fault": "latency", "delay": "1ms"},
		{"name": "slow-template", "at": "storage", "operation": "objects.get", "fault": "latency", "delay": "1ms"}
	]}`))
	if err != nil {
		t.Fatal(err)
	}
	var dir string
	s := start(t, func(o *stack.Options) {
		o.Faults = &faults.Options{Plan: plan}
		dir = o.Dir
	})
	upload(t, s, "in/1.csv")
	awaitRuns(t, s, 1)
	// Both have connections now; each breaks once more when it is used again.
	for _, part := range []string{"functions", "worker"} {
		r := faults.Rule{Name: "cut-" + part, At: faults.Temporal, Operation: part, Fault: faults.Reset, Count: 2}
		if err := s.Faults.Put(r); err != nil {
			t.Fatal(err)
		}
		plan.Rules = append(plan.Rules, r)
	}
	upload(t, s, "in/2.csv")
	awaitRuns(t, s, 2)

	response, err := http.Get(s.Addresses.Faults + "/faults")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var state faults.State
	if err := json.NewDecoder(response.Body).Decode(&state); err != nil {
		t.Fatal(err)
	}
	if state.Seed != 11 || len(state.Rules) != len(plan.Rules) {
		t.Errorf("the fault lab shows %+v", state)
	}
	log, err := os.ReadFile(filepath.Join(dir, "logs", "faults.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range plan.Rules {
		if state.Counts[r.Name].Injected == 0 || !bytes.Contains(log, []byte(`"rule":"`+r.Name+`"`)) {
			t.Errorf("rule %s struck nothing", r.Name)
		}
	}
	env, err := os.ReadFile(s.EnvFile())
	if err != nil || !strings.Contains(string(env), "PENSTOCK_FAULTS_URL="+s.Addresses.Faults+"/faults\n") {
		t.Errorf("dev.env does not tell of the fault lab: %v\n%s", err, env)
	}
}
