package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Load is a number of deliveries. Each is repeated until it is acknowledged, as Pub/Sub
// and Eventarc do, with a backoff that is theirs made a hundred times shorter.
type Load struct {
	// Events are delivered in this order, as far as senders side by side keep one.
	// An event that stands there twice is delivered twice.
	Events []Event
	// Senders is how many deliveries are under way at once. Default: 32.
	Senders int
	// Over spreads the first attempts over so long. 0: as fast as they are answered.
	Over time.Duration
	// Burst is how many are sent at once, one burst after the other. 0: 1.
	Burst int
	// Attempts is how often one is tried before the subscription keeps it as a dead letter. 0: for ever.
	Attempts int
	// To is the base URL. Default: the stack's functions.
	To string
	// Timeout is how long an answer is waited for. Default: 10 s, Pub/Sub's.
	Timeout time.Duration
}

const (
	firstBackoff = 100 * time.Millisecond
	mostBackoff  = 5 * time.Second
)

// sendLog is the sender's append-only log, kept in memory and as a file of JSON lines.
type sendLog struct {
	mu    sync.Mutex
	file  *os.File
	lines []Delivery
	count int // deliveries so far
	err   error
}

func (l *sendLog) append(d Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lines = append(l.lines, d)
	if err := json.NewEncoder(l.file).Encode(d); err != nil && l.err == nil {
		l.err = fmt.Errorf("write the sender's log: %w", err)
	}
}

// reserve numbers n deliveries.
func (l *sendLog) reserve(n int) (first int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	first = l.count
	l.count += n
	return first
}

func (l *sendLog) all() ([]Delivery, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines, l.err
}

// outgoing is a delivery under way.
type outgoing struct {
	number  int
	attempt int
	event   Event
	request Request
	body    string
	backoff time.Duration
}

// Sending is a load under way.
type Sending struct {
	done     chan struct{}
	err      error
	underWay atomic.Int64
}

// UnderWay is how many deliveries wait for an answer now.
func (s *Sending) UnderWay() int { return int(s.underWay.Load()) }

// Wait waits until every delivery is acknowledged, or given up.
func (s *Sending) Wait() error {
	<-s.done
	return s.err
}

// Underway says that some deliveries are not yet acknowledged, nor given up.
func (s *Sending) Underway() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Deliver sends a load and waits until all of it is acknowledged, or given up.
func (b *Bench) Deliver(ctx context.Context, l Load) error { return b.Send(ctx, l).Wait() }

// Send begins to send a load.
func (b *Bench) Send(ctx context.Context, l Load) *Sending {
	if l.Senders == 0 {
		l.Senders = 32
	}
	if l.To == "" {
		l.To = b.Addresses.Functions
	}
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	first := b.sent.reserve(len(l.Events))
	draw := b.fork()
	deliveries := make([]*outgoing, len(l.Events))
	for i, e := range l.Events {
		d := &outgoing{number: first + i, event: e, request: e.Request(draw)}
		d.body = hash(d.request.Body)
		deliveries[i] = d
		b.Expect(e, d.body)
	}
	s := &Sending{done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.err = b.send(ctx, l, deliveries, draw, &s.underWay)
	}()
	return s
}

func (b *Bench) send(ctx context.Context, l Load, deliveries []*outgoing, draw *rand.Rand, underWay *atomic.Int64) error {
	transport := &http.Transport{MaxIdleConnsPerHost: l.Senders, DisableCompression: true}
	defer transport.CloseIdleConnections()
	c := &http.Client{Transport: transport, Timeout: l.Timeout}
	queue := make(chan *outgoing, len(deliveries)) // room for all: whoever gives one back never waits
	var open, senders sync.WaitGroup
	open.Add(len(deliveries))
	jitter := make([]*rand.Rand, l.Senders)
	for i := range jitter {
		jitter[i] = rand.New(rand.NewPCG(draw.Uint64(), draw.Uint64()))
	}
	for i := range l.Senders {
		senders.Go(func() {
			for d := range queue {
				underWay.Add(1)
				last := b.attempt(ctx, c, l, d)
				underWay.Add(-1)
				if last || ctx.Err() != nil {
					open.Done()
					continue
				}
				d.backoff = min(max(2*d.backoff, firstBackoff), mostBackoff)
				wait := d.backoff/2 + time.Duration(jitter[i].Int64N(int64(d.backoff)))
				time.AfterFunc(wait, func() { queue <- d })
			}
		})
	}
	began := time.Now()
	for i, d := range deliveries {
		if l.Over > 0 {
			at := time.Duration(i-i%max(l.Burst, 1)) * l.Over / time.Duration(len(deliveries))
			select {
			case <-time.After(time.Until(began.Add(at))):
			case <-ctx.Done():
			}
		}
		queue <- d
	}
	b.mark() // what is to be sent again from now on is recovery
	open.Wait()
	close(queue)
	senders.Wait()
	if ctx.Err() != nil {
		return fmt.Errorf("deliveries are not all acknowledged: %w", ctx.Err())
	}
	return nil
}

// attempt makes one attempt at a delivery, and says whether it was the last.
func (b *Bench) attempt(ctx context.Context, c *http.Client, l Load, d *outgoing) (last bool) {
	d.attempt++
	line := Delivery{Delivery: d.number, Attempt: d.attempt, Deployment: d.event.deployment(), Identity: d.event.Identity, Body: d.body, Function: d.request.Path}
	status, err := post(ctx, c, l.To, d.request)
	line.Status = status
	if err != nil {
		line.Error = err.Error()
	}
	if !line.acknowledged() && l.Attempts > 0 && d.attempt >= l.Attempts {
		line.GivenUp = true
	}
	line.Time = time.Now()
	b.sent.append(line)
	return line.acknowledged() || line.GivenUp
}

func post(ctx context.Context, c *http.Client, to string, q Request) (int, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, to+q.Path, bytes.NewReader(q.Body))
	if err != nil {
		return 0, err
	}
	for name, value := range q.Header {
		r.Header.Set(name, value)
	}
	response, err := c.Do(r)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	// An answer that is cut off is no answer: Pub/Sub reads it all.
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return 0, err
	}
	return response.StatusCode, nil
}
