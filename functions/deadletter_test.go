package functions

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"go.temporal.io/api/serviceerror"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

// redeliver makes of a dead letter the delivery that it was.
func redeliver(t *testing.T, m *pubsub.Message) *events.Event {
	t.Helper()
	l, err := deadletters.Read(&pubsubpb.PubsubMessage{Data: m.Data, Attributes: m.Attributes})
	if err != nil {
		t.Fatalf("the dead letter cannot be read: %v", err)
	}
	e, err := events.DecodeBytes(l.Header, l.Body, l.Topic)
	if err != nil {
		t.Fatalf("the dead letter does not decode: %v", err)
	}
	return e
}

func TestDeadLetterIsTheWholeDelivery(t *testing.T) {
	longName := "orders/" + strings.Repeat("ü", 500)
	withLongID := finalized("orders/a.csv", 1)
	withLongID.Header.Set("Ce-Traceparent", strings.Repeat("x", 1025))
	tests := map[string]struct {
		entryPoint string
		event      *http.Request
		pipeline   string
		identity   string
	}{
		"a CloudEvent in binary mode": {NameStorageTrigger, finalized("orders/a.csv", 1), "orders", "finalized:landing/orders/a.csv#1"},
		"a plain push":                {NamePubSubTrigger, approval("17"), "approvals", "pubsub:projects/penstock-dev/topics/approvals#7"},
		"an object name so long that the identity does not fit into one attribute": {NameStorageTrigger, finalized(longName, 1), "orders", "finalized:landing/" + longName + "#1"},
		"a header that does not fit into an attribute":                             {NameStorageTrigger, withLongID, "orders", "finalized:landing/orders/a.csv#1"},
		"hostile bytes in the name":                                                {NameStorageTrigger, finalized("orders/../${x} {{y}} \"q\", %2F\u202e", 1), "orders", "finalized:landing/orders/../${x} {{y}} \"q\", %2F\u202e#1"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := setup(t, ordersFile, approvalsFile)
			b.temporal.fail = func(string) error { return serviceerror.NewInvalidArgument("not like this") }
			if w, _ := b.post(t, tt.entryPoint, tt.event); w.Code != 200 || len(b.letters) != 1 {
				t.Fatalf("%d dead letters, answered %d %s", len(b.letters), w.Code, w.Body)
			}
			m := b.letters[0]
			for attr, value := range m.Attributes {
				if len(attr) > deadletters.MaxAttributeKey || len(value) > deadletters.MaxAttributeValue || value == "" {
					t.Errorf("Pub/Sub does not take the attribute %q with %d bytes", attr, len(value))
				}
			}
			identity := m.Attributes[deadletters.AttrIdentity] + m.Attributes[deadletters.AttrIdentity+"-2"]
			if identity != tt.identity || m.Attributes[deadletters.AttrPipeline] != tt.pipeline || m.Attributes[deadletters.AttrEntryPoint] != tt.entryPoint || !strings.Contains(m.Attributes[deadletters.AttrReason], "not like this") {
				t.Errorf("attributes %q", m.Attributes)
			}
			if got := redeliver(t, m).Identity(); got != tt.identity {
				t.Errorf("redelivered, it is %q", got)
			}
		})
	}
}

func TestDeadLetterOfAnUndecodableEventIsItsBytes(t *testing.T) {
	b := setup(t, ordersFile)
	const body = "{\"bucket\": \xff\x00"
	r := cloudEvent("google.cloud.storage.object.v1.finalized", "//storage.googleapis.com/projects/_/buckets/landing", "1", body)
	b.post(t, NameStorageTrigger, r)
	if len(b.letters) != 1 || string(b.letters[0].Data) != body || b.letters[0].Attributes["ce-type"] == "" || b.letters[0].Attributes[deadletters.AttrReason] == "" {
		t.Errorf("dead letters: %+v", b.letters)
	}
}

// The publisher against the Pub/Sub server that Google's own tests use.
func TestPublisher(t *testing.T) {
	server := pstest.NewServer()
	t.Cleanup(func() { _ = server.Close() })
	t.Setenv("PUBSUB_EMULATOR_HOST", server.Addr)
	const topic = "projects/other-project/topics/dead"
	p := &publisher{topic: topic}
	t.Cleanup(p.stop)
	ctx, cancel := context.WithTimeout(t.Context(), eventTimeout)
	defer cancel()
	message := &pubsub.Message{Data: []byte("x"), Attributes: map[string]string{deadletters.AttrReason: "r"}}
	if err := p.publish(ctx, message); err == nil {
		t.Error("published to a topic that does not exist")
	}
	if _, err := server.GServer.CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if err := p.publish(ctx, message); err != nil {
		t.Fatal(err)
	}
	got := server.Messages()
	if len(got) != 1 || string(got[0].Data) != "x" || got[0].Attributes[deadletters.AttrReason] != "r" {
		t.Errorf("published %+v", got)
	}
}

// What other pipelines have made of the event of a dead letter may be forgotten by now.
func TestARedeliveryIsForThePipelineOfTheDeadLetter(t *testing.T) {
	for name, tt := range map[string]struct {
		only, decides string
	}{
		"one of two that want it":      {"audit", "audit: started"},
		"one that does not want it":    {"returns", "returns: skipped"},
		"no delivery of a dead letter": {"", "audit: started, orders: started"},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, ordersFile, auditFile)
			r := finalized("orders/a.csv", 1)
			if tt.only != "" {
				r.Header.Set(deadletters.HeaderPipeline, tt.only)
			}
			w, a := b.post(t, NameStorageTrigger, r)
			if w.Code != http.StatusOK || a.outcomes() != tt.decides {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
			// By it penstock dlq redrive tells that nobody took the event.
			if a.Decisions[0].Outcome == Skipped && a.Decisions[0].Reason != deadletters.ReasonUnwanted {
				t.Errorf("the reason is %q", a.Decisions[0].Reason)
			}
		})
	}
}

// A redelivery says which event it was. Were it read as another, it could run a pipeline twice.
func TestARedeliveryUnderAnotherIdentityIsRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		says   string
		status int
	}{
		"the same event":   {url.PathEscape("finalized:landing/orders/ü b.csv#1"), http.StatusOK},
		"another event":    {url.PathEscape("finalized:landing/orders/ü b.csv#2"), http.StatusConflict},
		"nothing about it": {"", http.StatusOK},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t, ordersFile)
			r := finalized("orders/ü b.csv", 1)
			if tt.says != "" {
				r.Header.Set(deadletters.HeaderIdentity, tt.says)
			}
			w, a := b.post(t, NameStorageTrigger, r)
			if w.Code != tt.status || len(a.Decisions) != 1 || len(b.letters) != 0 || (len(b.temporal.started) == 1) != (tt.status == http.StatusOK) {
				t.Errorf("answered %d %s, %d started", w.Code, w.Body, len(b.temporal.started))
			}
		})
	}
}

// While a file is unusable each event comes again. Each delivery of one that is poison would leave another dead letter.
func TestNoDeadLetterWhileAFileIsUnusable(t *testing.T) {
	b := setup(t, approvalsFile, badFile)
	poison := func() *http.Request { return push("projects/penstock-dev/topics/approvals", "7", nil, nil) }
	for range 2 {
		w, a := b.post(t, NamePubSubTrigger, poison())
		if w.Code != http.StatusServiceUnavailable || a.outcomes() != "approvals: undecided" || !strings.Contains(a.Decisions[0].Reason, "order") || len(b.letters) != 0 {
			t.Errorf("%d dead letters, answered %d %s", len(b.letters), w.Code, w.Body)
		}
	}
	b.write(t, "p1.yaml", auditFile)
	if w, a := b.post(t, NamePubSubTrigger, poison()); w.Code != http.StatusOK || a.outcomes() != "approvals: dead-lettered" || len(b.letters) != 1 {
		t.Errorf("once the file is corrected: %d dead letters, answered %d %s", len(b.letters), w.Code, w.Body)
	}
}

// What another pipeline has not decided brings the event again, and each delivery would leave one more dead letter.
func TestADeadLetterWaitsForTheOtherPipelines(t *testing.T) {
	const returns = "name: returns\npurpose: Take returns.\nowner: me@example.com\non:\n  - storage: {bucket: landing, object: \"orders/**\"}\nworkflow: {type: Returns, taskQueue: returns}\n"
	event := func() *http.Request { return finalized("orders/a.csv", 1) }
	refuse, away := serviceerror.NewInvalidArgument("not like this"), serviceerror.NewUnavailable("away")
	b := setup(t, ordersFile, auditFile, returns)
	fails := map[string]error{"audit": refuse, "orders": away, "returns": refuse}
	b.temporal.fail = func(id string) error { return fails[strings.Split(id, "/")[1]] }
	for range 2 {
		w, a := b.post(t, NameStorageTrigger, event())
		if w.Code != http.StatusServiceUnavailable || a.outcomes() != "audit: undecided, orders: undecided, returns: undecided" || len(b.letters) != 0 {
			t.Errorf("%d dead letters, answered %d %s", len(b.letters), w.Code, w.Body)
		}
		if reason := a.Decisions[0].Reason; !strings.Contains(reason, "not like this") || !strings.Contains(reason, "once every other pipeline") {
			t.Errorf("the reason is %q", reason)
		}
	}
	fails["orders"] = nil
	b.publishErr = errors.New("topic is away")
	if w, a := b.post(t, NameStorageTrigger, event()); w.Code != http.StatusServiceUnavailable || a.outcomes() != "audit: undecided, orders: started, returns: undecided" {
		t.Errorf("without the dead-letter topic: answered %d %s", w.Code, w.Body)
	}
	b.publishErr = nil
	if w, a := b.post(t, NameStorageTrigger, event()); w.Code != http.StatusOK || a.outcomes() != "audit: dead-lettered, orders: duplicate, returns: dead-lettered" || len(b.letters) != 2 {
		t.Errorf("once the other has decided: %d dead letters, answered %d %s", len(b.letters), w.Code, w.Body)
	}
}

func TestOnlyWhatExpressionsMakeOfAnEventIsPoison(t *testing.T) {
	for name, tt := range map[string]struct {
		err     error
		want    Outcome
		letters int
	}{
		"an expression fails on the event": {fmt.Errorf("plan: %w", &pipeline.EvalError{Expression: "event.data.a", Err: errors.New("no such key")}), DeadLettered, 1},
		"the time ran out":                 {fmt.Errorf("evaluate event.data.a: %w", context.DeadlineExceeded), Undecided, 0},
		"the machine's":                    {errors.New("out of memory"), Undecided, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			d := &delivery{request: request{entryPoint: NameStorageTrigger}}
			got := b.unevaluated(d, Decision{Pipeline: "orders"}, tt.err)
			decided := []Decision{got}
			b.keep(t.Context(), decided)
			if got = decided[0]; got.Outcome != tt.want || got.Pipeline != "orders" || !strings.Contains(got.Reason, tt.err.Error()) || len(b.letters) != tt.letters {
				t.Errorf("%d dead letters, decided %+v", len(b.letters), got)
			}
		})
	}
}
