package functions

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/pipeline"
)

// proxyNotFound is what a proxy between the function and Temporal may answer: the code without Temporal's detail.
func proxyNotFound() error { return serviceerror.FromStatus(status.New(codes.NotFound, "no route")) }

// overTheWire is an error of Temporal's as a client sees it.
func overTheWire(err error) error { return serviceerror.FromStatus(serviceerror.ToStatus(err)) }

// Every answer is one of three: decided (2xx, delivery forgets the event), not decided (delivery tries again), or not to be
// decided and not to be kept (non-2xx, so that the subscription keeps it).
func TestAnswers(t *testing.T) {
	tooMuch := make([]byte, maxEventData+1)
	tests := map[string]struct {
		pipelines  []string
		entryPoint string
		event      *http.Request
		temporal   error // of every call
		publish    error
		noTopic    bool

		status  int
		want    string
		letters int
		reason  string // substring
	}{
		"an event starts its pipeline": {
			pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1),
			status: 200, want: "orders: started",
		},
		"an event that several pipelines want starts each": {
			pipelines: []string{ordersFile, auditFile}, event: finalized("orders/a.csv", 1),
			status: 200, want: "audit: started, orders: started",
		},
		"an event that no pipeline wants is forgotten": {
			pipelines: []string{ordersFile}, event: finalized("other/a.csv", 1),
			status: 200, want: "",
		},
		"a predicate that is false skips the pipeline": {
			pipelines: []string{strings.Replace(ordersFile, "steps:", "    when: event.size > 1000\nsteps:", 1)}, event: finalized("orders/a.csv", 1),
			status: 200, want: "orders: skipped",
		},
		"a run that was started already is a duplicate": {
			pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1),
			temporal: serviceerror.NewWorkflowExecutionAlreadyStarted("again", "", ""),
			status:   200, want: "orders: duplicate",
		},

		// What Temporal did not decide.
		"Temporal is away":              {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewUnavailable("away"), status: 503, want: "orders: undecided"},
		"Temporal does not answer":      {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: context.DeadlineExceeded, status: 503, want: "orders: undecided"},
		"Temporal is overloaded":        {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewResourceExhausted(0, "slow down"), status: 503, want: "orders: undecided"},
		"the namespace is missing":      {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewNamespaceNotFound("orders"), status: 503, want: "orders: undecided"},
		"the key is not allowed":        {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewPermissionDenied("no", ""), status: 503, want: "orders: undecided"},
		"the key is wrong":              {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.FromStatus(status.New(codes.Unauthenticated, "who")), status: 503, want: "orders: undecided"},
		"a proxy does not know the way": {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewUnimplemented("404"), status: 503, want: "orders: undecided"},
		"not found, at a start":         {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewNotFound("what"), status: 503, want: "orders: undecided"},
		"an error of no known type":     {pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: errors.New("odd"), status: 503, want: "orders: undecided", reason: "odd"},

		// What can never succeed.
		"Temporal finds fault with the start": {
			pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewInvalidArgument("too long"),
			status: 200, want: "orders: dead-lettered", letters: 1, reason: "too long",
		},
		"it does, and there is no dead-letter topic": {
			pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewInvalidArgument("too long"), noTopic: true,
			status: 400, want: "orders: rejected", reason: envDeadLetter,
		},
		"it does, and the dead-letter topic does not answer": {
			pipelines: []string{ordersFile}, event: finalized("orders/a.csv", 1), temporal: serviceerror.NewInvalidArgument("too long"), publish: errors.New("topic is away"),
			status: 503, want: "orders: undecided", reason: "topic is away",
		},
		"an expression fails on the event": {
			pipelines: []string{approvalsFile}, entryPoint: NamePubSubTrigger, event: push("projects/penstock-dev/topics/approvals", "7", nil, nil),
			status: 200, want: "approvals: dead-lettered", letters: 1, reason: "order",
		},
		"a malformed event": {
			pipelines: []string{ordersFile}, event: cloudEvent("google.cloud.storage.object.v1.finalized", "//storage.googleapis.com/projects/_/buckets/landing", "1", `{"bucket":`),
			status: 200, want: "dead-lettered", letters: 1,
		},
		"a malformed event and no dead-letter topic": {
			pipelines: []string{ordersFile}, event: cloudEvent("", "", "", `{}`), noTopic: true,
			status: 400, want: "rejected",
		},
		"a body that is too large to read": {
			pipelines: []string{ordersFile}, event: cloudEvent("t", "s", "1", `"`+strings.Repeat("x", 17<<20)+`"`),
			status: 413, want: "rejected",
		},
		"a malformed event that is too large for the dead-letter topic": {
			pipelines: []string{ordersFile}, event: cloudEvent("t", "s", "1", strings.Repeat("x", 11<<20)),
			status: 413, want: "rejected", reason: "too large",
		},
		"a request that delivers nothing": {
			pipelines: []string{ordersFile}, event: httptest.NewRequest(http.MethodGet, "/", nil),
			status: 405, want: "rejected",
		},
		"an event whose data is too large for a workflow": {
			pipelines: []string{ingestFile}, entryPoint: NamePubSubTrigger, event: item(tooMuch),
			status: 200, want: "ingest: dead-lettered", letters: 1, reason: "1048577 bytes",
		},
		"an event whose data is as large as can be": {
			pipelines: []string{ingestFile}, entryPoint: NamePubSubTrigger, event: item(tooMuch[1:]),
			status: 200, want: "ingest: signalled",
		},
		"a large event of which the run uses little": {
			pipelines: []string{strings.NewReplacer(`storage: {bucket: landing, object: "orders/**"}`, "pubsub: {topic: projects/penstock-dev/topics/items}", "event.uri", "event.messageId").Replace(ordersFile)},
			event:     item(tooMuch), entryPoint: NamePubSubTrigger,
			status: 200, want: "orders: started",
		},

		// Signals.
		"a signal reaches its workflow": {
			pipelines: []string{approvalsFile}, entryPoint: NamePubSubTrigger, event: approval("17"),
			status: 200, want: "approvals: signalled",
		},
		"no open workflow of the signal's ID": {
			pipelines: []string{approvalsFile}, entryPoint: NamePubSubTrigger, event: approval("17"), temporal: overTheWire(serviceerror.NewNotFound("workflow execution already completed")),
			status: 200, want: "approvals: dead-lettered", letters: 1, reason: "no open workflow approval-17",
		},
		"not found, but not by Temporal": {
			pipelines: []string{approvalsFile}, entryPoint: NamePubSubTrigger, event: approval("17"), temporal: proxyNotFound(),
			status: 503, want: "approvals: undecided",
		},
		"the signal's namespace is missing": {
			pipelines: []string{approvalsFile}, entryPoint: NamePubSubTrigger, event: approval("17"), temporal: overTheWire(serviceerror.NewNamespaceNotFound("x")),
			status: 503, want: "approvals: undecided",
		},
		"a signal that starts its workflow": {
			pipelines: []string{ingestFile}, entryPoint: NamePubSubTrigger, event: item([]byte("x")),
			status: 200, want: "ingest: signalled",
		},

		// Job status.
		"a job of ours":                     {entryPoint: NameJobStatus, event: jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE"), status: 200, want: "signalled"},
		"a job of another deployment":       {entryPoint: NameJobStatus, event: jobEvent("dev2-orders-load-abc-1", "JOB_STATE_DONE"), temporal: errors.New("must not be asked"), status: 200, want: ""},
		"a name that no job of ours has":    {entryPoint: NameJobStatus, event: jobEvent("dev-Ünïcode", "JOB_STATE_DONE"), temporal: errors.New("must not be asked"), status: 200, want: ""},
		"a job whose workflow is closed":    {entryPoint: NameJobStatus, event: jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE"), temporal: overTheWire(serviceerror.NewNotFound("closed")), status: 200, want: "skipped"},
		"a job's status, namespace missing": {entryPoint: NameJobStatus, event: jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE"), temporal: overTheWire(serviceerror.NewNamespaceNotFound("x")), status: 503, want: "undecided"},
		"a job's status, a proxy in between": {
			entryPoint: NameJobStatus, event: jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE"), temporal: proxyNotFound(),
			status: 503, want: "undecided",
		},
		"a job's status, Temporal finds fault": {
			entryPoint: NameJobStatus, event: jobEvent("dev-orders-load-abc-1", "JOB_STATE_DONE"), temporal: serviceerror.NewInvalidArgument("odd"),
			status: 503, want: "undecided",
		},
		"an event that is no job's status": {
			entryPoint: NameJobStatus, event: finalized("orders/a.csv", 1),
			status: 200, want: "dead-lettered", letters: 1, reason: "correct the trigger",
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := setup(t, tt.pipelines...)
			if tt.temporal != nil {
				b.temporal.fail = func(string) error { return tt.temporal }
			}
			b.publishErr = tt.publish
			if tt.noTopic {
				b.settings.deadLetter = ""
			}
			if tt.entryPoint == "" {
				tt.entryPoint = NameStorageTrigger
			}
			w, a := b.post(t, tt.entryPoint, tt.event)
			if w.Code != tt.status || a.outcomes() != tt.want {
				t.Errorf("answered %d, %q; want %d, %q\n%s", w.Code, a.outcomes(), tt.status, tt.want, w.Body)
			}
			if len(b.letters) != tt.letters {
				t.Errorf("%d dead letters, want %d", len(b.letters), tt.letters)
			}
			if !strings.Contains(w.Body.String(), tt.reason) {
				t.Errorf("the answer does not say %q: %s", tt.reason, w.Body)
			}
			if w.Code == 503 && w.Header().Get("Retry-After") == "" {
				t.Error("a 503 without Retry-After")
			}
		})
	}
}

func TestTemporalCannotBeReached(t *testing.T) {
	b := setup(t, ordersFile)
	dials := 0
	b.receiver.temporal = func(context.Context) (temporal, error) {
		dials++
		if dials == 1 {
			return nil, errors.New("connect to Temporal: refused")
		}
		return b.temporal, nil
	}
	if w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1)); w.Code != 503 || !strings.Contains(a.Decisions[0].Reason, "refused") {
		t.Errorf("while Temporal is away: %d %s", w.Code, w.Body)
	}
	if w, _ := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1)); w.Code != 200 {
		t.Errorf("once it is back: %d %s", w.Code, w.Body)
	}
}

func TestOneOfSeveralStartsFails(t *testing.T) {
	b := setup(t, ordersFile, auditFile)
	b.temporal.fail = func(id string) error {
		if strings.HasPrefix(id, "dev/audit/") {
			return serviceerror.NewUnavailable("away")
		}
		return nil
	}
	w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 503 || a.outcomes() != "audit: undecided, orders: started" {
		t.Fatalf("first delivery: %d %s", w.Code, w.Body)
	}
	b.temporal.fail = nil
	w, a = b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 200 || a.outcomes() != "audit: started, orders: duplicate" {
		t.Fatalf("redelivery: %d %s", w.Code, w.Body)
	}
	if len(b.temporal.started) != 2 {
		t.Errorf("%d runs, want one of each pipeline", len(b.temporal.started))
	}
}

func TestMisconfiguredFunctionAnswers503(t *testing.T) {
	env := map[string]string{envDeployment: "Not valid", envLocation: "us-central1"}
	rc := newReceiver(func(name string) string { return env[name] })
	b := setup(t)
	rc.log = b.receiver.log
	b.receiver = rc
	w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
	if w.Code != 503 {
		t.Fatalf("answered %d %s", w.Code, w.Body)
	}
	for _, variable := range []string{envDeployment, envProject} {
		if !strings.Contains(a.Decisions[0].Reason, variable) {
			t.Errorf("%s is wrong, which the answer does not say: %s", variable, a.Decisions[0].Reason)
		}
	}
	if !strings.Contains(b.log.String(), `"severity":"ERROR"`) {
		t.Errorf("no error line: %s", b.log)
	}
}

func TestPanicIsAnsweredAndTheProcessLives(t *testing.T) {
	for name, files := range map[string][]string{"one pipeline": {ordersFile}, "several side by side": {ordersFile, auditFile}} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, files...)
			b.temporal.fail = func(string) error { panic("a bug") }
			w, a := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1))
			if w.Code != 500 || !strings.Contains(a.outcomes(), "orders: crashed") {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			if !strings.Contains(b.log.String(), "stack_trace") {
				t.Errorf("the log does not say where: %s", b.log)
			}
		})
	}
	t.Run("outside of any pipeline", func(t *testing.T) {
		b := setup(t)
		b.open = func() (folder, error) { return brokenFolder{}, nil }
		if w, _ := b.post(t, NameStorageTrigger, finalized("orders/a.csv", 1)); w.Code != 500 {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	})
}

type brokenFolder struct{}

func (brokenFolder) Look() pipeline.Look { panic("a bug") }
