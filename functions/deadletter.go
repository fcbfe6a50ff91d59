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

// bury keeps a delivery in the dead-letter topic and says in decision what came of that.
func (r *receiver) bury(ctx context.Context, d *delivery, decision Decision) Decision {
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
	if err := r.publish(ctx, m); err != nil {
		decision.Outcome = Undecided
		decision.Reason = fmt.Sprintf("%s; publish it to the dead-letter topic %s: %v", reason, r.settings.deadLetter, err)
		return decision
	}
	decision.Outcome = DeadLettered
	return decision
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
