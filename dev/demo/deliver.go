package demo

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/storageemulator"
)

// answer is what the functions say to an event.
type answer struct {
	status    int
	Decisions []struct {
		Outcome string `json:"decision"`
		Reason  string `json:"reason"`
		RunID   string `json:"runId"`
	} `json:"decisions"`
	Error string `json:"error"`
}

// String is the answer for people.
func (a answer) String() string {
	if len(a.Decisions) != 1 {
		return fmt.Sprintf("answered %d with %d decisions %s", a.status, len(a.Decisions), a.Error)
	}
	text := fmt.Sprintf("answered %d, %s", a.status, a.Decisions[0].Outcome)
	if reason := a.Decisions[0].Reason; reason != "" {
		text += ": " + reason
	}
	return text
}

func (a answer) is(status int, outcome, runID string) bool {
	return a.status == status && len(a.Decisions) == 1 && a.Decisions[0].Outcome == outcome && a.Decisions[0].RunID == runID
}

// deliverAgain delivers the event of one file twice more: itself, and as the
// message that a bucket's notification configuration would have published.
func (d *demo) deliverAgain(ctx context.Context) error {
	change, err := d.changeOf(ctx, landing, "daily/"+thrice)
	if err != nil {
		return err
	}
	event := eventarc.StorageEvent(change)
	for _, delivered := range d.stack.Events.Deliveries() {
		if delivered.Type == event.Type && delivered.Subject == event.Subject {
			event.ID = delivered.EventID // the very same event, not one like it
		}
	}
	again, err := d.post(ctx, "/StorageTrigger", map[string]string{
		"ce-specversion": "1.0", "ce-id": event.ID, "ce-source": event.Source, "ce-type": event.Type,
		"ce-subject": event.Subject, "ce-time": event.Time.UTC().Format(time.RFC3339Nano), "ce-bucket": landing,
		"Content-Type": event.ContentType,
	}, event.Data)
	if err != nil {
		return err
	}
	d.screen.Print("   the event of %s comes a second time: %s", thrice, again)

	message := eventarc.StorageNotification(change, "projects/"+project+"/topics/storage-notifications")
	body, err := json.Marshal(map[string]any{
		"subscription": "projects/" + project + "/subscriptions/storage-notifications",
		"message": map[string]any{
			"data": base64.StdEncoding.EncodeToString(message.Data), "attributes": message.Attributes,
			"messageId": message.ID, "publishTime": message.PublishTime.UTC().Format(time.RFC3339Nano),
		},
	})
	if err != nil {
		return fmt.Errorf("write the push of %s: %w", thrice, err)
	}
	pushed, err := d.post(ctx, "/StorageTrigger", map[string]string{"Content-Type": "application/json"}, body)
	if err != nil {
		return err
	}
	d.screen.Print("   and a third time, in another form (Pub/Sub push): %s", pushed)
	d.answers = []answer{again, pushed}
	return nil
}

// deliverBroken delivers a storage event whose data ends in the middle.
func (d *demo) deliverBroken(ctx context.Context) error {
	got, err := d.post(ctx, "/StorageTrigger", map[string]string{
		"ce-specversion": "1.0", "ce-id": brokenID, "ce-source": "//storage.googleapis.com/projects/_/buckets/" + landing,
		"ce-type": eventarc.StorageTypePrefix + string(storageemulator.Finalized), "ce-subject": "objects/daily/seattle-2016.csv",
		"Content-Type": "application/json",
	}, []byte(broken))
	if err != nil {
		return err
	}
	d.screen.Print("   an event that is cut off in the middle: %s", got)
	return nil
}

const (
	brokenID = "cut-off"
	broken   = `{"bucket": "weather-landing", "name": "daily/seattle-2016.csv", "gener`
)

// changeOf makes the change that wrote an object from the object as it is.
func (d *demo) changeOf(ctx context.Context, bucket, name string) (change storageemulator.Change, err error) {
	target := d.stack.Addresses.Storage + "/storage/v1/b/" + bucket + "/o/" + url.PathEscape(name)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return change, fmt.Errorf("look at gs://%s/%s: %w", bucket, name, err)
	}
	status, body, err := send(request)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &change.Object)
	}
	if err == nil {
		change.Kind = storageemulator.Finalized
		change.Time, err = time.Parse(time.RFC3339, change.Object.TimeCreated)
	}
	if err != nil {
		return change, fmt.Errorf("look at gs://%s/%s: %w", bucket, name, err)
	}
	return change, nil
}

// post delivers to a function as Eventarc or Pub/Sub would.
func (d *demo) post(ctx context.Context, path string, header map[string]string, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, d.stack.Addresses.Functions+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, fmt.Errorf("deliver to %s: %w", path, err)
	}
	for name, value := range header {
		request.Header.Set(name, value)
	}
	status, text, err := send(request)
	if err != nil {
		return answer{}, fmt.Errorf("deliver to %s: %w", path, err)
	}
	a := answer{status: status}
	if err := json.Unmarshal(text, &a); err != nil {
		return answer{}, fmt.Errorf("deliver to %s: the answer, with status %d, is not the functions': %q", path, status, text)
	}
	return a, nil
}

func send(request *http.Request) (status int, body []byte, err error) {
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err = io.ReadAll(response.Body)
	return response.StatusCode, body, err
}

// readLetters keeps what comes to the dead-letter topic until the context ends,
// when the channel is closed.
func (d *demo) readLetters(ctx context.Context) <-chan struct{} {
	done := make(chan struct{})
	topic := d.stack.DeadLetterTopic()
	subscriber := d.messages.Subscriber(topic[strings.LastIndex(topic, "/")+1:])
	go func() {
		defer close(done)
		// An error shows as letters that are missing, which is checked.
		_ = subscriber.Receive(ctx, func(_ context.Context, m *pubsub.Message) {
			d.lettersMu.Lock()
			d.letters = append(d.letters, m)
			d.lettersMu.Unlock()
			m.Ack()
		})
	}()
	return done
}

// deadLetters are those that have come so far.
func (d *demo) deadLetters() []*pubsub.Message {
	d.lettersMu.Lock()
	defer d.lettersMu.Unlock()
	return append([]*pubsub.Message(nil), d.letters...)
}
