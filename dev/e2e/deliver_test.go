package e2e_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/pubsub/v2/apiv1/pubsubpb"

	"github.com/penstock/penstock/runs"
)

// decision is what a function says of an event and one pipeline, in its answer and in
// its log. It is spelled out here, as a user's program would have it.
type decision struct {
	Pipeline   string `json:"pipeline"`
	Outcome    string `json:"decision"`
	Reason     string `json:"reason"`
	RunID      string `json:"runId"`
	Key        string `json:"key"`
	Config     string `json:"configVersion"`
	Identity   string `json:"identity"` // in the log only, like
	Severity   string `json:"severity"`
	EntryPoint string `json:"entryPoint"`
}

// answer is the body of a function's response.
type answer struct {
	Identity  string     `json:"identity"`
	Decisions []decision `json:"decisions"`
	Error     string     `json:"error"`
}

// post sends one request to a function, as nothing but a test does: what has a sender
// among the emulators is sent by it.
func (b *bench) post(t *testing.T, function string, header map[string]string, body string) (int, answer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, b.Addresses.Functions+"/"+function, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		t.Fatalf("the answer %q of %s is not JSON: %v", text, function, err)
	}
	if a.Decisions == nil {
		t.Errorf("the answer %q of %s has no list of decisions", text, function)
	}
	return response.StatusCode, a
}

// storageHeader are the headers of a CloudEvent about an object of the bucket.
func storageHeader(id, kind, bucket string) map[string]string {
	return map[string]string{
		"ce-specversion": "1.0", "ce-id": id, "ce-type": "google.cloud.storage.object.v1." + kind,
		"ce-source":    "//storage.googleapis.com/projects/_/buckets/" + bucket,
		"Content-Type": "application/json",
	}
}

// again sends the event of an object's generation once more, as a message of its own.
func (b *bench) again(t *testing.T, bucket, identity string) (int, answer) {
	t.Helper()
	at := strings.LastIndex(identity, "#")
	body, err := json.Marshal(map[string]string{
		"bucket": bucket, "name": strings.TrimPrefix(identity[:at], "finalized:"+bucket+"/"), "generation": identity[at+1:],
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.post(t, "StorageTrigger", storageHeader(rand.Text(), "finalized", bucket), string(body))
}

// publish hands a CloudEvent to the Eventarc stand-in, which delivers it until it is
// acknowledged.
func (b *bench) publish(t *testing.T, header map[string]string, body string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, b.Addresses.Events+"/publish", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for name, value := range header {
		r.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusAccepted {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("publish: %s: %s", response.Status, text)
	}
}

// decided are the decisions so far, in the order of the functions' log.
func (b *bench) decided(which func(decision) bool) []decision {
	var found []decision
	for line := range strings.Lines(b.Logs("functions")) {
		var d decision
		if json.Unmarshal([]byte(line), &d) == nil && d.Outcome != "" && which(d) {
			found = append(found, d)
		}
	}
	return found
}

// awaitDecided waits until a pipeline has n decisions on events of the identity.
func (b *bench) awaitDecided(t *testing.T, pipeline, identity string, n int) []decision {
	t.Helper()
	var found []decision
	eventually(t, pipeline+" decides on "+identity, func() bool {
		found = b.decided(func(d decision) bool { return d.Pipeline == pipeline && d.Identity == identity })
		return len(found) >= n
	})
	return found
}

// wantOutcomes says how often each outcome occurs among decisions.
func wantOutcomes(t *testing.T, got []decision, want map[string]int) {
	t.Helper()
	count := map[string]int{}
	for _, d := range got {
		count[d.Outcome]++
	}
	for outcome, n := range want {
		if count[outcome] != n {
			t.Errorf("%d decisions are %s, want %d: %+v", count[outcome], outcome, n, got)
		}
		delete(count, outcome)
	}
	if len(count) > 0 {
		t.Errorf("also decided: %v in %+v", count, got)
	}
}

// runOf is the run of a pipeline for a key; object is what its jobs are recorded under.
func (b *bench) runOf(pipeline, key, object string) *run {
	return &run{bench: b, pipeline: pipeline, object: object, key: key, id: runs.RunID(deployment, pipeline, key)}
}

// letters are the messages of a topic for dead letters as they come.
type letters struct {
	mu  sync.Mutex
	all []*pubsub.Message
}

// readLetters subscribes to the stack's dead-letter topic until the test ends.
func (b *bench) readLetters(t *testing.T) *letters {
	t.Helper()
	c, err := b.PubSubClient(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A subscription of the test's own: each gets every letter.
	name := "projects/" + project + "/subscriptions/e2e-" + strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())
	if _, err := c.SubscriptionAdminClient.CreateSubscription(t.Context(), &pubsubpb.Subscription{Name: name, Topic: b.DeadLetterTopic()}); err != nil {
		t.Fatal(err)
	}
	l := &letters{}
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = c.Subscriber(name).Receive(ctx, func(_ context.Context, m *pubsub.Message) {
			m.Ack()
			l.mu.Lock()
			defer l.mu.Unlock()
			l.all = append(l.all, m)
		})
	}()
	t.Cleanup(func() {
		stop()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("the dead letters' subscriber does not end")
		}
		_ = c.Close()
	})
	return l
}

// await waits for a letter.
func (l *letters) await(t *testing.T, what string, which func(*pubsub.Message) bool) *pubsub.Message {
	t.Helper()
	var found *pubsub.Message
	eventually(t, "a dead letter: "+what, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		for _, m := range l.all {
			if which(m) {
				found = m
				return true
			}
		}
		return false
	})
	return found
}
