package functions

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2"
)

// Attributes of a dead letter. Beside them it has the content-type and ce-* headers of the request, so that posting its data
// with those headers to the entry point, and the topic as the query parameter, is the original delivery again.
const (
	attrReason     = "penstock-reason"
	attrIdentity   = "penstock-identity" // goes on in -2, -3 and so on where it does not fit into one
	attrPipeline   = "penstock-pipeline" // absent where the event never got as far as a pipeline
	attrEntryPoint = "penstock-entry-point"
	attrTopic      = "penstock-topic" // of a plain push, whose envelope does not name it
	attrForm       = "penstock-form"  // formHTTP, or absent
)

// formHTTP marks a dead letter whose data is the text of the whole HTTP request, headers and body, because a header does not
// fit into an attribute.
const formHTTP = "http"

// Limits of a Pub/Sub message. https://cloud.google.com/pubsub/quotas#resource_limits
const (
	maxAttributes     = 100
	maxAttributeKey   = 256
	maxAttributeValue = 1024
	maxMessage        = 10_000_000
	messageOverhead   = 1_000 // for what surrounds the data in the publish request
)

// letter is a delivery that nothing can be done with.
type letter struct {
	reason, identity, pipeline string
}

// message makes the Pub/Sub message of a letter.
func (d *delivery) message(l letter) *pubsub.Message {
	m := &pubsub.Message{Data: d.body, Attributes: make(map[string]string)}
	set := func(name, value string) {
		if value != "" {
			m.Attributes[name] = value
		}
	}
	set(attrReason, cut(strings.ToValidUTF8(l.reason, "\uFFFD"), maxAttributeValue))
	set(attrPipeline, cut(l.pipeline, maxAttributeValue))
	set(attrEntryPoint, d.entryPoint)
	for i, part := range split(l.identity, maxAttributeValue) {
		name := attrIdentity
		if i > 0 {
			name = fmt.Sprintf("%s-%d", attrIdentity, i+1)
		}
		set(name, part)
	}
	if d.headersFit(len(m.Attributes)) {
		for name, values := range d.kept() {
			set(name, values[0])
		}
		set(attrTopic, d.topic)
	} else {
		m.Data = d.requestText()
		set(attrForm, formHTTP)
	}
	return m
}

// kept are the headers that a redelivery needs, by their names in lower case.
func (d *delivery) kept() map[string][]string {
	kept := make(map[string][]string)
	for name, values := range d.header {
		lower := strings.ToLower(name)
		if lower == "content-type" || lower == "content-encoding" || strings.HasPrefix(lower, "ce-") {
			kept[lower] = values
		}
	}
	return kept
}

// headersFit says whether the headers survive as attributes, of which taken are in use.
func (d *delivery) headersFit(taken int) bool {
	kept := d.kept()
	for name, values := range kept {
		if len(name) > maxAttributeKey || len(values) != 1 || len(values[0]) > maxAttributeValue || !utf8.ValidString(values[0]) {
			return false
		}
	}
	return taken+len(kept)+1 <= maxAttributes && len(d.topic) <= maxAttributeValue && utf8.ValidString(d.topic)
}

// requestText writes the delivery as the HTTP request that it was.
func (d *delivery) requestText() []byte {
	var b bytes.Buffer
	target := "/" + d.entryPoint
	if d.topic != "" {
		target += "?" + url.Values{"topic": {d.topic}}.Encode()
	}
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: penstock\r\nContent-Length: %d\r\n", target, len(d.body))
	kept := d.kept()
	names := make([]string, 0, len(kept))
	for name := range kept {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range kept[name] {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value) // the server let no line break in
		}
	}
	b.WriteString("\r\n")
	b.Write(d.body)
	return b.Bytes()
}

// cut shortens valid UTF-8 to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// maxIdentityParts bounds what an identity takes of the attributes. A longer one (of a generic event, whose source and ID
// have no bound) is replaced by its hash, which still tells events apart; the event itself gives the identity again.
const maxIdentityParts = 8

// split cuts valid UTF-8 into parts of at most n bytes.
func split(s string, n int) []string {
	if len(s) > n*maxIdentityParts {
		sum := sha256.Sum256([]byte(s))
		return []string{"sha256:" + hex.EncodeToString(sum[:])}
	}
	var parts []string
	for s != "" {
		part := cut(s, n)
		if part == "" { // not UTF-8 after all
			part = s[:min(n, len(s))]
		}
		parts, s = append(parts, strings.ToValidUTF8(part, "\uFFFD")), s[len(part):]
	}
	return parts
}

// bury keeps a delivery in the dead-letter topic and says in decision what came of that.
func (r *receiver) bury(ctx context.Context, d *delivery, decision Decision) Decision {
	reason := decision.Reason
	if r.settings.deadLetter == "" {
		decision.Outcome = Rejected
		decision.Reason = reason + "; no dead-letter topic is configured to keep it: set " + envDeadLetter
		return decision
	}
	identity := decision.identity
	if identity == "" {
		identity = d.identity
	}
	m := d.message(letter{reason: reason, identity: identity, pipeline: decision.Pipeline})
	if size := messageSize(m); size > maxMessage-messageOverhead {
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

func messageSize(m *pubsub.Message) int {
	size := len(m.Data)
	for name, value := range m.Attributes {
		size += len(name) + len(value) + 12 // tags and lengths of the encoding
	}
	return size
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
