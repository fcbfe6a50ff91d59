package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"weak"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"
	"cloud.google.com/go/pubsub/v2/pstest"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

const (
	deadTopic = "projects/p/topics/dead"
	deadSub   = "projects/p/subscriptions/dead"
	itemTopic = "projects/p/topics/items"
	itemSub   = "projects/p/subscriptions/items"
	pushSub   = "projects/p/subscriptions/pushed"
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
	if _, err := b.server.GServer.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: pushSub, Topic: itemTopic, AckDeadlineSeconds: 600, PushConfig: &pubsubpb.PushConfig{PushEndpoint: "https://functions.example.com/PubSubTrigger?topic=" + itemTopic},
	}); err != nil {
		t.Fatal(err)
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

func (b *letterBench) open(t *testing.T, options ...option.ClientOption) *deadletters.Queue {
	t.Helper()
	options = append(options, option.WithEndpoint(b.server.Addr), option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	q, err := deadletters.Open(t.Context(), deadSub, options...)
	if err != nil {
		t.Fatal(err)
	}
	q.Quiet = time.Second // enough for a busy machine to give what there is; the server says after half of it that there is none
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
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{IDs: []string{id}}); !errors.Is(err, ErrNoLetter) || len(redriven) != 0 || len(b.got) != 0 {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
	if err := other.Release(t.Context(), held...); err != nil {
		t.Fatal(err)
	}
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{IDs: []string{id}}); err != nil || len(redriven) != 1 || !redriven[0].Delivered {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
}

func TestRedriveDeliversAsItCameAndAcknowledgesAfterwards(t *testing.T) {
	b := newLetterBench(t)
	b.bury(letterOf("a"))
	redriven, _, err := b.Redrive(t.Context(), RedriveRequest{})
	if err != nil || len(redriven) != 1 || !redriven[0].Delivered || redriven[0].Status != 200 || len(redriven[0].Decisions) != 1 || redriven[0].Decisions[0].RunID != "prod/orders/k" {
		t.Fatalf("redriven %+v (%v)", redriven, err)
	}
	if want := []string{"/StorageTrigger finalized:landing/a#7 for orders"}; !slices.Equal(b.got, want) {
		t.Errorf("delivered %q, want %q", b.got, want)
	}
	if m := b.server.Messages(); len(m) != 1 || m[0].Acks != 1 {
		t.Errorf("it was not acknowledged: %+v", m)
	}
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{}); err != nil || len(redriven) != 0 || len(b.got) != 1 {
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
			redriven, _, err := b.Redrive(t.Context(), RedriveRequest{})
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
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{}); err == nil || len(redriven) != 1 || redriven[0].Delivered {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
	b.FunctionsURL = ""
	if _, _, err := b.Redrive(t.Context(), RedriveRequest{}); err == nil || !strings.Contains(err.Error(), "PENSTOCK_FUNCTIONS_URL") {
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
	redriven, _, err := b.Redrive(t.Context(), RedriveRequest{})
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
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{Force: true}); err != nil || len(redriven) != 1 || redriven[0].Delivered || len(b.got) != 0 {
		t.Errorf("redriven %+v (%v)", redriven, err)
	}
}

func TestRedriveOfWhatNeverDecoded(t *testing.T) {
	b := newLetterBench(t)
	l := deadletters.Letter{Reason: "not JSON", EntryPoint: "EventTrigger", Header: http.Header{"Content-Type": {"text/plain"}}, Body: []byte("hello")}
	b.bury(l.Message())
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{}); err != nil || len(redriven) != 1 || !redriven[0].Delivered {
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
	disguised := forwardedItem("items", "p")
	disguised.Attributes[deadletters.AttrReason], disguised.Attributes[deadletters.AttrEntryPoint], disguised.Attributes[deadletters.AttrPipeline] = "r", "../../x", "orders"
	pushed := forwardedItem("pushed", "p")
	for name, value := range map[string]string{"ce-specversion": "1.0", "ce-id": "1", "ce-type": "com.example.order", "ce-source": "/shop"} {
		pushed.Attributes[name] = value
	}
	pulled := forwardedItem("items", "p")
	pulled.Attributes = maps.Clone(pushed.Attributes)
	pulled.Attributes["CloudPubSubDeadLetterSourceSubscription"] = "items"
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
		"a message that no pipeline here wants":       {forwardedItem("items", "p"), strings.Replace(file("", "key: ${event.data.order}\n"), "topic: items", "topic: others", 1), RedriveRequest{}, "", "--pipelines"},
		"one that no pipeline here wants, --force":    {forwardedItem("items", "p"), strings.Replace(file("", ""), "topic: items", "topic: others", 1), RedriveRequest{Force: true}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a publisher's attributes like a function's":  {disguised, file(", id: string(event.data.order)", ""), RedriveRequest{}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a subscription that is gone":                 {forwardedItem("gone", "p"), file(", id: string(event.data.order)", ""), RedriveRequest{}, "", "--topic"},
		"a subscription that is gone, with --topic":   {forwardedItem("gone", "p"), file(", id: string(event.data.order)", ""), RedriveRequest{Topic: itemTopic}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a CloudEvent's attributes on a plain push":   {pushed, file(", id: string(event.data.order)", ""), RedriveRequest{}, "/PubSubTrigger pubsub:" + itemTopic + "#%s", ""},
		"a CloudEvent's attributes, on no such push":  {pulled, file(", id: string(event.data.order)", ""), RedriveRequest{}, "/EventTrigger event:/shop#1", ""},
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
			redriven, _, err := b.Redrive(t.Context(), tt.ask)
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

// The letter's pipeline may have been renamed since, or its trigger changed. What other pipelines say is not about it.
func TestRedriveForAPipelineThatDoesNotWantTheEvent(t *testing.T) {
	const unwanted = `{"decisions":[{"pipeline":"orders","decision":"skipped","reason":"` + deadletters.ReasonUnwanted + `"}]}`
	const alone, all = "/StorageTrigger finalized:landing/a#7 for orders", "/StorageTrigger finalized:landing/a#7"
	for name, tt := range map[string]struct {
		answer    string
		force     bool
		delivered bool
		got       []string
	}{
		"it does not want it":                      {unwanted, false, false, []string{alone}},
		"it is not mentioned":                      {`{"decisions":[{"pipeline":"audit","decision":"started"}]}`, false, false, []string{alone}},
		"nothing is decided":                       {`{"decisions":[]}`, false, false, []string{alone}},
		"its when is false":                        {`{"decisions":[{"pipeline":"orders","decision":"skipped","reason":"when is false: event.size > 1"}]}`, false, true, []string{alone}},
		"it decodes no more, and is a letter anew": {`{"decisions":[{"decision":"dead-lettered","reason":"odd"}]}`, false, true, []string{alone}},
		"it does not want it, with --force":        {unwanted, true, true, []string{alone, all}},
		"it does, with --force":                    {`{"decisions":[{"pipeline":"orders","decision":"started"}]}`, true, true, []string{alone}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newLetterBench(t)
			b.answer = func(string, *events.Event) (int, string) {
				if len(b.got) == 2 { // to all, of which none wants it
					return 200, `{"decisions":[]}`
				}
				return 200, tt.answer
			}
			b.bury(letterOf("a"))
			redriven, _, err := b.Redrive(t.Context(), RedriveRequest{LetterFilter: LetterFilter{Limit: 1}, Force: tt.force})
			if err != nil || len(redriven) != 1 || redriven[0].Delivered != tt.delivered || !slices.Equal(b.got, tt.got) {
				t.Errorf("redriven %+v (%v), delivered %q", redriven, err, b.got)
			}
			if acks := b.server.Messages()[0].Acks; (acks == 1) != tt.delivered {
				t.Errorf("it was acknowledged %d times", acks)
			}
			if !tt.delivered && !strings.Contains(redriven[0].Error, "--force") {
				t.Errorf("it does not say what to try: %s", redriven[0].Error)
			}
		})
	}
}

// Of an event that no pipeline had, no pipeline may want any: that is nobody's decision about it.
func TestRedriveOfWhatNoPipelineWants(t *testing.T) {
	own := letterOf("a")
	delete(own.Attributes, deadletters.AttrPipeline)
	forwarded := letterOf("a")
	for name := range forwarded.Attributes {
		if strings.HasPrefix(name, "penstock-") {
			delete(forwarded.Attributes, name)
		}
	}
	status := letterOf("a")
	delete(status.Attributes, deadletters.AttrPipeline)
	status.Attributes[deadletters.AttrEntryPoint] = "JobStatus"
	for name, tt := range map[string]struct {
		message   *pubsub.Message
		force     bool
		delivered bool
	}{
		"of a function":                       {own, false, false},
		"of a function, with --force":         {own, true, true},
		"forwarded by Pub/Sub":                {forwarded, false, false},
		"forwarded, with --force":             {forwarded, true, true},
		"the state of a job that is no run's": {status, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			b := newLetterBench(t)
			b.answer = func(string, *events.Event) (int, string) { return 200, `{"decisions":[]}` }
			b.bury(tt.message)
			redriven, _, err := b.Redrive(t.Context(), RedriveRequest{LetterFilter: LetterFilter{Limit: 1}, Force: tt.force})
			if err != nil || len(redriven) != 1 || redriven[0].Delivered != tt.delivered || len(b.got) != 1 {
				t.Fatalf("redriven %+v (%v), delivered %q", redriven, err, b.got)
			}
			if acks := b.server.Messages()[0].Acks; (acks == 1) != tt.delivered {
				t.Errorf("it was acknowledged %d times", acks)
			}
			if !tt.delivered && !strings.Contains(redriven[0].Error, "--force") {
				t.Errorf("it does not say what to try: %s", redriven[0].Error)
			}
		})
	}
}

// Such a push is a dead letter for want of its topic, and has its message ID.
func TestRedriveOfAPushWhoseEndpointNamedNoTopic(t *testing.T) {
	push := deadletters.Letter{
		Reason: "a push does not name its topic", EntryPoint: "PubSubTrigger", Header: http.Header{"Content-Type": {"application/json"}},
		Body: []byte(`{"message":{"messageId":"5","data":"eA=="}}`),
	}
	text := push
	text.Body = []byte("hello")
	status := push
	status.EntryPoint = "JobStatus"
	for name, tt := range map[string]struct {
		letter deadletters.Letter
		topic  string
		want   string
	}{
		"with --topic":             {push, itemTopic, "/PubSubTrigger pubsub:" + itemTopic + "#5"},
		"without it":               {push, "", "/PubSubTrigger no event"},
		"one that is no push":      {text, itemTopic, "/PubSubTrigger no event"},
		"one that JobStatus takes": {status, itemTopic, "/JobStatus no event"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newLetterBench(t)
			b.bury(tt.letter.Message())
			redriven, _, err := b.Redrive(t.Context(), RedriveRequest{LetterFilter: LetterFilter{Limit: 1}, Topic: tt.topic})
			if err != nil || len(redriven) != 1 || !redriven[0].Delivered || !slices.Equal(b.got, []string{tt.want}) {
				t.Errorf("redriven %+v (%v), delivered %q; want %s", redriven, err, b.got, tt.want)
			}
		})
	}
}

// pulls has do called in place of each pull.
func pulls(do func(ctx context.Context, q *pubsubpb.PullRequest, answer *pubsubpb.PullResponse, pull func() error) error) option.ClientOption {
	return option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		call := func() error { return invoke(ctx, method, req, reply, cc, options...) }
		if q, ok := req.(*pubsubpb.PullRequest); ok {
			return do(ctx, q, reply.(*pubsubpb.PullResponse), call)
		}
		return call()
	}))
}

func TestASlowAnswerIsNotTakenForNone(t *testing.T) {
	b := newLetterBench(t)
	for i := range 3 {
		b.bury(letterOf(fmt.Sprint(i)))
	}
	asked := 0
	q := b.open(t, pulls(func(ctx context.Context, q *pubsubpb.PullRequest, _ *pubsubpb.PullResponse, pull func() error) error {
		if asked++; asked == 1 {
			<-ctx.Done()
			return status.FromContextError(ctx.Err()).Err()
		}
		return pull()
	}))
	q.Quiet = 200 * time.Millisecond
	if got, err := q.Receive(t.Context(), 3); err != nil || len(got) != 3 {
		t.Errorf("%d letters (%v), want all", len(got), err)
	}
}

// What never answers is asked once more, and no oftener.
func TestASubscriptionThatNeverAnswersIsGivenUp(t *testing.T) {
	b := newLetterBench(t)
	var asked []int32
	q := b.open(t, pulls(func(ctx context.Context, q *pubsubpb.PullRequest, _ *pubsubpb.PullResponse, _ func() error) error {
		asked = append(asked, q.GetMaxMessages())
		<-ctx.Done()
		return status.FromContextError(ctx.Err()).Err()
	}))
	q.Quiet = 10 * time.Millisecond
	if got, err := q.Receive(t.Context(), 50); err != nil || len(got) != 0 || !slices.Equal(asked, []int32{50, 1}) {
		t.Errorf("%d letters (%v), asked for %v", len(got), err, asked)
	}
}

// A letter that no request can be made of is not the functions' fault: the others are tried.
func TestRedriveOfALetterThatCannotBeDelivered(t *testing.T) {
	header := letterOf("a")
	header.Attributes["ce-subject"] = "a\nb"
	named := letterOf("a")
	named.Attributes["ce-a b"] = "x"
	elsewhere := letterOf("a")
	elsewhere.Attributes[deadletters.AttrEntryPoint] = "../../x"
	for name, tt := range map[string]struct {
		message *pubsub.Message
		want    string
	}{
		"a header of two lines":                {header, "Ce-Subject"},
		"a name that no header has":            {named, "ce-a b"},
		"an entry point that no function's is": {elsewhere, "../../x"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newLetterBench(t)
			bad := b.bury(tt.message)
			b.bury(letterOf("c"))
			redriven, _, err := b.Redrive(t.Context(), RedriveRequest{LetterFilter: LetterFilter{Limit: 2}})
			if err != nil || len(redriven) != 2 || !slices.Equal(b.got, []string{"/StorageTrigger finalized:landing/c#7 for orders"}) {
				t.Fatalf("redriven %+v (%v), delivered %q", redriven, err, b.got)
			}
			if redriven[0].ID != bad || redriven[0].Delivered || redriven[0].Status != 0 || !strings.Contains(redriven[0].Error, tt.want) {
				t.Errorf("redriven %+v, want it refused with %q", redriven[0], tt.want)
			}
			if acks := b.server.Message(bad).Acks; acks != 0 {
				t.Errorf("it was acknowledged %d times", acks)
			}
		})
	}
}

// Pub/Sub carries attributes as they are, HTTP percent-encoded.
func TestAForwardedCloudEventIsTheOneThatWasPublished(t *testing.T) {
	for name, value := range map[string]string{
		"plain":              "a-b_c/d",
		"a percent":          "100%",
		"what looks encoded": "a%2Fb%C3%BC",
		"quotes and spaces":  `"a \"b\" c"`,
		"not ASCII":          "größe/日本",
		"a backslash":        `a\b`,
	} {
		t.Run(name, func(t *testing.T) {
			f := deadletters.Forwarded{Attributes: map[string]string{
				"ce-specversion": "1.0", "ce-type": "com.example.t", "ce-source": "/s/a%20b", "ce-id": value, "ce-subject": value, "ce-ext": value,
			}}
			l, err := f.Delivery("", "7")
			if err != nil {
				t.Fatal(err)
			}
			e, err := events.DecodeBytes(l.Header, l.Body, l.Topic)
			if err != nil {
				t.Fatal(err)
			}
			if e.ID != value || e.Source != "/s/a%20b" || e.Subject != value || e.Extensions["ext"] != value {
				t.Errorf("it is %+v, want %q", e, value)
			}
		})
	}
}

func TestAForwardedMessageKeepsItsOrderingKey(t *testing.T) {
	b := newLetterBench(t)
	var got string
	b.answer = func(_ string, e *events.Event) (int, string) {
		got = e.PubSub.OrderingKey
		return 200, `{"decisions":[]}`
	}
	m := forwardedItem("items", "p")
	b.server.PublishOrdered(deadTopic, m.Data, m.Attributes, "customer-9")
	if redriven, _, err := b.Redrive(t.Context(), RedriveRequest{Force: true}); err != nil || len(redriven) != 1 || got != "customer-9" {
		t.Errorf("redriven %+v (%v), with the ordering key %q", redriven, err, got)
	}
}

// The letters of one pipeline may lie behind those of others.
func TestTheLimitCountsTheLettersOfThePipeline(t *testing.T) {
	b := newLetterBench(t)
	for i := range 120 {
		m := letterOf(fmt.Sprint(i))
		m.Attributes[deadletters.AttrPipeline] = "others"
		b.bury(m)
	}
	first, second := b.bury(letterOf("a")), b.bury(letterOf("b"))
	if listing, err := b.List(t.Context(), LetterFilter{Pipeline: "orders", Limit: 3}); err != nil || len(listing.DeadLetters) != 2 || listing.More {
		t.Errorf("listed %+v (%v)", listing, err)
	}
	if listing, err := b.List(t.Context(), LetterFilter{Pipeline: "orders", Limit: 1}); err != nil || len(listing.DeadLetters) != 1 || !listing.More {
		t.Errorf("listed %+v (%v)", listing, err)
	}
	redriven, more, err := b.Redrive(t.Context(), RedriveRequest{LetterFilter: LetterFilter{Pipeline: "orders", Limit: 2}})
	if err != nil || len(redriven) != 2 || !more || redriven[0].ID != first || redriven[1].ID != second {
		t.Errorf("redriven %+v (%v), more: %v", redriven, err, more)
	}
	if redriven, more, err := b.Redrive(t.Context(), RedriveRequest{LetterFilter: LetterFilter{Pipeline: "orders", Limit: 2}}); err != nil || len(redriven) != 0 || more {
		t.Errorf("redriven %+v (%v), more: %v", redriven, err, more)
	}
	none := func(*deadletters.Received) bool { return false }
	if found, more, err := b.Queue.Find(t.Context(), 1, 50, none); err != nil || len(found) != 0 || !more {
		t.Errorf("found %+v (%v) in a part, more: %v", found, err, more)
	}
	if found, more, err := b.Queue.Find(t.Context(), 1, 500, none); err != nil || len(found) != 0 || more {
		t.Errorf("found %+v (%v) in all, more: %v", found, err, more)
	}
}

// Given back at once, it would come again before the letters that were not seen yet, and nothing new would.
func TestALetterThatCannotBeReadHidesNoOthers(t *testing.T) {
	b := newLetterBench(t)
	const n = 12
	for i := range n {
		b.bury(letterOf(fmt.Sprint(i)))
	}
	unknown := letterOf("unknown")
	unknown.Attributes[deadletters.AttrForm] = "cbor"
	b.bury(unknown)
	for range 10 { // the server gives them in any order
		got, err := b.Queue.Receive(t.Context(), n)
		if len(got) != n || err != nil && !strings.Contains(err.Error(), "cbor") {
			t.Fatalf("%d letters (%v), want %d", len(got), err, n)
		}
		if err := b.Queue.Release(t.Context(), got...); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := b.Queue.Receive(t.Context(), n+1); len(got) != n || err == nil {
		t.Errorf("%d letters (%v), want %d and an error", len(got), err, n)
	}
}

// Bodies have up to 10 MB each, and thousands of letters are looked through.
func TestLettersThatAreNotWantedAreNotKept(t *testing.T) {
	b := newLetterBench(t)
	for i := range 150 {
		b.bury(letterOf(fmt.Sprint(i)))
	}
	var bodies []weak.Pointer[byte]
	kept := -1
	_, _, err := b.Queue.Find(t.Context(), 1, 1000, func(r *deadletters.Received) bool {
		if len(bodies) == 100 { // those of the first call have been judged
			runtime.GC()
			kept = 0
			for _, body := range bodies {
				if body.Value() != nil {
					kept++
				}
			}
		}
		bodies = append(bodies, weak.Make(&r.Body[0]))
		return false
	})
	if err != nil || kept != 0 {
		t.Errorf("of the first 100 letters %d are kept (%v)", kept, err)
	}
}
