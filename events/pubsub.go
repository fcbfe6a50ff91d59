package events

import (
	"math"
	"strings"
)

const pubsubSource = "//pubsub.googleapis.com/"

// setPubSub makes e the event of the push envelope in data; its source names the topic.
func (e *Event) setPubSub(data []byte, field string) error {
	topic, ok := strings.CutPrefix(e.Source, pubsubSource)
	if !ok || !validTopic(topic) {
		return malformed("source", "%s is not %sprojects/P/topics/T, which names the topic", quote(e.Source), pubsubSource)
	}
	o, err := readObject(field, data)
	if err != nil {
		return err
	}
	return e.setEnvelope(o, topic)
}

// decodePush decodes a plain Pub/Sub push: a wrapped message without CloudEvents attributes.
func decodePush(body []byte, topic string) (*Event, error) {
	o, err := readObject("", body)
	if err != nil {
		return nil, err
	}
	if o.has("specversion") {
		return nil, malformed("Content-Type", "the body looks like a structured CloudEvent; send it as %s", structuredType)
	}
	if !o.has("message") {
		return nil, malformed("ce-specversion", "the request is neither a CloudEvent (no ce- headers, and its content type is not %s) nor a Pub/Sub push (no message in the body)", structuredType)
	}
	e := &Event{Type: TypePubSubMessagePublished}
	return e, e.setEnvelope(o, topic)
}

// setEnvelope makes e the event of a push envelope. topic may be empty for a Cloud Storage notification, whose identity
// does not depend on it.
func (e *Event) setEnvelope(envelope *object, topic string) error {
	m := envelope.object("message")
	if m == nil {
		if envelope.err != nil {
			return envelope.err
		}
		return malformed(envelope.field("message"), "the field is missing; a Pub/Sub event carries one")
	}
	p := &PubSub{
		Topic:        topic,
		Subscription: envelope.str("subscription"),
		MessageID:    m.required("messageId"),
		PublishTime:  m.timestamp("publishTime"),
		OrderingKey:  m.str("orderingKey"),
		Attributes:   m.stringMap("attributes"),
		Data:         m.base64("data"),
	}
	attempt := envelope.integer("deliveryAttempt")
	if attempt < 0 || attempt > math.MaxInt32 {
		envelope.fail(malformed(envelope.field("deliveryAttempt"), "%d is not a number of attempts", attempt))
	}
	p.DeliveryAttempt = int(attempt)
	if envelope.err != nil {
		return envelope.err
	}
	if m.err != nil {
		return m.err
	}
	if e.ID == "" {
		e.ID, e.Time = p.MessageID, p.PublishTime
	}
	if strings.IndexFunc(p.MessageID, isControl) >= 0 {
		return malformed(m.field("messageId"), "%s has a control character", quote(p.MessageID))
	}
	if isNotification(p.Attributes) {
		return e.setNotification(p, m.path)
	}
	switch {
	case topic == "":
		return malformed("topic", "a push does not name its topic; add ?topic=projects/P/topics/T to the subscription's push endpoint")
	case !validTopic(topic):
		return malformed("topic", "%s is not of the form projects/P/topics/T", quote(topic))
	}
	e.Kind, e.PubSub, e.Source = KindPubSub, p, pubsubSource+topic
	return nil
}

// validTopic holds a topic to the characters of a resource name
// (https://cloud.google.com/pubsub/docs/pubsub-basics#resource_names); # is not among them.
func validTopic(topic string) bool {
	parts := strings.Split(topic, "/")
	if len(parts) != 4 || parts[0] != "projects" || parts[2] != "topics" {
		return false
	}
	for _, part := range []string{parts[1], parts[3]} {
		if part == "" || len(part) > 255 || strings.IndexFunc(part, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_.~+%:", r)
		}) >= 0 {
			return false
		}
	}
	return true
}
