package e2e_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/runs"
)

// retried and redriven are what the commands write, as a user's script reads it.
type (
	retried struct {
		RunID string `json:"runId"`
		Steps []struct {
			Name    string `json:"name"`
			Action  string `json:"action"`
			Attempt int    `json:"attempt"`
		} `json:"steps"`
	}
	redriven struct {
		DeadLetters []deadLetter `json:"deadLetters"`
	}
	deadLetter struct {
		ID        string     `json:"id"`
		Identity  string     `json:"identity"`
		Reason    string     `json:"reason"`
		Pipeline  string     `json:"pipeline"`
		Body      string     `json:"body"`
		Delivered bool       `json:"delivered"`
		Decisions []decision `json:"decisions"`
	}
)

// retry runs penstock retry and wants "step action attempt" of each step.
func (r *run) retry(t *testing.T, want string, args ...string) {
	t.Helper()
	var answer retried
	decodeJSON(t, r.penstock(t, 0, append([]string{"retry", r.id, "-o", "json"}, args...)...), &answer)
	var got []string
	for _, s := range answer.Steps {
		got = append(got, fmt.Sprintf("%s %s %d", s.Name, s.Action, s.Attempt))
	}
	if text := strings.Join(got, ", "); answer.RunID != r.id || text != want {
		t.Errorf("penstock retry %q answers for %s: %s, want %s", args, answer.RunID, text, want)
	}
}

// attemptsOf are the numbers of a step's attempts in the run's result.
func attemptsOf(t *testing.T, res runs.RunResult, step string) []int {
	t.Helper()
	for _, s := range res.Steps {
		if s.Name == step {
			var numbers []int
			for _, a := range s.Attempts {
				numbers = append(numbers, a.Attempt)
			}
			return numbers
		}
	}
	t.Fatalf("the run has no step %s: %+v", step, res)
	return nil
}

func wantAttempts(t *testing.T, res runs.RunResult, step string, want ...int) {
	t.Helper()
	if got := attemptsOf(t, res, step); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("step %s has the attempts %v, want %v", step, got, want)
	}
}

func TestARetryRunsOnlyWhatIsNotFinished(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "again")
	r.job(t, "first", 1).done()
	second := r.job(t, "second", 1)
	code, _, stderr := cli(t, shared.environment(), "retry", r.id)
	if code != 1 || !strings.Contains(stderr, r.id) || !strings.Contains(stderr, r.jobName("second", 1)) || strings.Contains(stderr, r.jobName("first", 1)) {
		t.Errorf("a retry of an open run ends with %d and %q, want 1, and the run and its open job named", code, stderr)
	}
	second.fail("no rows")
	if res := r.result(t); res.Outcome != runs.OutcomeFailed {
		t.Fatalf("the run: %+v", res)
	}

	r.retry(t, "first kept 1, second runs 2")
	r.job(t, "second", 2).done()
	res := r.result(t)
	if res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the retried run: %+v", res)
	}
	wantAttempts(t, res, "first", 1)
	wantAttempts(t, res, "second", 1, 2)
	r.wantJobs(t, map[string]int{"first": 1, "second": 2})

	// What succeeded is run again only where somebody says from where.
	if code, _, stderr := cli(t, shared.environment(), "retry", r.id); code != 1 || !strings.Contains(stderr, "--from") {
		t.Errorf("a retry of a run that succeeded ends with %d and %q, want 1 and a word of --from", code, stderr)
	}
	r.retry(t, "first runs 2, second runs 3", "--from", "first")
	r.job(t, "first", 2).done()
	r.job(t, "second", 3).done()
	res = r.result(t)
	if res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run from its first step: %+v", res)
	}
	wantAttempts(t, res, "second", 1, 2, 3)
	r.wantJobs(t, map[string]int{"first": 2, "second": 3})

	// The event that started it all is still a duplicate.
	if _, a := shared.post(t, "StorageTrigger", storageHeader("again", "finalized", landing),
		fmt.Sprintf(`{"bucket":%q,"name":%q,"generation":%q}`, landing, r.object, r.key[strings.LastIndex(r.key, "#")+1:])); len(a.Decisions) != 1 || a.Decisions[0].Outcome != "duplicate" {
		t.Errorf("its event once more: %+v, want a duplicate", a)
	}
}

// Nobody told the run's end: what its jobs' workflows left tells how far it was.
func TestARetryOfATerminatedRunWaitsForItsJobs(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "again")
	r.job(t, "first", 1).done()
	second := r.job(t, "second", 1)
	if err := r.Client.TerminateWorkflow(t.Context(), r.id, "", "by a test"); err != nil {
		t.Fatal(err)
	}
	r.retry(t, "first kept 1, second runs 2", "--wait")
	second.awaitEnd(t)
	r.job(t, "second", 2).done()
	res := r.result(t)
	if res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the retried run: %+v", res)
	}
	wantAttempts(t, res, "second", 1, 2)
	r.wantJobs(t, map[string]int{"first": 1, "second": 2})
}

// A retry that is cancelled before it comes to a step stops the job that the run before it
// left there, which nobody watches any more.
func TestACancelledRetryStopsWhatTheRunBeforeItLeft(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "again")
	r.job(t, "first", 1).done()
	second := r.job(t, "second", 1)
	// The job's workflow would stop it now. It is terminated before it can.
	orphaned, park := make(chan struct{}), once()
	shared.Calls.hold(t, "jobs.get", "again", func(ctx context.Context, job string) error {
		if job != second.JobName || !park() {
			return nil
		}
		if err := await(ctx, orphaned); err != nil {
			return err
		}
		return status.Error(codes.Unavailable, "The service is currently unavailable.")
	})
	for _, id := range []string{r.id, r.jobWorkflow("second", 1)} {
		if err := r.Client.TerminateWorkflow(t.Context(), id, "", "by a test"); err != nil {
			t.Fatal(err)
		}
	}
	close(orphaned)
	if second.over() {
		t.Fatal("the job is over too early for this test")
	}

	r.retry(t, "first runs 2, second continues 1", "--from", "first")
	r.job(t, "first", 2)
	r.cancel(t)
	res := r.result(t)
	if a := attemptOf(t, res, "second"); res.Outcome != runs.OutcomeCancelled || a.JobID != second.JobID || a.State != "JOB_STATE_CANCELLED" || !second.over() {
		t.Errorf("the job is over: %t; the run: %+v", second.over(), res)
	}
	r.wantJobs(t, map[string]int{"first": 2, "second": 1})
	keep(t, r, "retry-cancelled", "second-1")
}

func TestARetryRunsByTheMendedFileUnlessToldOtherwise(t *testing.T) {
	t.Parallel()
	r := shared.land(t, "mended")
	r.job(t, "first", 1).fail("the step is called wrong")
	before := r.result(t)
	file := filepath.Join(shared.Pipelines, "mended.yaml")
	change(t, file, "step: first}", "step: mended}")

	r.retry(t, "first runs 2, second runs 1", "--same-config")
	as := r.job(t, "first", 2)
	if got := as.Parameters["step"]; got != "first" {
		t.Errorf("with --same-config the job has the parameter %q, want that of the file as it was", got)
	}
	as.fail("still")
	if res := r.result(t); res.Config.Hash != before.Config.Hash {
		t.Errorf("with --same-config the run has the version %+v, want %+v", res.Config, before.Config)
	}

	r.retry(t, "first runs 3, second runs 1")
	mended := r.job(t, "first", 3)
	if got := mended.Parameters["step"]; got != "mended" || mended.Parameters["object"] != r.object {
		t.Errorf("by the current file the job has the parameters %v", mended.Parameters)
	}
	mended.done()
	r.job(t, "second", 1).done()
	res := r.result(t)
	if res.Outcome != runs.OutcomeSucceeded || res.Config.Hash != hashOf(t, file) {
		t.Errorf("the run by the current file: %+v", res)
	}
	wantAttempts(t, res, "first", 1, 2, 3)
}

func change(t *testing.T, file, from, to string) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	changed := strings.Replace(string(text), from, to, 1)
	if changed == string(text) {
		t.Fatalf("%s does not have %q", file, from)
	}
	// At once: half a file is none.
	if err := os.WriteFile(file+".new", []byte(changed), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

func hashOf(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// An event that no run could be made of is delivered again once its pipelines file is
// mended, and runs once, however often it was dead-lettered and is delivered.
func TestAMendedPoisonEventRunsOnceHoweverOftenItIsRedriven(t *testing.T) {
	t.Parallel()
	const bucket = "e2e-poison"
	identity := shared.upload(t, bucket, "seven.csv", "x")
	generation := identity[strings.LastIndex(identity, "#")+1:]
	shared.awaitDecided(t, "poison", identity, 1)
	body := fmt.Sprintf(`{"bucket":%q,"name":"seven.csv","generation":%q}`, bucket, generation)
	if status, a := shared.post(t, "StorageTrigger", storageHeader("poison-2", "finalized", bucket), body); status != 200 || len(a.Decisions) != 1 || a.Decisions[0].Outcome != "dead-lettered" {
		t.Fatalf("a second delivery: %d %+v, want dead-lettered", status, a)
	}

	list := func() []deadLetter {
		t.Helper()
		var l redriven
		decodeJSON(t, shared.penstock(t, 0, "dlq", "list", "--pipeline", "poison", "-n", "1000", "-o", "json"), &l)
		return l.DeadLetters
	}
	letters := list()
	if len(letters) != 2 {
		t.Fatalf("%d dead letters, want 2: %+v", len(letters), letters)
	}
	for _, l := range letters {
		if l.Identity != identity || l.Pipeline != "poison" || !strings.Contains(l.Reason, "int(object.number)") {
			t.Errorf("the dead letter %+v", l)
		}
	}
	if again := list(); len(again) != 2 {
		t.Errorf("a second list has %d dead letters, want the same 2: to look at them takes none away", len(again))
	}
	var shown deadLetter
	decodeJSON(t, shared.penstock(t, 0, "dlq", "show", letters[1].ID, "-o", "json"), &shown)
	if shown.Body != body || shown.Reason != letters[1].Reason {
		t.Errorf("shown: %+v, want the body %s", shown, body)
	}

	file := filepath.Join(shared.Pipelines, "poison.yaml")
	change(t, file, "string(int(object.number))", "object.number")
	want := hashOf(t, file)
	eventually(t, "the functions see the mended file", func() bool {
		_, a := shared.post(t, "StorageTrigger", storageHeader("probe", "finalized", bucket), `{"bucket":"e2e-poison","name":"probe.csv","generation":"1"}`)
		return len(a.Decisions) == 1 && a.Decisions[0].Config == want
	})

	var first redriven
	decodeJSON(t, shared.penstock(t, 0, "dlq", "redrive", letters[0].ID, letters[1].ID, "-o", "json"), &first)
	var got []decision
	for _, l := range first.DeadLetters {
		if !l.Delivered || l.Identity != identity {
			t.Errorf("redriven: %+v", l)
		}
		got = append(got, l.Decisions...)
	}
	wantOutcomes(t, got, map[string]int{"started": 1, "duplicate": 1})
	if left := list(); len(left) != 0 {
		t.Errorf("still dead letters: %+v", left)
	}
	shared.penstock(t, 0, "dlq", "redrive", "--pipeline", "poison", "-n", "1000") // of which there are none

	r := shared.runOf("poison", identity, "seven.csv")
	r.job(t, "only", 1).done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run: %+v", res)
	}
	// Its one job has a parameter of the mended file.
	r.wantJobs(t, map[string]int{"seven": 1})
}
