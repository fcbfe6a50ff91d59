package functions

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	"cloud.google.com/go/pubsub/v2"

	"github.com/penstock/penstock/deadletters"
)

// bury makes a delivery a dead letter, which [receiver.keep] publishes once all that is decided about the event is final.
func (r *receiver) bury(d *delivery, decision Decision) Decision {
	reason := decision.Reason
	if d.incomplete {
		decision.Outcome = Undecided // the delivery comes again, and each time would leave another dead letter
		decision.Reason = reason + "; it becomes a dead letter once every pipelines file has a usable version"
		return decision
	}
	if r.settings.deadLetter == "" {
		decision.Outcome = Rejected
		decision.Reason = reason + "; no dead-letter topic is configured to keep it: set " + envDeadLetter
		return decision
	}
	identity := decision.identity
	if identity == "" {
		identity = d.identity
	}
	letter := deadletters.Letter{
		Reason: reason, Identity: identity, Pipeline: decision.Pipeline,
		EntryPoint: d.entryPoint, Topic: d.topic, Header: d.header, Body: d.body,
	}
	m := letter.Message()
	if size := deadletters.Size(m); size > deadletters.MaxSize {
		decision.Outcome, decision.status = Rejected, http.StatusRequestEntityTooLarge
		decision.Reason = fmt.Sprintf("%s; at %d bytes it is too large for the dead-letter topic, too: the subscription's own dead-letter policy has to keep it", reason, size)
		return decision
	}
	decision.Outcome, decision.letter = DeadLettered, m
	return decision
}

// keep publishes the dead letters among the decisions about an event. Where another decision is not final, the delivery comes
// again, and each time would leave the same dead letters: they wait for it. One after the other, so that a topic that does not
// answer has none of them.
func (r *receiver) keep(ctx context.Context, decisions []Decision) {
	all := Answer{Decisions: decisions}
	for i := range decisions {
		d := &decisions[i]
		if d.letter == nil {
			continue
		}
		if all.httpStatus() != http.StatusOK {
			d.Outcome = Undecided
			d.Reason += "; it becomes a dead letter once every other pipeline has decided for good"
			continue
		}
		if err := r.publish(ctx, d.letter); err != nil {
			d.Outcome = Undecided
			d.Reason = fmt.Sprintf("%s; publish it to the dead-letter topic %s: %v", d.Reason, r.settings.deadLetter, err)
		}
	}
}

// publisher publishes to one topic. It connects with the first message; PUBSUB_EMULATOR_HOST is honoured.
type publisher struct {
	topic string // full name

	mu     sync.Mutex
	client *pubsub.Client
	to     *pubsub.Publisher
}

func (p *publisher) publish(ctx context.Context, m *pubsub.Message) error {
	to, err := p.connect()
	if err != nil {
		return err
	}
	_, err = to.Publish(ctx, m).Get(ctx)
	return err
}

func (p *publisher) connect() (*pubsub.Publisher, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to != nil {
		return p.to, nil
	}
	project := strings.Split(p.topic, "/")[1] // readSettings checked the form
	c, err := pubsub.NewClient(context.Background(), project)
	if err != nil {
		return nil, fmt.Errorf("connect to Pub/Sub: %w", err)
	}
	p.client, p.to = c, c.Publisher(p.topic)
	// A dead letter is rare and its sender waits: it goes at once and alone.
	p.to.PublishSettings.CountThreshold = 1
	p.to.PublishSettings.Timeout = eventTimeout
	return p.to, nil
}

// stop ends the connection. A function is never told to stop: this is for tests.
func (p *publisher) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.to != nil {
		p.to.Stop()
		_ = p.client.Close()
	}
}
