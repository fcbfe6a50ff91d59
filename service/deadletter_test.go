package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

const (
	deadTopic = "projects/p/topics/dead"
	deadSub   = "projects/p/subscriptions/dead"
	itemTopic = "projects/p/topics/items"
	itemSub   = "projects/p/subscriptions/items"
)

// letterBench is a dead-letter topic at the server that Google's own tests use, and functions that answer as a test says.
type letterBench struct {
	*DeadLetters
	server *pstest.Server

	mu     sync.Mutex
	answer func(path string, e *events.Event) (status int, body string)
	got    []string // "path identity" of what was delivered, and "for pipeline" where it was for one alone
}

func newLetterBench(t *testing.T) *letterBench {
	t.Helper()
	b := &letterBench{server: pstest.NewServer(), answer: func(string, *events.Event) (int, string) {
		return http.StatusOK, `{"decisions":[{"pipeline":"orders","decision":"started","runId":"prod/orders/k"}]}`
	}}
	t.Cleanup(func() { _ = b.server.Close() })
	for topic, sub := range map[string]string{deadTopic: deadSub, itemTopic: itemSub} {
		if _, err := b.server.GServer.CreateTopic(t.Context(), &pubsubpb.Topic{Name: topic}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.server.GServer.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: sub, Topic: topic, AckDeadlineSeconds: 600}); err != nil {
			t.Fatal(err)
		}
	}
	functions := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		e, err := events.DecodeBytes(r.Header, body, r.URL.Query().Get("topic"))
		b.mu.Lock()
		defer b.mu.Unlock()
		identity := "no event"
		if err == nil {
			identity = e.Identity()
		}
		if only := r.Header.Get(deadletters.HeaderPipeline); only != "" {
			identity += " for " + only
		}
		b.got = append(b.got, r.URL.Path+" "+identity)
		status, text := b.answer(r.URL.Path, e)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(functions.Close)
	b.DeadLetters = &DeadLetters{Queue: b.open(t), FunctionsURL: functions.URL, Pipelines: pipeline.NewSet(nil)}
	return b
}

func (b *letterBench) open(t *testing.T) *deadletters.Queue {
	t.Helper()
	q, err := deadletters.Open(t.Context(), deadSub, option.WithEndpoint(b.server.Addr), option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	if err != nil {
		t.Fatal(err)
	}
	q.Quiet = 500 * time.Millisecond // enough for a busy machine to give what there is
	t.Cleanup(func() {
		if err := q.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return q
}

// bury publishes a message to the dead-letter topic and gives its ID.
func (b *letterBench) bury(m *pubsub.Message) string {
	return b.server.Publish(deadTopic, m.Data, m.Attributes)
}

func letterOf(object string) *pubsub.Message {
	l := deadletters.Letter{
		Reason: "no such field", Identity: "finalized:landing/" + object + "#7", Pipeline: "orders", EntryPoint: "StorageTrigger",
		Header: http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Type": {"google.cloud.storage.object.v1.finalized"},
			"Ce-Source": {"//storage.googleapis.com/projects/_/buckets/landing"}, "Content-Type": {"application/json"}},
		Body: []byte(`{"bucket":"landing","name":"` + object + `","generation":"7"}`),
	}
	return l.Message()
}

// forwardedItem is what Pub/Sub makes of a message of the topic items that nobody acknowledged.
func forwardedItem(subscription, project string) *pubsub.Message {
	return &pubsub.Message{Data: []byte(`{"order":17}`), Attributes: map[string]string{
		"colour": "red", "CloudPubSubDeadLetterSourceSubscription": subscription, "CloudPubSubDeadLetterSourceSubscriptionProject": project,
		"CloudPubSubDeadLetterSourceDeliveryCount": "5", "CloudPubSubDeadLetterSourceTopicPublishTime": "2026-11-22T10:00:00Z",
	}}
}

func (b *letterBench) left(t *testing.T) []string {
	t.Helper()
	listing, err := b.List(t.Context(), LetterFilter{})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, l := range listing.DeadLetters {
		ids = append(ids, l.ID)
	}
	return ids
}

func TestToLookAtDeadLettersTakesNoneAway(t *testing.T) {
	b := newLetterBench(t)
	a, c := b.bury(letterOf("a")), b.bury(letterOf("c"))
	for range 2 {
		listing, err := b.List(t.Context(), LetterFilter{})
		if err != nil || len(listing.DeadLetters) != 2 || listing.More {
			t.Fatalf("listed %+v (%v)", listing, err)
		}
		if l := listing.DeadLetters[0]; l.ID != a || l.Reason != "no such field" || l.Identity != "finalized:landing/a#7" || l.Pipeline != "orders" || l.EntryPoint != "StorageTrigger" || l.Published.IsZero() {
			t.Errorf("listed %+v", l)
		}
	}
	shown, err := b.Show(t.Context(), c)
	if err != nil || shown.Body != `{"bucket":"landing","name":"c","generation":"7"}` || shown.Header.Get("Ce-Id") != "1" {
		t.Errorf("shown %+v (%v)", shown, err)
	}
	if _, err := b.Show(t.Context(), "no-such"); !errors.Is(err, ErrNoLetter) {
		t.Errorf("one that there is not: %v", err)
	}
	if listing, err := b.List(t.Context(), LetterFilter{Limit: 1}); err != nil || len(listing.DeadLetters) != 1 || !listing.More {
		t.Errorf("with a limit: %+v (%v)", listing, err)
	}
	if listing, err := b.List(t.Context(), LetterFilter{Pipeline: "other"}); err != nil || len(listing.DeadLetters) != 0 {
		t.Errorf("of another pipeline: %+v (%v)", listing, err)
	}
	if left := b.left(t); len(left) != 2 {
		t.Errorf("left: %v", left)
	}
}

func TestWhatOneReadsAnotherDoesNotRedrive(t *testing.T) {
	b := newLetterBench(t)
	id := b.bury(letterOf("a"))
	other := b.open(t)
	held, err := other.Receive(t.Context(), 10)
	if err != nil || len(held) != 1 {
		t.Fatalf("%d letters (%v)", len(held), err)
	}
	if redriven, err := b.Redrive(t.Context(), RedriveRequest{IDs: []string{id}}); !errors.Is(err, ErrNoLetter) || len(redriven) != 0 || len(b.got) != 0 {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
	if err := other.Release(t.Context(), held...); err != nil {
		t.Fatal(err)
	}
	if redriven, err := b.Redrive(t.Context(), RedriveRequest{IDs: []string{id}}); err != nil || len(redriven) != 1 || !redriven[0].Delivered {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
}

func TestRedriveDeliversAsItCameAndAcknowledgesAfterwards(t *testing.T) {
	b := newLetterBench(t)
	b.bury(letterOf("a"))
	redriven, err := b.Redrive(t.Context(), RedriveRequest{})
	if err != nil || len(redriven) != 1 || !redriven[0].Delivered || redriven[0].Status != 200 || len(redriven[0].Decisions) != 1 || redriven[0].Decisions[0].RunID != "prod/orders/k" {
		t.Fatalf("redriven %+v (%v)", redriven, err)
	}
	if want := []string{"/StorageTrigger finalized:landing/a#7 for orders"}; !slices.Equal(b.got, want) {
		t.Errorf("delivered %q, want %q", b.got, want)
	}
	if m := b.server.Messages(); len(m) != 1 || m[0].Acks != 1 {
		t.Errorf("it was not acknowledged: %+v", m)
	}
	if redriven, err := b.Redrive(t.Context(), RedriveRequest{}); err != nil || len(redriven) != 0 || len(b.got) != 1 {
		t.Errorf("once more: %+v (%v), delivered %q", redriven, err, b.got)
	}
}

// What is not certainly with a function stays a dead letter.
func TestRedriveKeepsWhatWasNotTaken(t *testing.T) {
	said := func(status int, body string) func(string, *events.Event) (int, string) {
		return func(string, *events.Event) (int, string) { return status, body }
	}
	tests := map[string]struct {
		answer func(string, *events.Event) (int, string)
		want   string
		tried  int // of two
	}{
		"an outage":                     {said(503, `{"decisions":[{"pipeline":"orders","decision":"undecided","reason":"Temporal is away"}]}`), "orders: Temporal is away", 2},
		"a file without usable version": {said(503, `{"decisions":[],"error":"orders.yaml is invalid"}`), "orders.yaml is invalid", 2},
		"a token is missing":            {said(403, "forbidden"), "PENSTOCK_FUNCTIONS_TOKEN", 1},
		"somebody else's 200":           {said(200, "<html>It works!</html>"), "not as Penstock's functions do", 1},
		"another program's JSON":        {said(200, `{"status":"ok"}`), "not as Penstock's functions do", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newLetterBench(t)
			b.answer = tt.answer
			b.bury(letterOf("a"))
			b.bury(letterOf("c"))
			redriven, err := b.Redrive(t.Context(), RedriveRequest{})
			if (err != nil) != (tt.tried == 1) || len(redriven) != tt.tried || len(b.got) != tt.tried || redriven[0].Delivered || !strings.Contains(redriven[0].Error, tt.want) {
				t.Errorf("redriven %+v (%v)", redriven, err)
			}
			if left := b.left(t); len(left) != 2 {
				t.Errorf("left: %v, want both", left)
			}
		})
	}
}

func TestRedriveOfFunctionsThatAreAway(t *testing.T) {
	b := newLetterBench(t)
	b.FunctionsURL = "http://127.0.0.1:1"
	b.bury(letterOf("a"))
	if redriven, err := b.Redrive(t.Context(), RedriveRequest{}); err == nil || len(redriven) != 1 || redriven[0].Delivered {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
	b.FunctionsURL = ""
	if _, err := b.Redrive(t.Context(), RedriveRequest{}); err == nil || !strings.Contains(err.Error(), "PENSTOCK_FUNCTIONS_URL") {
		t.Errorf("without their URL: %v", err)
	}
	if left := b.left(t); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}

// An event that is poison still becomes a dead letter anew; the same redrive does not go round with it.
func TestRedriveOfWhatIsStillPoisonEnds(t *testing.T) {
	b := newLetterBench(t)
	b.answer = func(string, *events.Event) (int, string) {
		b.bury(letterOf("a"))
		return 200, `{"decisions":[{"pipeline":"orders","decision":"dead-lettered","reason":"no such field"}]}`
	}
	b.bury(letterOf("a"))
	redriven, err := b.Redrive(t.Context(), RedriveRequest{})
	if err != nil || len(redriven) != 1 || !redriven[0].Delivered || redriven[0].Decisions[0].Decision != "dead-lettered" {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
	if left := b.left(t); len(left) != 1 || left[0] == redriven[0].ID {
		t.Errorf("left: %v, want the new one", left)
	}
}

func TestRedriveOfALetterThatReadsAsAnotherEvent(t *testing.T) {
	b := newLetterBench(t)
	m := letterOf("a")
	m.Attributes[deadletters.AttrIdentity] = "finalized:landing/b#7"
	b.bury(m)
	if redriven, err := b.Redrive(t.Context(), RedriveRequest{Force: true}); err != nil || len(redriven) != 1 || redriven[0].Delivered || len(b.got) != 0 {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
}

func TestRedriveOfWhatNeverDecoded(t *testing.T) {
	b := newLetterBench(t)
	l := deadletters.Letter{Reason: "not JSON", EntryPoint: "EventTrigger", Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte("hello")}
	b.bury(l.Message())
	if redriven, err := b.Redrive(t.Context(), RedriveRequest{}); err != nil || len(redriven) != 1 || !redriven[0].Delivered {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
}

// What Pub/Sub forwards is a new message: the ID of the old one, by which a run of it would be known, is lost.
func TestRedriveOfWhatPubSubForwarded(t *testing.T) {
	file := func(more, key string) string {
		return fmt.Sprintf("name: items\npurpose: Take items.\nowner: me@example.com\non:\n  - pubsub: {topic: items%s}\n%ssteps:\n  - name: only\n    dataflow: {template: gs://templates/t.json}\n", more, key)
	}
	notification := forwardedItem("items", "p")
	notification.Data = []byte(`{"kind":"storage#object","bucket":"landing","name":"a","generation":"7"}`)
	for name, value := range map[string]string{"eventType": "OBJECT_FINALIZE", "bucketId": "landing", "objectId": "a", "objectGeneration": "7", "payloadFormat": "JSON_API_V1"} {
		notification.Attributes[name] = value
	}
	cloudEvent := letterOf("a")
	for name := range cloudEvent.Attributes {
		if strings.HasPrefix(name, "penstock-") {
			delete(cloudEvent.Attributes, name)
		}
	}
	cloudEvent.Attributes["CloudPubSubDeadLetterSourceSubscription"] = "eventarc-1"
	tests := map[string]struct {
		message *pubsub.Message
		file    string
		ask     RedriveRequest
		want    string // what is delivered, with the letter's ID as %s; or
		refused string
	}{
		"a message whose key is its ID":               {forwardedItem("items", "p"), file("", ""), RedriveRequest{}, "", "payload key"},
		"a message with an id of its payload":         {forwardedItem("items", "p"), file(", id: string(event.data.order)", ""), RedriveRequest{}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a run with a key of its payload":             {forwardedItem("items", "p"), file("", "key: ${event.data.order}\n"), RedriveRequest{}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a message whose key is its ID, with --force": {forwardedItem("items", "p"), file("", ""), RedriveRequest{Force: true}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a subscription that is gone":                 {forwardedItem("gone", "p"), file(", id: string(event.data.order)", ""), RedriveRequest{}, "", "--topic"},
		"a subscription that is gone, with --topic":   {forwardedItem("gone", "p"), file(", id: string(event.data.order)", ""), RedriveRequest{Topic: itemTopic}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a notification of an object's change":        {notification, file("", ""), RedriveRequest{}, "/PubSubTrigger finalized:landing/a#7", ""},
		"a CloudEvent":                                {cloudEvent, file("", ""), RedriveRequest{}, "/EventTrigger finalized:landing/a#7", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newLetterBench(t)
			p, problems := pipeline.Parse("items.yaml", []byte(tt.file))
			if problems.HasErrors() {
				t.Fatal(problems)
			}
			b.Pipelines = pipeline.NewSet([]*pipeline.Pipeline{p})
			id := b.bury(tt.message)
			if listing, err := b.List(t.Context(), LetterFilter{}); err != nil || len(listing.DeadLetters) != 1 || listing.DeadLetters[0].Forwarded == nil || listing.DeadLetters[0].Identity != "" {
				t.Fatalf("listed %+v (%v)", listing, err)
			}
			redriven, err := b.Redrive(t.Context(), tt.ask)
			if err != nil || len(redriven) != 1 {
				t.Fatalf("redriven %+v (%v)", redriven, err)
			}
			if tt.refused != "" {
				if redriven[0].Delivered || len(b.got) != 0 || !strings.Contains(redriven[0].Error, tt.refused) {
					t.Errorf("redriven %+v, want it refused with %q", redriven, tt.refused)
				}
				return
			}
			want := strings.Replace(tt.want, "%s", id, 1)
			if !redriven[0].Delivered || !slices.Equal(b.got, []string{want}) {
				t.Errorf("delivered %q: %+v; want %s", b.got, redriven, want)
			}
		})
	}
}
