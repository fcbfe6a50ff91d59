package pubsubemulator_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/penstock/penstock/dev/pubsubemulator"
)

const (
	topic        = "projects/p/topics/orders"
	subscription = "projects/p/subscriptions/reader"
)

type bundle struct {
	*pubsubemulator.Emulator
	client *pubsub.Client
	seen   func() []pubsubemulator.Message
}

func setup(t *testing.T) *bundle {
	t.Helper()
	var mu sync.Mutex
	var seen []pubsubemulator.Message
	e, err := pubsubemulator.Start(pubsubemulator.Options{OnPublish: func(m pubsubemulator.Message) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, m)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	t.Setenv("PUBSUB_EMULATOR_HOST", e.Addr())
	client, err := pubsub.NewClient(t.Context(), "p")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return &bundle{e, client, func() []pubsubemulator.Message {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(seen)
	}}
}

func TestClientPublishesAndReceives(t *testing.T) {
	b := setup(t)
	ctx := t.Context()
	if _, err := b.client.TopicAdminClient.CreateTopic(ctx, &pubsubpb.Topic{Name: topic}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.client.SubscriptionAdminClient.CreateSubscription(ctx, &pubsubpb.Subscription{Name: subscription, Topic: topic, AckDeadlineSeconds: 10}); err != nil {
		t.Fatal(err)
	}
	id, err := b.client.Publisher("orders").Publish(ctx, &pubsub.Message{Data: []byte("hello"), Attributes: map[string]string{"k": "v ü"}}).Get(ctx)
	if err != nil {
		t.Fatal(err)
	}
	receiving, stop := context.WithCancel(ctx)
	err = b.client.Subscriber("reader").Receive(receiving, func(_ context.Context, m *pubsub.Message) {
		if m.ID != id || string(m.Data) != "hello" || m.Attributes["k"] != "v ü" {
			t.Errorf("received %q %q %v, published as %q", m.ID, m.Data, m.Attributes, id)
		}
		m.Ack()
		stop()
	})
	if err != nil {
		t.Fatal(err)
	}
	seen := b.seen()
	if len(seen) != 1 || seen[0].ID != id || seen[0].Topic != topic || string(seen[0].Data) != "hello" || seen[0].PublishTime.IsZero() {
		t.Errorf("the callback saw %+v", seen)
	}
}

// A message's ID is part of an event's identity: were it given out again after
// a restart, a new message would pass for a duplicate.
func TestMessageIDsStayUniqueOverRestarts(t *testing.T) {
	seen := map[string]bool{}
	for range 3 {
		e, err := pubsubemulator.Start(pubsubemulator.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := e.EnsureTopic(topic); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			id, err := e.Publish(topic, []byte("x"), nil)
			if err != nil || seen[id] {
				t.Errorf("ID %q again (%v)", id, err)
			}
			seen[id] = true
		}
		e.Close()
	}
}

func TestCallbackNamesPushSubscriptions(t *testing.T) {
	b := setup(t)
	if err := b.EnsureTopic(topic); err != nil {
		t.Fatal(err)
	}
	if err := b.EnsureTopic(topic); err != nil {
		t.Errorf("a topic that exists: %v", err)
	}
	if err := b.EnsureTopic(topic + "-dead"); err != nil {
		t.Fatal(err)
	}
	_, err := b.client.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name: subscription, Topic: topic, AckDeadlineSeconds: 10, PushConfig: &pubsubpb.PushConfig{PushEndpoint: "http://127.0.0.1:1/PubSubTrigger"},
		DeadLetterPolicy: &pubsubpb.DeadLetterPolicy{DeadLetterTopic: topic + "-dead", MaxDeliveryAttempts: 7},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(topic, []byte("one"), nil); err != nil {
		t.Fatal(err)
	}
	if err := b.client.SubscriptionAdminClient.DeleteSubscription(t.Context(), &pubsubpb.DeleteSubscriptionRequest{Subscription: subscription}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Publish(topic, []byte("two"), nil); err != nil {
		t.Fatal(err)
	}
	seen := b.seen()
	want := pubsubemulator.Push{Subscription: subscription, Endpoint: "http://127.0.0.1:1/PubSubTrigger", DeadLetterTopic: topic + "-dead", MaxAttempts: 7}
	if len(seen[0].Pushes) != 1 || seen[0].Pushes[0] != want || len(seen[1].Pushes) != 0 {
		t.Errorf("pushes %+v, then %+v", seen[0].Pushes, seen[1].Pushes)
	}
}

func TestCurlPublishesAndPulls(t *testing.T) {
	b := setup(t)
	call := func(method, path, body string, code int) map[string]any {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+b.Addr()+"/v1/"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		data, _ := io.ReadAll(response.Body)
		if response.StatusCode != code {
			t.Fatalf("%s %s answered %d %s", method, path, response.StatusCode, data)
		}
		var answer map[string]any
		if err := json.Unmarshal(data, &answer); err != nil {
			t.Fatalf("%s %s answered %q: %v", method, path, data, err)
		}
		return answer
	}
	call("POST", topic+":publish", `{"messages":[{"data":"aGVsbG8="}]}`, 404)
	call("PUT", topic, "", 200)
	call("PUT", topic, "", 409)
	call("PUT", subscription, `{"topic":"`+topic+`"}`, 200)
	call("POST", topic+":publish", `{"messages":[{}]}`, 400)
	call("POST", topic+":publish", `{"messages":[{"data":"aGVsbG8=","attributes":{"a":"b"}}]}`, 200)
	pulled := call("POST", subscription+":pull", `{"maxMessages":5}`, 200)["receivedMessages"].([]any)
	first := pulled[0].(map[string]any)
	if first["message"].(map[string]any)["data"] != "aGVsbG8=" {
		t.Errorf("pulled %v", pulled)
	}
	call("POST", subscription+":acknowledge", `{"ackIds":["`+first["ackId"].(string)+`"]}`, 200)
	if again := call("POST", subscription+":pull", `{"maxMessages":5,"returnImmediately":true}`, 200); len(again) != 0 {
		t.Errorf("acknowledged, yet pulled again: %v", again)
	}
	call("GET", "projects/p/nothing", "", 404)
}
