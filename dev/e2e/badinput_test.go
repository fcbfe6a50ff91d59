package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"go.temporal.io/sdk/converter"

	"github.com/penstock/penstock/runs"
)

// malformed are requests that no trigger can read, with what the reason must speak of.
var malformed = []struct {
	name   string
	header map[string]string
	body   string
	reason string
}{
	{"no CloudEvent at all", map[string]string{"Content-Type": "text/plain"}, "hello from m1", "not JSON"},
	{"an attribute is missing", map[string]string{"ce-specversion": "1.0", "ce-type": "google.cloud.storage.object.v1.finalized", "ce-source": "//storage.googleapis.com/projects/_/buckets/b", "Content-Type": "application/json"}, `{"bucket":"m2"}`, "id"},
	{"an unknown specversion", map[string]string{"ce-specversion": "7.0", "ce-id": "m3", "ce-type": "x", "ce-source": "y", "Content-Type": "application/json"}, `{"m":3}`, "specversion"},
	{"data that is no JSON", storageHeader("m4", "finalized", "e2e-names"), `{"bucket":"m4",`, "data"},
	{"an object without a name", storageHeader("m5", "finalized", "e2e-names"), `{"bucket":"m5","generation":"1"}`, "name"},
	{"a structured event that panics the SDK", map[string]string{"Content-Type": "application/cloudevents+json"}, `{"specversion":"1.0","id":"m6","type":"x","source":"y","data_base64":1}`, "data_base64"},
	{"a header named just ce-", map[string]string{"ce-": "m7", "Content-Type": "application/json"}, `{"m":7}`, "ce-"},
}

func TestAMalformedEventBecomesADeadLetterWithItsReason(t *testing.T) {
	t.Parallel()
	l := shared.readLetters(t)
	for _, m := range malformed {
		status, a := shared.post(t, "StorageTrigger", m.header, m.body)
		if status != http.StatusOK || len(a.Decisions) != 1 || a.Decisions[0].Outcome != "dead-lettered" {
			t.Errorf("%s: answered %d %+v, want 200 and dead-lettered", m.name, status, a)
			continue
		}
		letter := l.await(t, m.name, func(letter *pubsub.Message) bool { return string(letter.Data) == m.body })
		reason := letter.Attributes["penstock-reason"]
		if reason == "" || !strings.Contains(reason, m.reason) || reason != a.Decisions[0].Reason {
			t.Errorf("%s: the letter's reason is %q, the answer's %q; want one that speaks of %s", m.name, reason, a.Decisions[0].Reason, m.reason)
		}
		// What is needed to send it again is kept.
		if got := letter.Attributes["penstock-entry-point"]; got != "StorageTrigger" {
			t.Errorf("%s: the letter's entry point is %q", m.name, got)
		}
		for name, value := range m.header {
			if got := letter.Attributes[strings.ToLower(name)]; got != value {
				t.Errorf("%s: the letter's attribute %s is %q, want %q", m.name, strings.ToLower(name), got, value)
			}
		}
	}
}

func TestAnEventOfABucketThatNoPipelineNamesDoesNothing(t *testing.T) {
	t.Parallel()
	status, a := shared.post(t, "StorageTrigger", storageHeader("unknown-1", "finalized", "e2e-of-nobody"),
		`{"bucket":"e2e-of-nobody","name":"a.csv","generation":"1"}`)
	if status != http.StatusOK || len(a.Decisions) != 0 || a.Error != "" {
		t.Errorf("answered %d %+v, want 200 and no decision", status, a)
	}
	if want := "finalized:e2e-of-nobody/a.csv#1"; a.Identity != want {
		t.Errorf("identity %q, want %q", a.Identity, want)
	}
}

// The object is gone when the job wants to read it. What a user sees is the job's own
// first error.
func TestAnEventForADeletedObjectFailsItsRunAndSaysWhy(t *testing.T) {
	t.Parallel()
	deleted := make(chan struct{})
	shared.Calls.hold(t, "flexTemplates.launch", "gone", func(ctx context.Context, _ string) error {
		select {
		case <-deleted:
		case <-ctx.Done():
		}
		return nil
	})
	identity := shared.upload(t, "e2e-gone", "daily.csv", "date\n")
	if err := shared.Objects.Bucket("e2e-gone").Object("daily.csv").Delete(t.Context()); err != nil {
		t.Fatal(err)
	}
	close(deleted)

	wantOutcomes(t, shared.awaitDecided(t, "gone", identity, 1), map[string]int{"started": 1})
	r := shared.runOf("gone", identity, "daily.csv")
	res := r.result(t)
	if res.Outcome != runs.OutcomeFailed || len(res.Steps) != 1 || len(res.Steps[0].Attempts) != 1 {
		t.Fatalf("result %+v, want one failed attempt", res)
	}
	job := res.Steps[0].Attempts[0]
	if job.State != "JOB_STATE_FAILED" || !strings.Contains(job.Error, "daily.csv") {
		t.Errorf("the job is %s: %q, want JOB_STATE_FAILED and an error that names daily.csv", job.State, job.Error)
	}
	if !strings.Contains(res.Error, job.Error) || !strings.Contains(res.Error, job.JobID) {
		t.Errorf("the run says %q, want the job's ID and its first error %q", res.Error, job.Error)
	}
	out := shared.penstock(t, 0, "describe", r.id)
	for _, want := range []string{"daily.csv", job.JobID} {
		if !strings.Contains(out, want) {
			t.Errorf("penstock describe does not show %q:\n%s", want, out)
		}
	}
}

func TestATemplateThatDoesNotExistFailsTheRunAtOnce(t *testing.T) {
	t.Parallel()
	identity := shared.upload(t, "e2e-untemplated", "untemplated.csv", "x")
	shared.awaitDecided(t, "untemplated", identity, 1)
	r := shared.runOf("untemplated", identity, "untemplated.csv")
	res := r.result(t)
	if res.Outcome != runs.OutcomeFailed || !strings.Contains(res.Error, "gs://e2e-templates/nobody-uploaded-this.json") {
		t.Errorf("the run is %s: %q, want failed and the template's path", res.Outcome, res.Error)
	}
	wantOneRefusedLaunch(t, r)
}

func TestParametersThatTheTemplateRejectsAreNamedOneByOne(t *testing.T) {
	t.Parallel()
	identity := shared.upload(t, "e2e-violating", "violating.csv", "x")
	shared.awaitDecided(t, "violating", identity, 1)
	r := shared.runOf("violating", identity, "violating.csv")
	res := r.result(t)
	if res.Outcome != runs.OutcomeFailed || len(res.Steps) != 1 {
		t.Fatalf("result %+v, want one failed step", res)
	}
	for _, want := range []string{"step: Missing required parameter", "colour: Unrecognized parameter"} {
		if !strings.Contains(res.Steps[0].Error, want) {
			t.Errorf("the step says %q, want %q in it", res.Steps[0].Error, want)
		}
	}
	wantOneRefusedLaunch(t, r)
}

// wantOneRefusedLaunch says that the run asked Dataflow once, though its step may try
// three times: what is refused for good is not asked for again.
func wantOneRefusedLaunch(t *testing.T, r *run) {
	t.Helper()
	for attempt := 1; attempt <= 2; attempt++ {
		launches := 0
		for _, method := range r.Calls.of(r.jobName("only", attempt)) {
			if method == "flexTemplates.launch" {
				launches++
			}
		}
		if want := 2 - attempt; launches != want {
			t.Errorf("attempt %d was launched %d times, want %d", attempt, launches, want)
		}
	}
	r.wantJobs(t, nil)
}

// hostileNames are legal names of objects, each a trap for something that takes data
// for text of its own.
var hostileNames = []string{
	"with spaces  in it .csv",
	" leading and trailing ",
	"grüße/日本語/данные/🌊.csv",
	"u\u0308mlaut-decomposed", "\u00fcmlaut-composed",
	"../../etc/passwd", "a/../b", "./a", "a//b", "/leading", "trailing/",
	"${event.bucket}", "$${literal}", "$(reboot)", "`reboot`", "${steps.only.jobId}",
	"{{.Name}}", "{{ range }}", "{a,b}", "[abc]*?.csv",
	"a,b,c=d;e", `"quoted" and 'quoted'`, `back\slash`,
	"%2F%00%ZZ", "100%", "a%20b", "a+b?c=d&e#f",
	"--flag=value", "-rf", "<b>bold</b>", "a\tb", "null", "true", "~tilde",
	strings.Repeat("k", 1024), strings.Repeat("é", 512),
}

// A name goes from the bucket through event, run and launch to the job, and comes out
// as it went in.
func TestHostileObjectNamesAreData(t *testing.T) {
	t.Parallel()
	for i, name := range hostileNames {
		t.Run(fmt.Sprintf("%02d %.20q", i, name), func(t *testing.T) {
			t.Parallel()
			identity := shared.upload(t, "e2e-names", name, "x")
			if want := "finalized:e2e-names/" + name + "#"; !strings.HasPrefix(identity, want) {
				t.Fatalf("identity %q, want %q and the generation", identity, want)
			}
			wantOutcomes(t, shared.awaitDecided(t, "names", identity, 1), map[string]int{"started": 1})
			r := shared.runOf("names", identity, name)
			j := r.job(t, "only", 1)
			for parameter, want := range map[string]string{"object": name, "from": "gs://e2e-names/" + name} {
				if got := j.Parameters[parameter]; got != want {
					t.Errorf("the job's parameter %s is %q, want %q", parameter, got, want)
				}
			}
			j.done()
			if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
				t.Errorf("the run is %s: %s", res.Outcome, res.Error)
			}
			if len(r.id) > 255 || strings.ContainsFunc(r.id, func(c rune) bool { return c < ' ' || c > '~' }) {
				t.Errorf("run ID %q is not 255 printable ASCII characters at most", r.id)
			}
			if len(j.JobName) > 63 {
				t.Errorf("job name %q has more than 63 characters", j.JobName)
			}
			r.wantJobs(t, map[string]int{"only": 1})
			// The run's memo has the key in full, where its ID may only have a hash of it.
			d, err := shared.Client.DescribeWorkflowExecution(t.Context(), r.id, "")
			if err != nil {
				t.Fatal(err)
			}
			var key string
			if err := converter.GetDefaultDataConverter().FromPayload(d.WorkflowExecutionInfo.GetMemo().GetFields()[runs.MemoKey], &key); err != nil || key != identity {
				t.Errorf("the memo's key is %q (%v), want %q", key, err, identity)
			}
		})
	}
}
