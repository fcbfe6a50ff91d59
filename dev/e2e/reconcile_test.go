package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

// reconciliation is what reconcile writes.
type reconciliation struct {
	Objects []struct {
		Name       string `json:"name"`
		Generation string `json:"generation"`
		Identity   string `json:"identity"`
		Verdict    string `json:"verdict"`
		RunID      string `json:"runId"`
		Outcome    string `json:"outcome"`
		Reason     string `json:"reason"`
		Source     string `json:"source"`
		DeadLetter string `json:"deadLetter"`
		Start      *struct {
			Delivered bool       `json:"delivered"`
			Decisions []decision `json:"decisions"`
		} `json:"start"`
	} `json:"objects"`
	ExtraRuns []struct {
		listedRun
		Identity string `json:"identity"`
		Reason   string `json:"reason"`
	} `json:"extraRuns"`
	Counts  map[string]int `json:"counts"`
	Started int            `json:"started"`
	Left    int            `json:"left"`
}

const reconciledPipeline = `name: reconciled
purpose: Run a job for each numbered object.
owner: e2e@example.com
on:
  - storage: {bucket: e2e-landing, object: "reconciled/{number}/*"}
    when: event.size > 0
steps:
  - name: only
    dataflow:
      template: gs://e2e-templates/quick.json
      parameters: {input: "${string(int(object.number))}"}
`

// Events are lost on their way; nobody can tell from runs alone. The objects are there, and tell.
func TestWhatWasMissedIsFoundAndStarted(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *stack.Options) {
		if err := os.WriteFile(filepath.Join(o.Pipelines, "reconciled.yaml"), []byte(reconciledPipeline), 0o600); err != nil {
			t.Fatal(err)
		}
		o.Faults = &faults.Options{Plan: faults.Plan{Rules: []faults.Rule{
			{Name: "lost", At: faults.Events, Operation: "storage", Subject: "reconciled/*lost*", Fault: faults.Lose},
		}}}
	})
	before := time.Now().Add(-time.Minute)
	want := map[string]string{} // verdicts by identity
	upload := func(name, content, verdict string) string {
		identity := b.upload(t, landing, "reconciled/"+name, content)
		if verdict != "" {
			want[identity] = verdict
		}
		return identity
	}
	var ran, lost []*run
	for i := range 12 {
		ran = append(ran, b.runOf("reconciled", upload(fmt.Sprintf("%d/good, ü%%.csv", i), "x", "ran"), ""))
	}
	for i := range 5 {
		lost = append(lost, b.runOf("reconciled", upload(fmt.Sprintf("%d/lost", i), "x", "missed"), ""))
	}
	empty := upload("7/empty", "", "skipped")
	poison := upload("seven/poison", "x", "dead-lettered")
	deleted := b.runOf("reconciled", upload("8/deleted", "x", ""), "")
	for _, r := range append(ran, deleted) {
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Fatalf("%s: %+v", r.id, res)
		}
	}
	b.awaitDecided(t, "reconciled", empty, 1)
	b.awaitDecided(t, "reconciled", poison, 1)
	if err := b.Objects.Bucket(landing).Object("reconciled/8/deleted").Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Temporal lists the runs", func() bool {
		var l listing
		decodeJSON(t, b.penstock(t, 0, "runs", "--pipeline", "reconciled", "-o", "json"), &l)
		return len(l.Runs) == 13
	})

	from := []string{"reconcile", "reconciled", "--from", before.UTC().Format(time.RFC3339), "-o", "json"}
	reconcile := func(code int, more ...string) reconciliation {
		t.Helper()
		var r reconciliation
		decodeJSON(t, b.penstock(t, code, append(from, more...)...), &r)
		return r
	}
	check := func(r reconciliation, left int) {
		t.Helper()
		counts := map[string]int{}
		for _, o := range r.Objects {
			counts[o.Verdict]++
			if o.Verdict != want[o.Identity] {
				t.Errorf("%s is %s, want %s: %+v", o.Identity, o.Verdict, want[o.Identity], o)
			}
		}
		if len(r.Objects) != len(want) || r.Left != left || fmt.Sprint(counts) != fmt.Sprint(r.Counts) {
			t.Errorf("%d objects of %d, %d left of %d, counted %v as %v", len(r.Objects), len(want), r.Left, left, counts, r.Counts)
		}
		if len(r.ExtraRuns) != 1 || r.ExtraRuns[0].RunID != deleted.id || r.ExtraRuns[0].Identity != deleted.key || !strings.Contains(r.ExtraRuns[0].Reason, "is gone") {
			t.Errorf("extra: %+v", r.ExtraRuns)
		}
	}
	first := reconcile(4)
	check(first, 5)
	for _, o := range first.Objects {
		switch {
		case o.Verdict == "ran" && (o.Outcome != "succeeded" || o.RunID != runs.RunID(deployment, "reconciled", o.Identity)):
			t.Errorf("what ran is %+v", o)
		case o.Verdict == "dead-lettered" && (o.DeadLetter == "" || o.Source != "dead-letters"):
			t.Errorf("the dead letter is %+v", o)
		}
	}
	if text := b.penstock(t, 4, from[:4]...); !strings.Contains(text, "gs://e2e-landing/reconciled/3/lost#") || strings.Contains(text, "good") || !strings.Contains(text, "19 objects: 12 ran, 1 skipped, 1 dead-lettered, 5 missed") {
		t.Errorf("shown as\n%s", text)
	}

	// Without the dead letters, the functions' log tells of them.
	log := filepath.Join(t.TempDir(), "functions.log")
	if err := os.WriteFile(log, []byte(b.Logs("functions")), 0o600); err != nil {
		t.Fatal(err)
	}
	code, stdout, stderr := cli(t, append(b.environment(), "PENSTOCK_DEAD_LETTER_SUBSCRIPTION="), append(from, "--decisions", log)...)
	if code != 4 {
		t.Fatalf("with the log it ends with %d: %s", code, stderr)
	}
	var logged reconciliation
	decodeJSON(t, stdout, &logged)
	check(logged, 5)

	// It starts what was missed, and nothing else; the second time there is nothing to start.
	decisions := len(b.decided(func(d decision) bool { return d.Pipeline == "reconciled" }))
	started := reconcile(0, "--start-missing")
	check(started, 0)
	if started.Started != 5 {
		t.Errorf("%d runs were started of 5", started.Started)
	}
	for _, o := range started.Objects {
		if (o.Start != nil) != (o.Verdict == "missed") || o.Start != nil && (!o.Start.Delivered || len(o.Start.Decisions) != 1 || o.Start.Decisions[0].Outcome != "started") {
			t.Errorf("started: %+v %+v", o, o.Start)
		}
	}
	for _, r := range lost {
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("%s: %+v", r.id, res)
		}
		want[r.key] = "ran"
	}
	again := reconcile(0, "--start-missing")
	check(again, 0)
	if again.Started != 0 {
		t.Errorf("the second time %d runs were started", again.Started)
	}
	if n := len(b.decided(func(d decision) bool { return d.Pipeline == "reconciled" })); n != decisions+5 {
		t.Errorf("the functions decided %d times more, want 5", n-decisions)
	}

	// Nothing is left running that a sweep would find.
	var swept struct {
		Sweeps []struct {
			Location string `json:"location"`
			Result   *struct {
				Lists       int `json:"lists"`
				Ours        int `json:"ours"`
				OrphanCount int `json:"orphanCount"`
			} `json:"result"`
		} `json:"sweeps"`
	}
	decodeJSON(t, b.penstock(t, 0, "sweep", "--wait", "--location", location, "-o", "json"), &swept)
	if len(swept.Sweeps) != 1 || swept.Sweeps[0].Result == nil || swept.Sweeps[0].Result.Lists == 0 || swept.Sweeps[0].Result.Ours != 0 || swept.Sweeps[0].Result.OrphanCount != 0 {
		t.Errorf("the sweep found %+v", swept.Sweeps)
	}
}
