package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/penstock/penstock/dev/stack"
	"github.com/penstock/penstock/runs"
)

// tenMistakes is what lint finds in testdata/bad/ten.yaml: where, and about what.
var tenMistakes = []string{
	`:4:1: unknown field "colour"`,
	":6:50: object pattern: the capture {region} comes twice",
	":7:23: when: Syntax error",
	`:8:21: on[1].pubsub.topic is "not a topic"`,
	":11:12: the steps need each other in a circle",
	":13:17: ${ } may not stand in steps[0].dataflow.template",
	":14:37: parameter object: a ",
	`:15:16: "Team" in steps[0].dataflow.labels`,
	`:16:14: steps[0].timeout takes a duration, not the text "soon"`,
	":21:33: steps[1].dataflow.environment.maxWorkers takes a whole number",
}

func TestAFileWithTenMistakesIsRefusedWithAllOfThem(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs(filepath.Join("testdata", "bad"))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(folder, "ten.yaml")

	code, stdout, stderr := cli(t, nil, "lint", folder)
	if code != 3 {
		t.Errorf("penstock lint ends with %d, want 3\n%s", code, stderr)
	}
	wantMistakes(t, "penstock lint", file, stdout)

	code, stdout, _ = cli(t, nil, "lint", folder, "-o", "json")
	var report struct {
		Pipelines []string `json:"pipelines"`
		Problems  []struct {
			File     string `json:"file"`
			Line     int    `json:"line"`
			Col      int    `json:"col"`
			Severity string `json:"severity"`
			Message  string `json:"message"`
		} `json:"problems"`
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil || code != 3 || report.Pipelines == nil || len(report.Pipelines) != 0 {
		t.Fatalf("penstock lint -o json ends with %d and %s (%v), want 3 and no pipelines", code, stdout, err)
	}
	var lines strings.Builder
	for _, p := range report.Problems {
		if p.Severity != "error" {
			t.Errorf("problem %+v, want an error", p)
		}
		fmt.Fprintf(&lines, "%s:%d:%d: %s\n", p.File, p.Line, p.Col, p.Message)
	}
	wantMistakes(t, "penstock lint -o json", file, lines.String())

	// What does not lint is not deployed.
	out := filepath.Join(t.TempDir(), "staged")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join("..", "..", "scripts", "stage-functions"), "-pipelines", folder, out)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	_ = cmd.Run() // its exit code tells
	if code := cmd.ProcessState.ExitCode(); code != 3 {
		t.Errorf("stage-functions ends with %d, want 3\n%s", code, errs.String())
	}
	said, _, _ := strings.Cut(errs.String(), "stage-functions:")
	wantMistakes(t, "stage-functions", file, said)
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("something is staged: %v", err)
	}
}

// wantMistakes says that a text has the ten mistakes and no other, in order, a line each.
func wantMistakes(t *testing.T, who, file, text string) {
	t.Helper()
	got := strings.Split(strings.TrimSpace(text), "\n")
	if len(got) != len(tenMistakes) {
		t.Errorf("%s tells %d mistakes, want %d:\n%s", who, len(got), len(tenMistakes), text)
		return
	}
	for i, want := range tenMistakes {
		if !strings.HasPrefix(got[i], file+want) {
			t.Errorf("%s says %q, want %q", who, got[i], file+want)
		}
	}
}

// configured is a pipelines file of the test's own; purpose makes versions differ.
func configured(name, purpose string) string {
	return fmt.Sprintf(`name: %s
purpose: %s
owner: e2e@example.com
on:
  - storage: {bucket: e2e-configured}
steps:
  - name: only
    dataflow:
      template: gs://e2e-templates/held.json
      parameters: {object: "${event.name}", step: only}
`, name, purpose)
}

// put replaces a pipelines file as its users are told to: by renaming a new one over it.
func put(t *testing.T, folder, name, text string) {
	t.Helper()
	path := filepath.Join(folder, name)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// A file that turns bad takes nothing down, in an instance that knew it and in one that
// starts later; where no good version is left, its events wait and nothing else does.
func TestAPipelinesFileThatTurnsBadWhileItRuns(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *stack.Options) {
		o.ImageMap = ""
		put(t, o.Pipelines, "steady.yaml", configured("steady", "Stay as it is."))
		put(t, o.Pipelines, "changing.yaml", configured("changing", "Be the first version."))
	})
	// decide uploads an object and gives what the pipeline's first decision on it is.
	decide := func(object, pipeline string) decision {
		t.Helper()
		return b.awaitDecided(t, pipeline, b.upload(t, "e2e-configured", object, "x"), 1)[0]
	}
	// lookAgain has the functions look at their files until they have logged the text:
	// they look when an event comes.
	lookAgain := func(text string) {
		t.Helper()
		eventually(t, "the functions log "+text, func() bool {
			b.post(t, "StorageTrigger", storageHeader("look", "finalized", "e2e-of-nobody"), `{"bucket":"e2e-of-nobody","name":"a","generation":"1"}`)
			return strings.Contains(b.Logs("functions"), text)
		})
	}
	logged := func(text string) int { return strings.Count(b.Logs("functions"), text) }

	first := decide("1-good", "changing")
	steady := b.awaitDecided(t, "steady", first.Identity, 1)[0]
	if first.Outcome != "started" || first.Config == "" {
		t.Fatalf("decided %+v, want started with the version of the file", first)
	}

	// Warm: the instance knows the good version. Whatever comes, it says so once.
	put(t, b.Pipelines, "changing.yaml", "name: changing\ncolour: blue\n")
	lookAgain(`unknown field \"colour\"`)
	warm := decide("2-warm", "changing")
	if warm.Outcome != "started" || warm.Config != first.Config {
		t.Errorf("warm: decided %+v, want started with version %s", warm, first.Config)
	}
	b.awaitDecided(t, "steady", warm.Identity, 1)
	// Another file changes, which makes them all be looked at.
	put(t, b.Pipelines, "steady.yaml", configured("steady", "Stay, but for these words, as it is."))
	eventually(t, "the other file's new version is in force", func() bool {
		_, a := b.again(t, "e2e-configured", first.Identity)
		return len(a.Decisions) == 2 && a.Decisions[1].Pipeline == "steady" && a.Decisions[1].Config != steady.Config
	})
	put(t, b.Pipelines, "changing.yaml", "name: changing\nflavour: sour\n")
	lookAgain(`unknown field \"flavour\"`)
	eventually(t, "the last good version's staying is logged", func() bool { return logged("its last good version stays in force") >= 2 })
	if n := logged(`"problem":"` + filepath.Join(b.Pipelines, "changing.yaml") + `:2:1: unknown field \"colour\"`); n != 1 {
		t.Errorf("the first problem is logged %d times, want once and with file, line and column", n)
	}
	if n := logged("its last good version stays in force"); n != 2 {
		t.Errorf("that the last good version stays is logged %d times, want once for each bad version", n)
	}

	// Cold, with the copy that is kept beside the file.
	restart := func() {
		t.Helper()
		if err := b.StartFunctions(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.KillFunctions(); err != nil {
		t.Fatal(err)
	}
	restart()
	cold := decide("3-cold", "changing")
	if cold.Outcome != "started" || cold.Config != first.Config {
		t.Errorf("cold: decided %+v, want started with version %s", cold, first.Config)
	}
	b.awaitDecided(t, "steady", cold.Identity, 1) // before the functions are killed in the middle of it

	// Cold, without: nobody knows whether the file wants the event.
	if err := b.KillFunctions(); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(b.Pipelines, ".last-good")); err != nil {
		t.Fatal(err)
	}
	restart()
	if d := decide("4-lost", "steady"); d.Outcome != "started" {
		t.Errorf("without the copy: the other pipeline decided %+v, want started", d)
	}
	identity := b.decided(func(d decision) bool { return strings.Contains(d.Identity, "/4-lost#") })[0].Identity
	code, a := b.again(t, "e2e-configured", identity)
	if code != http.StatusServiceUnavailable || !strings.Contains(a.Error, filepath.Join(b.Pipelines, "changing.yaml")+":2:1: ") {
		t.Errorf("without the copy: answered %d, %q; want 503 and where the mistake is", code, a.Error)
	}
	wantOutcomes(t, a.Decisions, map[string]int{"duplicate": 1}) // of the loaded pipeline
	if found := b.decided(func(d decision) bool { return d.Pipeline == "changing" && d.Identity == identity }); len(found) > 0 {
		t.Errorf("without the copy: the pipeline decided %+v", found)
	}

	// Mended, the event that waited starts its run, and the other pipeline's stays single.
	put(t, b.Pipelines, "changing.yaml", configured("changing", "Be the second version."))
	mended := b.awaitDecided(t, "changing", identity, 1)
	if mended[0].Outcome != "started" || mended[0].Config == first.Config {
		t.Errorf("mended: decided %+v, want started with another version than %s", mended[0], first.Config)
	}
	if err := b.Events.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	answered := []int{}
	for _, d := range b.Events.Deliveries() {
		if d.Subject == "objects/4-lost" {
			answered = append(answered, d.Status)
		}
	}
	last := len(answered) - 1
	for i, status := range answered {
		if want := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[i == last]; status != want {
			t.Errorf("the deliveries were answered %v, want 503 until the file was mended, then 200", answered)
			break
		}
	}
	for _, object := range []string{"1-good", "2-warm", "3-cold", "4-lost"} {
		for _, pipeline := range []string{"steady", "changing"} {
			decided := b.decided(func(d decision) bool {
				return d.Pipeline == pipeline && d.Outcome == "started" && strings.Contains(d.Identity, "/"+object+"#")
			})
			if len(decided) != 1 {
				t.Errorf("%s: %s has started %d runs, want 1: %+v", object, pipeline, len(decided), decided)
				continue
			}
			r := b.runOf(pipeline, decided[0].Key, object)
			r.job(t, "only", 1).done()
			if res := r.result(t); res.Outcome != runs.OutcomeSucceeded || res.Config.Hash != decided[0].Config {
				t.Errorf("%s: the run of %s is %s with version %s, want success with %s: %s", object, pipeline, res.Outcome, res.Config.Hash, decided[0].Config, res.Error)
			}
		}
		if n := len(b.Jobs.of(object)); n != 2 {
			t.Errorf("%s: %d jobs, want one a pipeline", object, n)
		}
	}
	if dead := b.Events.DeadLetters(); len(dead) > 0 {
		t.Errorf("dead letters: %+v", dead)
	}
}

// A deployment without a dead-letter topic, in a namespace without search attributes,
// does what it can and says what it lacks.
func TestADeploymentWithoutDeadLetterTopicAndSearchAttributes(t *testing.T) {
	t.Parallel()
	b := newBench(t, func(o *stack.Options) {
		o.ImageMap, o.WithoutWorker = "", true
		o.Env = append(o.Env, "PENSTOCK_DEAD_LETTER_TOPIC=")
	})

	for _, m := range malformed {
		code, a := b.post(t, "StorageTrigger", m.header, m.body)
		if code != http.StatusBadRequest || len(a.Decisions) != 1 || a.Decisions[0].Outcome != "rejected" {
			t.Errorf("%s, without a dead-letter topic: answered %d %+v, want 400 and rejected", m.name, code, a)
		}
	}
	var rejected []decision
	eventually(t, "each rejection is logged", func() bool {
		rejected = b.decided(func(d decision) bool { return d.Outcome == "rejected" })
		return len(rejected) >= len(malformed)
	})
	if len(rejected) != len(malformed) {
		t.Errorf("%d rejections are logged, want %d", len(rejected), len(malformed))
	}
	for _, d := range rejected {
		if d.Severity != "ERROR" || !strings.Contains(d.Reason, "PENSTOCK_DEAD_LETTER_TOPIC") {
			t.Errorf("logged as %s: %q, want an ERROR that says what to set", d.Severity, d.Reason)
		}
	}

	removeSearchAttributes(t, b)
	if err := b.StartWorker(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := b.land(t, "one")
	r.job(t, "only", 1).done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("without search attributes: the run is %s: %s", res.Outcome, res.Error)
	}
	if n := strings.Count(b.Logs("worker"), "the namespace lacks search attributes"); n != 1 {
		t.Errorf("the worker says %d times that search attributes are missing, want once", n)
	}
	var checks struct {
		Healthy bool `json:"healthy"`
		Checks  []check
	}
	decodeJSON(t, b.penstock(t, 0, "doctor", "-o", "json"), &checks)
	for _, c := range checks.Checks {
		if c.Name != "search attributes" {
			continue
		}
		if c.Status != "warn" {
			t.Errorf("doctor says %+v, want a warning", c)
		}
		for _, name := range runs.SearchAttributes() {
			if !strings.Contains(c.Do, "--name "+name+" --type Keyword") {
				t.Errorf("doctor says to do %q, want %s in it", c.Do, name)
			}
		}
	}
	var listing listing
	decodeJSON(t, b.penstock(t, 0, "runs", "--pipeline", "one", "-o", "json"), &listing)
	eventually(t, "the run is listed by its pipeline", func() bool {
		decodeJSON(t, b.penstock(t, 0, "runs", "--pipeline", "one", "--outcome", "succeeded", "-o", "json"), &listing)
		return len(listing.Runs) == 1 && listing.Runs[0].RunID == r.id
	})
}
