package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/penstock/penstock/runs"
)

// topic gives a client of the stack's Pub/Sub, and a function that publishes.
func (b *bench) topic(t *testing.T, id string) (*pubsub.Client, func(data string, attributes map[string]string) string) {
	t.Helper()
	c, err := b.PubSubClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	publisher := c.Publisher(id)
	t.Cleanup(func() {
		publisher.Stop()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, func(data string, attributes map[string]string) string {
		t.Helper()
		id, err := publisher.Publish(t.Context(), &pubsub.Message{Data: []byte(data), Attributes: attributes}).Get(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
}

// push makes a plain push subscription to a function.
func (b *bench) push(t *testing.T, c *pubsub.Client, topic, function string) {
	t.Helper()
	if _, err := c.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{
		Name:       fmt.Sprintf("projects/%s/subscriptions/%s-to-%s", project, topic, function),
		Topic:      fmt.Sprintf("projects/%s/topics/%s", project, topic),
		PushConfig: &pubsubpb.PushConfig{PushEndpoint: b.Addresses.Functions + "/" + function},
	}); err != nil {
		t.Fatal(err)
	}
}

// One message comes as Eventarc's CloudEvent and as a plain push, and is one event.
func TestAMessageStartsOneRunHoweverItIsDelivered(t *testing.T) {
	t.Parallel()
	c, publish := shared.topic(t, "e2e-messages")
	shared.push(t, c, "e2e-messages", "PubSubTrigger")
	for _, file := range []string{"message-1", "message-2"} {
		id := publish(`{"file":"`+file+`"}`, map[string]string{"step": "only"})
		identity := "pubsub:projects/" + project + "/topics/e2e-messages#" + id
		wantOutcomes(t, shared.awaitDecided(t, "message", identity, 2), map[string]int{"started": 1, "duplicate": 1})
		r := shared.runOf("message", identity, file)
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run is %s: %s", res.Outcome, res.Error)
		}
		r.wantJobs(t, map[string]int{"only": 1})
	}
}

// A publisher that repeats itself gives two messages two IDs; the pipeline names what
// is the same in them.
func TestAnExportAnnouncedTwiceRunsOnce(t *testing.T) {
	t.Parallel()
	_, publish := shared.topic(t, "e2e-exports")
	full := map[string]string{"kind": "full"}
	first := publish(`{"exportId":"export-1"}`, full)
	second := publish(`{"exportId":"export-1"}`, full)
	partial := publish(`{"exportId":"export-1"}`, map[string]string{"kind": "partial"})
	another := publish(`{"exportId":"export-2"}`, full)
	if first == second {
		t.Fatalf("two messages have one ID, %s", first)
	}
	identity := func(id string) string { return "pubsub:projects/" + project + "/topics/e2e-exports#" + id }
	both := append(shared.awaitDecided(t, "export", identity(first), 1), shared.awaitDecided(t, "export", identity(second), 1)...)
	wantOutcomes(t, both, map[string]int{"started": 1, "duplicate": 1})
	skipped := shared.awaitDecided(t, "export", identity(partial), 1)
	wantOutcomes(t, skipped, map[string]int{"skipped": 1})
	if !strings.Contains(skipped[0].Reason, "when") {
		t.Errorf("it is skipped because %q, want the reason to speak of its when", skipped[0].Reason)
	}
	fresh := shared.awaitDecided(t, "export", identity(another), 1)
	wantOutcomes(t, fresh, map[string]int{"started": 1})
	if both[0].Key != both[1].Key || both[0].RunID != both[1].RunID || fresh[0].Key == both[0].Key {
		t.Errorf("keys %q, %q and %q, want the first two alike", both[0].Key, both[1].Key, fresh[0].Key)
	}
	for export, decided := range map[string]decision{"export-1": both[0], "export-2": fresh[0]} {
		r := shared.runOf("export", decided.Key, export)
		if r.id != decided.RunID {
			t.Errorf("run ID %q, want %q", decided.RunID, r.id)
		}
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run is %s: %s", res.Outcome, res.Error)
		}
		r.wantJobs(t, map[string]int{"only": 1})
	}
}

// notification is the message that a bucket's notification configuration publishes
// about a generation of an object.
func notification(identity, bucket, name string) (data string, attributes map[string]string) {
	generation := identity[strings.LastIndex(identity, "#")+1:]
	object, err := json.Marshal(map[string]string{"kind": "storage#object", "bucket": bucket, "name": name, "generation": generation, "size": "1"})
	if err != nil {
		panic(err) // strings
	}
	return string(object), map[string]string{
		"bucketId": bucket, "objectId": name, "objectGeneration": generation, "eventType": "OBJECT_FINALIZE",
		"payloadFormat": "JSON_API_V1", "notificationConfig": "projects/_/buckets/" + bucket + "/notificationConfigs/1",
	}
}

// One change of an object can come as several messages with different IDs and in both
// forms. Overwriting the object is another change.
func TestAChangeOfAnObjectStartsOneRunHoweverItIsDelivered(t *testing.T) {
	t.Parallel()
	// The topic is no pipeline's: only the push knows it.
	c, err := shared.PubSubClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.TopicAdminClient.CreateTopic(t.Context(), &pubsubpb.Topic{Name: "projects/" + project + "/topics/e2e-notifications"}); err != nil {
		t.Fatal(err)
	}
	shared.push(t, c, "e2e-notifications", "StorageTrigger")
	_, publish := shared.topic(t, "e2e-notifications")

	const name = "delivered/often.csv"
	ids := map[string]bool{}
	for _, content := range []string{"first", "overwritten"} {
		identity := shared.upload(t, "e2e-names", name, content)
		publish(notification(identity, "e2e-names", name))
		publish(notification(identity, "e2e-names", name))
		for range 3 {
			code, a := shared.again(t, "e2e-names", identity)
			if code != http.StatusOK || a.Identity != identity {
				t.Errorf("answered %d for %q, want 200 for %q", code, a.Identity, identity)
			}
		}
		// One CloudEvent of the emulator, two messages, each pushed and as Eventarc's
		// event of a message, and three by hand.
		wantOutcomes(t, shared.awaitDecided(t, "names", identity, 1+2*2+3), map[string]int{"started": 1, "duplicate": 7})
		r := shared.runOf("names", identity, name)
		ids[r.id] = true
		r.job(t, "only", 1).done()
		if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
			t.Errorf("the run is %s: %s", res.Outcome, res.Error)
		}
	}
	if n := len(shared.Jobs.of(name)); len(ids) != 2 || n != 2 {
		t.Errorf("%d runs and %d jobs, want one a generation", len(ids), n)
	}
}

// With a key of the pipeline's own two events can want the same run. The second is told
// apart from a duplicate of the first.
func TestAKeyThatAnotherEventHasTakenIsNoDuplicate(t *testing.T) {
	t.Parallel()
	const name = "list.json"
	first := shared.upload(t, "e2e-keyed", name, "1")
	wantOutcomes(t, shared.awaitDecided(t, "keyed", first, 1), map[string]int{"started": 1})
	second := shared.upload(t, "e2e-keyed", name, "2")
	taken := shared.awaitDecided(t, "keyed", second, 1)
	wantOutcomes(t, taken, map[string]int{"key-taken": 1})
	if taken[0].Severity != "WARNING" || !strings.Contains(taken[0].Reason, first) {
		t.Errorf("logged as %s: %q, want a WARNING that names %s", taken[0].Severity, taken[0].Reason, first)
	}
	for identity, want := range map[string]string{first: "duplicate", second: "key-taken"} {
		code, a := shared.again(t, "e2e-keyed", identity)
		if code != http.StatusOK || len(a.Decisions) != 1 || a.Decisions[0].Outcome != want {
			t.Errorf("%s again: answered %d %+v, want 200 %s", identity, code, a.Decisions, want)
		}
	}
	r := shared.runOf("keyed", name, name)
	r.job(t, "only", 1).done()
	if res := r.result(t); res.Outcome != runs.OutcomeSucceeded {
		t.Errorf("the run is %s: %s", res.Outcome, res.Error)
	}
	r.wantJobs(t, map[string]int{"only": 1})
}
