// Package eventarc stands in for Eventarc and for Pub/Sub push on one machine:
// events that match a trigger are POSTed to its URL, at least once, in bounded
// parallel, retried with backoff, and dead-lettered when their attempts are used
// up. Each POST is the same as the real service's, so that a handler cannot tell
// the difference.
//
// Events wait in memory: those undelivered when the process ends are lost.
package eventarc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/penstock/penstock/dev/pubsubemulator"
	"github.com/penstock/penstock/dev/storageemulator"
)

// Form says how a trigger's POSTs look.
type Form string

// The two forms of delivery that a function meets.
const (
	// CloudEvents is Eventarc's: binary mode, ce- headers.
	CloudEvents Form = ""
	// Push is a plain Pub/Sub push subscription's: a wrapped envelope. A storage
	// change comes as a bucket notification (JSON_API_V1). The URL gets
	// ?topic=projects/P/topics/T, since the envelope does not name its topic.
	Push Form = "push"
)

// Trigger sends the events that match to a URL.
type Trigger struct {
	// Name identifies it in logs. Unique.
	Name string
	// Filters are attribute values that all must be equal; a value that ends in
	// "*" matches as a prefix. Without any, every event matches.
	Filters map[string]string
	// Rest restricts it to events that no trigger with filters took.
	Rest bool
	// URL is POSTed to.
	URL string
	// Form defaults to CloudEvents. Push is for storage changes and messages.
	Form Form
	// Topic is the topic that storage notifications in Form Push come through:
	// projects/P/topics/T.
	Topic string
	// MaxAttempts overrides the broker's. 0: the broker's.
	MaxAttempts int
	// DeadLetterTopic overrides where this trigger's dead letters go, for
	// OnDeadLetter to act on. Empty: the default.
	DeadLetterTopic string
}

func (t Trigger) matches(e Event) bool {
	for name, want := range t.Filters {
		got := e.Attribute(name)
		if prefix, ok := strings.CutSuffix(want, "*"); ok && strings.HasPrefix(got, prefix) {
			continue
		}
		if got != want {
			return false
		}
	}
	return true
}

// Options configure a broker.
type Options struct {
	// MinBackoff and MaxBackoff bound the wait before a retry, which doubles each
	// time and is jittered. Default to 500 ms and 10 s; Eventarc's own are 10 s
	// and 600 s.
	MinBackoff, MaxBackoff time.Duration
	// MaxAttempts is how often an event is POSTed before it is a dead letter.
	// Defaults to 20; a real dead-letter policy allows 5 to 100.
	MaxAttempts int
	// Parallel bounds the POSTs under way for one trigger. Defaults to 16.
	Parallel int
	// Timeout bounds one POST. Defaults to 540 s, the longest that an event
	// function may run.
	Timeout time.Duration
	// Route says when each delivery of an event to a trigger begins, counted from now: no element loses the event, two deliver it twice. It is asked once an event
	// and trigger, and must be quick. Nil: once, at once.
	Route func(trigger string, e Event) []time.Duration
	// Acknowledged may turn an attempt that was acknowledged into one that failed. Nil: it does not.
	Acknowledged func(trigger string, e Event) error
	// OnDelivery is told of each attempt when it is over. Nil: nobody is told.
	OnDelivery func(Delivery)
	// OnDeadLetter is told of each dead letter. Nil: they are only kept in the list.
	OnDeadLetter func(DeadLetter)
	// Log reports retries and dead letters. Defaults to none.
	Log *slog.Logger
}

// Delivery is one attempt.
type Delivery struct {
	Trigger string        `json:"trigger"`
	EventID string        `json:"eventId"`
	Type    string        `json:"type"`
	Subject string        `json:"subject,omitempty"`
	Attempt int           `json:"attempt"`
	Status  int           `json:"status,omitempty"` // 0: no answer came
	Error   string        `json:"error,omitempty"`  // of the attempt, with the start of the answer; empty: delivered
	Took    time.Duration `json:"took"`             // nanoseconds
	At      time.Time     `json:"at"`               // when the attempt began
}

// DeadLetter is an event that was given up.
type DeadLetter struct {
	Trigger         string            `json:"trigger"`
	Attempts        int               `json:"attempts"`
	Reason          string            `json:"reason"` // of the last attempt
	At              time.Time         `json:"at"`
	Data            []byte            `json:"data"` // as a Pub/Sub message has it: without the envelope
	Attributes      map[string]string `json:"attributes"`
	DeadLetterTopic string            `json:"deadLetterTopic,omitempty"` // the trigger's own
}

// Broker holds triggers and delivers.
type Broker struct {
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	client *http.Client

	mu          sync.Mutex
	changed     *sync.Cond // pending went down
	triggers    []*trigger
	pushes      map[string]*trigger // of push subscriptions, by subscription and endpoint
	pending     int                 // events accepted and neither delivered nor dead
	deliveries  []Delivery          // the latest, bounded
	deadLetters []DeadLetter        // the latest, bounded
	workers     sync.WaitGroup
}

// remembered bounds the lists of deliveries and dead letters.
const remembered = 10_000

// trigger is a Trigger at work: an unbounded queue and at most Parallel workers.
type trigger struct {
	Trigger
	ready   []*item
	working int
}

// item is one event on its way to one trigger.
type item struct {
	event    Event
	message  *Message // set in Form Push
	push     string   // the push subscription's name
	attempts int
}

// New makes a broker without triggers. Close it.
func New(o Options) *Broker {
	if o.MinBackoff <= 0 {
		o.MinBackoff = 500 * time.Millisecond
	}
	if o.MaxBackoff <= 0 {
		o.MaxBackoff = 10 * time.Second
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 20
	}
	if o.Parallel <= 0 {
		o.Parallel = 16
	}
	if o.Timeout <= 0 {
		o.Timeout = 540 * time.Second
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.Proxy = nil // deliveries stay on this machine
	transport.MaxIdleConnsPerHost = o.Parallel
	b := &Broker{
		o: o, pushes: map[string]*trigger{},
		client: &http.Client{
			Timeout: o.Timeout, Transport: transport,
			// A redirect is not an acknowledgement.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.changed = sync.NewCond(&b.mu)
	return b
}

// AddTrigger begins to deliver what matches from now on.
func (b *Broker) AddTrigger(t Trigger) error {
	if u, err := url.Parse(t.URL); err != nil || u.Scheme == "" || u.Host == "" {
		return fmt.Errorf("eventarc trigger %q: %q is not a URL to POST to", t.Name, t.URL)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.triggers, func(o *trigger) bool { return o.Name == t.Name }) {
		return fmt.Errorf("eventarc trigger %q exists already", t.Name)
	}
	b.triggers = append(b.triggers, &trigger{Trigger: t})
	return nil
}

// Publish accepts an event and returns how many triggers it goes to.
func (b *Broker) Publish(e Event) (int, error) {
	if e.ID == "" || e.Source == "" || e.Type == "" {
		return 0, errors.New("eventarc: publish: a CloudEvent needs id, source and type")
	}
	return b.route(e, nil, nil), nil
}

// PublishStorage accepts an object change.
func (b *Broker) PublishStorage(c storageemulator.Change) {
	b.route(StorageEvent(c), nil, &c)
}

// PublishMessage accepts a Pub/Sub message, for triggers and for the topic's
// push subscriptions.
func (b *Broker) PublishMessage(m pubsubemulator.Message) {
	message := fromPubSub(m)
	b.route(MessageEvent(m), &message, nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range m.Pushes {
		id := p.Subscription + " " + p.Endpoint
		t := b.pushes[id]
		if t == nil {
			t = &trigger{}
			b.pushes[id] = t
		}
		t.Trigger = Trigger{Name: p.Subscription, URL: p.Endpoint, Form: Push, MaxAttempts: p.MaxAttempts, DeadLetterTopic: p.DeadLetterTopic}
		b.admit(t, item{event: Event{ID: m.ID, Type: MessagePublishedType}, message: &message, push: p.Subscription})
	}
}

// route queues an event for each trigger that matches.
func (b *Broker) route(e Event, m *Message, c *storageemulator.Change) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	var matched, rest []*trigger
	for _, t := range b.triggers {
		switch {
		case !t.matches(e):
		case t.Rest:
			rest = append(rest, t)
		default:
			matched = append(matched, t)
		}
	}
	if len(matched) == 0 {
		matched = rest
	}
	for _, t := range matched {
		it := item{event: e}
		if t.Form == Push {
			it.push = "projects/local/subscriptions/" + t.Name
			switch {
			case m != nil:
				it.message = m
			case c != nil:
				notification := StorageNotification(*c, t.Topic)
				it.message = &notification
			}
		}
		b.admit(t, it)
	}
	return len(matched)
}

// admit takes an item in, as often and when Route says. The lock is held.
func (b *Broker) admit(t *trigger, it item) {
	if b.ctx.Err() != nil {
		return
	}
	deliveries := []time.Duration{0}
	if b.o.Route != nil {
		deliveries = b.o.Route(t.Name, it.event)
	}
	for _, wait := range deliveries {
		one := it
		b.pending++
		if wait <= 0 {
			b.enqueue(t, &one)
			continue
		}
		b.enqueueAfter(wait, t, &one)
	}
}

func (b *Broker) enqueueAfter(wait time.Duration, t *trigger, it *item) {
	time.AfterFunc(wait, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.enqueue(t, it)
	})
}

// enqueue hands an item to the trigger's workers. The lock is held.
func (b *Broker) enqueue(t *trigger, it *item) {
	if b.ctx.Err() != nil {
		return
	}
	t.ready = append(t.ready, it)
	if t.working < b.o.Parallel {
		t.working++
		b.workers.Go(func() { b.work(t) })
	}
}

// work delivers until the queue is empty. An item that waits for its retry
// holds no worker.
func (b *Broker) work(t *trigger) {
	for {
		b.mu.Lock()
		if len(t.ready) == 0 || b.ctx.Err() != nil {
			t.working--
			b.mu.Unlock()
			return
		}
		it := t.ready[0]
		t.ready[0] = nil
		t.ready = t.ready[1:]
		target := t.Trigger
		b.mu.Unlock()
		b.attempt(t, target, it)
	}
}

func (b *Broker) attempt(t *trigger, target Trigger, it *item) {
	it.attempts++
	began := time.Now()
	status, err := b.post(target, it)
	if err == nil && b.o.Acknowledged != nil {
		err = b.o.Acknowledged(target.Name, it.event)
	}
	if b.ctx.Err() != nil {
		return // closing: neither delivered nor given up
	}
	d := Delivery{
		Trigger: target.Name, EventID: it.event.ID, Type: it.event.Type, Subject: it.event.Subject,
		Attempt: it.attempts, Status: status, Took: time.Since(began), At: began,
	}
	if err != nil {
		d.Error = err.Error()
	}
	limit := b.o.MaxAttempts
	if target.MaxAttempts > 0 {
		limit = target.MaxAttempts
	}
	given := err != nil && it.attempts >= limit
	var dead DeadLetter
	if given {
		dead = it.deadLetter(target, err)
		b.o.Log.Warn("event dead-lettered", "trigger", target.Name, "id", it.event.ID, "type", it.event.Type, "attempts", it.attempts, "error", err)
		if b.o.OnDeadLetter != nil {
			b.o.OnDeadLetter(dead)
		}
	}
	if b.o.OnDelivery != nil {
		b.o.OnDelivery(d)
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	b.deliveries = remember(b.deliveries, d)
	if given {
		b.deadLetters = remember(b.deadLetters, dead)
	}
	if err == nil || given {
		b.pending--
		b.changed.Broadcast()
		return
	}
	wait := b.backoff(it.attempts)
	b.o.Log.Info("event will be delivered again", "trigger", target.Name, "id", it.event.ID, "type", it.event.Type, "attempt", it.attempts, "in", wait, "error", err)
	b.enqueueAfter(wait, t, it)
}

func remember[T any](list []T, one T) []T {
	if len(list) >= remembered {
		list = slices.Delete(list, 0, remembered/10)
	}
	return append(list, one)
}

// backoff doubles from MinBackoff to MaxBackoff, less up to a fifth so that
// events that failed together do not come back together.
func (b *Broker) backoff(attempts int) time.Duration {
	wait := b.o.MinBackoff
	for i := 1; i < attempts && wait < b.o.MaxBackoff; i++ {
		wait *= 2
	}
	wait = min(wait, b.o.MaxBackoff)
	return wait - time.Duration(rand.Int64N(int64(wait)/5+1))
}

// post makes one attempt; nil means acknowledged.
func (b *Broker) post(t Trigger, it *item) (status int, err error) {
	target, body := t.URL, it.event.Data
	if it.message != nil {
		attempt := 0
		if t.DeadLetterTopic != "" {
			attempt = it.attempts // as the real service: only with a dead-letter policy
		}
		body = it.message.envelope(it.push, attempt)
		if target, err = withTopic(t.URL, it.message.Topic); err != nil {
			return 0, err
		}
	}
	r, err := http.NewRequestWithContext(b.ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("User-Agent", "penstock-eventarc")
	if it.message != nil {
		r.Header.Set("Content-Type", "application/json")
	} else {
		it.event.writeHeader(r.Header)
	}
	response, err := b.client.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	start, _ := io.ReadAll(io.LimitReader(response.Body, 300))
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<20)) // so that the connection can be used again
	switch response.StatusCode {
	// https://cloud.google.com/pubsub/docs/push#receive_push; 102 never gets
	// here, as an HTTP client takes it for an interim answer.
	case http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent:
		return response.StatusCode, nil
	}
	return response.StatusCode, fmt.Errorf("answered %s: %s", response.Status, strings.TrimSpace(string(start)))
}

func withTopic(target, topic string) (string, error) {
	u, err := url.Parse(target)
	if err != nil {
		return "", err
	}
	q := u.Query()
	if topic != "" && !q.Has("topic") {
		q.Set("topic", topic)
	}
	u.RawQuery = q.Encode()
	return u.String(), nil
}

// deadLetter turns an item into the message that Pub/Sub would forward: what
// was in the subscription behind the trigger, with where it came from.
func (it *item) deadLetter(t Trigger, reason error) DeadLetter {
	d := DeadLetter{
		Trigger: t.Name, Attempts: it.attempts, Reason: reason.Error(), At: time.Now().UTC(),
		Data: it.event.Data, Attributes: map[string]string{}, DeadLetterTopic: t.DeadLetterTopic,
	}
	if it.message != nil {
		d.Data = it.message.Data
		for k, v := range it.message.Attributes {
			d.Attributes[k] = v
		}
	} else {
		for name, value := range it.event.attributes() {
			d.Attributes["ce-"+name] = value
		}
		if it.event.ContentType != "" {
			d.Attributes["content-type"] = it.event.ContentType
		}
	}
	d.Attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = fmt.Sprint(it.attempts)
	d.Attributes["CloudPubSubDeadLetterSourceSubscription"] = t.Name
	return d
}

// Deliveries returns the latest attempts, oldest first.
func (b *Broker) Deliveries() []Delivery {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.deliveries)
}

// DeadLetters returns the latest dead letters, oldest first.
func (b *Broker) DeadLetters() []DeadLetter {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.deadLetters)
}

// Triggers returns the triggers.
func (b *Broker) Triggers() []Trigger {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []Trigger
	for _, t := range b.triggers {
		list = append(list, t.Trigger)
	}
	return list
}

// Pending returns how many events wait, are being delivered or await a retry,
// counted once a trigger.
func (b *Broker) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pending
}

// Settle waits until every accepted event is delivered or dead-lettered.
func (b *Broker) Settle(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.changed.Broadcast()
	})
	defer stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.pending > 0 {
		if ctx.Err() != nil {
			return fmt.Errorf("eventarc: %d events are still undelivered: %w", b.pending, ctx.Err())
		}
		b.changed.Wait()
	}
	return nil
}

// Close ends deliveries under way and forgets what waits.
func (b *Broker) Close() error {
	b.mu.Lock() // no enqueue may add a worker once Wait runs
	b.cancel()
	b.mu.Unlock()
	b.workers.Wait()
	b.client.CloseIdleConnections()
	return nil
}
