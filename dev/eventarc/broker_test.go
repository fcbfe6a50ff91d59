package eventarc_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloud.google.com/go/storage"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/pubsubemulator"
	"github.com/penstock/penstock/dev/storageemulator"
	"github.com/penstock/penstock/events"
)

// receiver is an endpoint that records what reaches it.
type receiver struct {
	*httptest.Server
	mu       sync.Mutex
	requests []received
	answer   func(n int) int // status of the n-th request, from 1
}

type received struct {
	header http.Header
	query  string
	body   []byte
	at     time.Time
	event  *events.Event // as the product decodes it
	err    error
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{answer: func(int) int { return 200 }}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		one := received{header: q.Header.Clone(), query: q.URL.RawQuery, body: body, at: time.Now()}
		one.event, one.err = events.DecodeBytes(q.Header, body, q.URL.Query().Get("topic"))
		r.mu.Lock()
		r.requests = append(r.requests, one)
		status := r.answer(len(r.requests))
		r.mu.Unlock()
		w.WriteHeader(status)
		fmt.Fprint(w, "because")
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) all() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.requests)
}

func newBroker(t *testing.T, o eventarc.Options, triggers ...eventarc.Trigger) *eventarc.Broker {
	t.Helper()
	if o.MinBackoff == 0 {
		o.MinBackoff, o.MaxBackoff = 5*time.Millisecond, 40*time.Millisecond
	}
	b := eventarc.New(o)
	t.Cleanup(func() { b.Close() })
	for _, trigger := range triggers {
		if err := b.AddTrigger(trigger); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func settle(t *testing.T, b *eventarc.Broker) {
	t.Helper()
	if err := b.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func order(id string) eventarc.Event {
	return eventarc.Event{ID: id, Source: "//shop", Type: "com.example.order", Time: time.Unix(1, 0), ContentType: "application/json", Data: []byte(`{"n":1}`)}
}

func TestDeliveredOnceWhenAcknowledged(t *testing.T) {
	for _, status := range []int{200, 201, 202, 204} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := newReceiver(t)
			r.answer = func(int) int { return status }
			b := newBroker(t, eventarc.Options{}, eventarc.Trigger{Name: "all", URL: r.URL})
			if n, err := b.Publish(order("1")); n != 1 || err != nil {
				t.Fatal(n, err)
			}
			settle(t, b)
			got := r.all()
			if len(got) != 1 || got[0].header.Get("ce-id") != "1" || string(got[0].body) != `{"n":1}` {
				t.Errorf("received %+v", got)
			}
		})
	}
}

func TestRefusedIsDeliveredAgainUntilAccepted(t *testing.T) {
	for _, status := range []int{503, 500, 429, 404, 400, 302, 203} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			r := newReceiver(t)
			r.answer = func(n int) int {
				if n < 4 {
					return status
				}
				return 200
			}
			b := newBroker(t, eventarc.Options{}, eventarc.Trigger{Name: "all", URL: r.URL})
			publish(t, b, order("1"))
			settle(t, b)
			if got := r.all(); len(got) != 4 || string(got[3].body) != `{"n":1}` || got[3].header.Get("ce-id") != "1" {
				t.Errorf("received %d times", len(got))
			}
			if dead := b.DeadLetters(); len(dead) != 0 {
				t.Errorf("dead letters %+v", dead)
			}
			if d := b.Deliveries(); len(d) != 4 || d[0].Status != status || !strings.Contains(d[0].Error, "because") || d[3].Error != "" || d[3].Attempt != 4 {
				t.Errorf("log %+v", d)
			}
		})
	}
}

func publish(t *testing.T, b *eventarc.Broker, e eventarc.Event) {
	t.Helper()
	if _, err := b.Publish(e); err != nil {
		t.Fatal(err)
	}
}

func TestWaitsLongerBeforeEachRetry(t *testing.T) {
	r := newReceiver(t)
	r.answer = func(int) int { return http.StatusServiceUnavailable }
	b := newBroker(t, eventarc.Options{MinBackoff: 20 * time.Millisecond, MaxBackoff: 80 * time.Millisecond, MaxAttempts: 5}, eventarc.Trigger{Name: "all", URL: r.URL})
	publish(t, b, order("1"))
	settle(t, b)
	got := r.all()
	for i, most := range []time.Duration{20 * time.Millisecond, 40 * time.Millisecond, 80 * time.Millisecond, 80 * time.Millisecond} {
		least := most * 4 / 5 // the jitter takes up to a fifth
		if waited := got[i+1].at.Sub(got[i].at); waited < least {
			t.Errorf("retry %d after %v, want at least %v", i+1, waited, least)
		}
	}
}

func TestDeadLetteredAfterTheLimit(t *testing.T) {
	r := newReceiver(t)
	r.answer = func(int) int { return http.StatusServiceUnavailable }
	letters := make(chan eventarc.DeadLetter, 10)
	b := newBroker(t, eventarc.Options{MaxAttempts: 3, OnDeadLetter: func(d eventarc.DeadLetter) { letters <- d }},
		eventarc.Trigger{Name: "all", URL: r.URL})
	publish(t, b, order("1"))
	settle(t, b)
	if n := len(r.all()); n != 3 {
		t.Errorf("delivered %d times, want 3", n)
	}
	dead := <-letters
	if dead.Attempts != 3 || string(dead.Data) != `{"n":1}` || dead.Attributes["ce-id"] != "1" || dead.Attributes["ce-type"] != "com.example.order" || !strings.Contains(dead.Reason, "503") {
		t.Errorf("dead letter %+v", dead)
	}
	if list := b.DeadLetters(); len(list) != 1 || len(letters) != 0 {
		t.Errorf("%d dead letters listed, %d more reported", len(list), len(letters))
	}
}

func TestUnreachableIsRetried(t *testing.T) {
	r := newReceiver(t)
	url := r.URL
	r.Close()
	b := newBroker(t, eventarc.Options{MaxAttempts: 3}, eventarc.Trigger{Name: "all", URL: url})
	publish(t, b, order("1"))
	settle(t, b)
	if d := b.Deliveries(); len(d) != 3 || d[0].Status != 0 || d[0].Error == "" {
		t.Errorf("log %+v", d)
	}
}

func TestParallelDeliveryIsBounded(t *testing.T) {
	var now, most atomic.Int64
	inside, release := make(chan bool, 100), make(chan bool)
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		n := now.Add(1)
		for m := most.Load(); n > m; m = most.Load() {
			if most.CompareAndSwap(m, n) {
				break
			}
		}
		inside <- true
		<-release
		now.Add(-1)
	}))
	defer s.Close()
	b := newBroker(t, eventarc.Options{Parallel: 4}, eventarc.Trigger{Name: "all", URL: s.URL})
	for i := range 20 {
		publish(t, b, order(fmt.Sprint(i)))
	}
	for range 4 {
		<-inside
	}
	close(release)
	settle(t, b)
	if most.Load() != 4 {
		t.Errorf("%d at once, want 4", most.Load())
	}
}

// One event that is refused for long must not hold up the others.
func TestRetriesHoldUpNobody(t *testing.T) {
	good := make(chan bool, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("ce-id") == "bad" {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		good <- true
	}))
	defer s.Close()
	b := newBroker(t, eventarc.Options{Parallel: 1, MinBackoff: time.Hour, MaxBackoff: time.Hour}, eventarc.Trigger{Name: "all", URL: s.URL})
	publish(t, b, order("bad"))
	publish(t, b, order("good"))
	select {
	case <-good:
	case <-time.After(30 * time.Second):
		t.Error("the good event waits for the bad one")
	}
}

func TestFiltersDecideWhoGetsWhat(t *testing.T) {
	storageR, ordersR, restR := newReceiver(t), newReceiver(t), newReceiver(t)
	b := newBroker(t, eventarc.Options{},
		eventarc.Trigger{Name: "storage", Filters: map[string]string{"type": "google.cloud.storage.object.v1.*", "bucket": "landing"}, URL: storageR.URL},
		eventarc.Trigger{Name: "orders", Filters: map[string]string{"type": "com.example.order", "source": "//shop"}, URL: ordersR.URL},
		eventarc.Trigger{Name: "rest", Rest: true, URL: restR.URL})
	publish(t, b, order("1"))
	other := order("2")
	other.Source = "//elsewhere"
	publish(t, b, other)
	b.PublishStorage(storageemulator.Change{Kind: storageemulator.Finalized, Object: storageemulator.Object{Bucket: "landing", Name: "x", Generation: 1}, Time: time.Now()})
	b.PublishStorage(storageemulator.Change{Kind: storageemulator.Finalized, Object: storageemulator.Object{Bucket: "other", Name: "x", Generation: 1}, Time: time.Now()})
	settle(t, b)
	if s, o, r := len(storageR.all()), len(ordersR.all()), len(restR.all()); s != 1 || o != 1 || r != 2 {
		t.Errorf("storage %d, orders %d, rest %d; want 1, 1, 2", s, o, r)
	}
}

// hostileNames are legal object names that break careless code.
var hostileNames = []string{
	"plain.csv", "with space.csv", "日本/données 🌧.csv", "../../etc/passwd", "percent%2Fencoded", "100%", `quotes"'.csv`,
	"${env} {{template}}", "commas,semi;colons:&=+", "tab\tand\x01control", "query?a=b#c", "<script>&", strings.Repeat("n", 1024), strings.Repeat("é", 512),
}

// A file written by the real client through the emulator reaches the product's
// own decoder, in both forms of delivery, with its name and generation intact.
func TestHostileNamesArriveIntact(t *testing.T) {
	for _, form := range []eventarc.Form{eventarc.CloudEvents, eventarc.Push} {
		t.Run("form "+string(form), func(t *testing.T) {
			r := newReceiver(t)
			b := newBroker(t, eventarc.Options{}, eventarc.Trigger{
				Name: "storage", Filters: map[string]string{"type": "google.cloud.storage.object.v1.finalized"},
				URL: r.URL + "/StorageTrigger", Form: form, Topic: "projects/p/topics/landing",
			})
			emulator, err := storageemulator.Start(storageemulator.Options{OnChange: b.PublishStorage})
			if err != nil {
				t.Fatal(err)
			}
			defer emulator.Close()
			if err := emulator.EnsureBucket("landing"); err != nil {
				t.Fatal(err)
			}
			t.Setenv("STORAGE_EMULATOR_HOST", emulator.Addr())
			client, err := storage.NewClient(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			want := map[string]int64{}
			for _, name := range hostileNames {
				w := client.Bucket("landing").Object(name).NewWriter(t.Context())
				w.ContentType = "text/csv"
				if _, err := io.WriteString(w, "data"); err != nil {
					t.Fatal(err)
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				want[name] = w.Attrs().Generation
			}
			settle(t, b)
			got := map[string]int64{}
			for _, one := range r.all() {
				if one.err != nil {
					t.Errorf("not decoded: %v\n%v\n%s", one.err, one.header, one.body)
					continue
				}
				s := one.event.Storage
				if s == nil || s.Bucket != "landing" || s.Size != 4 || s.ContentType != "text/csv" {
					t.Errorf("decoded as %+v", s)
					continue
				}
				got[s.Name] = s.Generation
			}
			if !maps.Equal(got, want) {
				t.Errorf("arrived %v\nwant %v", got, want)
			}
		})
	}
}

func TestStorageHeadersAreEventarcs(t *testing.T) {
	r := newReceiver(t)
	b := newBroker(t, eventarc.Options{}, eventarc.Trigger{Name: "s", URL: r.URL})
	at := time.Date(2026, 11, 22, 10, 0, 0, 123456000, time.UTC)
	b.PublishStorage(storageemulator.Change{Kind: storageemulator.Finalized, Time: at, Object: storageemulator.Object{Bucket: "landing", Name: `a "b" 100%/ü.csv`, Generation: 7}})
	settle(t, b)
	h := r.all()[0].header
	for name, want := range map[string]string{
		"ce-specversion": "1.0",
		"ce-type":        "google.cloud.storage.object.v1.finalized",
		"ce-source":      "//storage.googleapis.com/projects/_/buckets/landing",
		"ce-subject":     "objects/a%20%22b%22%20100%25/%C3%BC.csv",
		"ce-bucket":      "landing",
		"ce-time":        "2026-11-22T10:00:00.123456Z",
		"Content-Type":   "application/json; charset=utf-8",
	} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestPubSubMessagesArriveInBothForms(t *testing.T) {
	eventR, pushR := newReceiver(t), newReceiver(t)
	const topic = "projects/p/topics/orders"
	b := newBroker(t, eventarc.Options{}, eventarc.Trigger{Name: "event", Filters: map[string]string{"source": "//pubsub.googleapis.com/" + topic}, URL: eventR.URL})
	emulator, err := pubsubemulator.Start(pubsubemulator.Options{OnPublish: b.PublishMessage})
	if err != nil {
		t.Fatal(err)
	}
	defer emulator.Close()
	for _, call := range [][2]string{
		{topic, ""},
		{"projects/p/subscriptions/mine", `{"topic":"` + topic + `","pushConfig":{"pushEndpoint":"` + pushR.URL + `/hook"}}`},
	} {
		r, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+emulator.Addr()+"/v1/"+call[0], strings.NewReader(call[1]))
		response, err := http.DefaultClient.Do(r)
		if err != nil || response.StatusCode != http.StatusOK {
			t.Fatal(response, err)
		}
		response.Body.Close()
	}
	id, err := emulator.Publish(topic, []byte("hello"), map[string]string{"k": "v ü"})
	if err != nil {
		t.Fatal(err)
	}
	settle(t, b)
	for form, r := range map[string]*receiver{"event": eventR, "push": pushR} {
		got := r.all()
		if len(got) != 1 || got[0].err != nil {
			t.Fatalf("%s: %+v", form, got)
		}
		p := got[0].event.PubSub
		if p == nil || p.MessageID != id || p.Topic != topic || string(p.Data) != "hello" || p.Attributes["k"] != "v ü" {
			t.Errorf("%s decoded as %+v", form, p)
		}
		var body struct {
			Message      map[string]any
			Subscription string
		}
		if err := json.Unmarshal(got[0].body, &body); err != nil || body.Message["messageId"] != id || body.Message["message_id"] != id || body.Subscription == "" {
			t.Errorf("%s body %s", form, got[0].body)
		}
	}
	if q := pushR.all()[0].query; q != "topic=projects%2Fp%2Ftopics%2Forders" {
		t.Errorf("pushed with query %q", q)
	}
}

func TestPublishOverHTTP(t *testing.T) {
	r := newReceiver(t)
	b := newBroker(t, eventarc.Options{}, eventarc.Trigger{Name: "all", URL: r.URL})
	face := httptest.NewServer(b.Handler())
	defer face.Close()
	post := func(contentType, body string, headers map[string]string) int {
		q, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, face.URL+"/publish", strings.NewReader(body))
		q.Header.Set("Content-Type", contentType)
		for k, v := range headers {
			q.Header.Set(k, v)
		}
		response, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	binary := map[string]string{"ce-specversion": "1.0", "ce-id": "b", "ce-source": "//shop", "ce-type": "t", "ce-subject": "a%20b", "ce-job": "j"}
	for what, tt := range map[string]struct {
		contentType, body string
		headers           map[string]string
		status            int
	}{
		"binary":               {"application/json", `{"n":1}`, binary, 202},
		"structured":           {"application/cloudevents+json", `{"specversion":"1.0","id":"s","source":"//shop","type":"t","subject":"a b","job":"j","data":{"n":1}}`, nil, 202},
		"structured, bytes":    {"application/cloudevents+json", `{"specversion":"1.0","id":"s64","source":"//shop","type":"t","subject":"a b","job":"j","datacontenttype":"application/json","data_base64":"eyJuIjoxfQ=="}`, nil, 202},
		"no CloudEvent":        {"application/json", `{"n":1}`, nil, 400},
		"no id":                {"application/cloudevents+json", `{"specversion":"1.0","source":"s","type":"t"}`, nil, 400},
		"another version":      {"application/cloudevents+json", `{"specversion":"0.3","id":"1","source":"s","type":"t"}`, nil, 400},
		"larger than Eventarc": {"application/json", strings.Repeat(" ", 600<<10), binary, 400},
	} {
		if got := post(tt.contentType, tt.body, tt.headers); got != tt.status {
			t.Errorf("%s answered %d, want %d", what, got, tt.status)
		}
	}
	settle(t, b)
	got := r.all()
	if len(got) != 3 {
		t.Fatalf("%d events arrived, want 3", len(got))
	}
	for _, one := range got {
		if one.header.Get("ce-subject") != "a%20b" || one.header.Get("ce-job") != "j" || string(one.body) != `{"n":1}` {
			t.Errorf("arrived as %v %s", one.header, one.body)
		}
	}
}
