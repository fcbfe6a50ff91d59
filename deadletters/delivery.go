package deadletters

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"strings"
	"time"
)

// Entry points of the functions. The triggers do the same, whichever an event arrives at; job status alone is another's.
const (
	storageEntryPoint = "StorageTrigger"
	pubSubEntryPoint  = "PubSubTrigger"
	eventEntryPoint   = "EventTrigger"
	statusEntryPoint  = "JobStatus"
)

// IsEntryPoint says whether a function has the name. What a message calls its entry point is anybody's word until then.
func IsEntryPoint(name string) bool {
	switch name {
	case storageEntryPoint, pubSubEntryPoint, eventEntryPoint, statusEntryPoint:
		return true
	}
	return false
}

// JobStatus says whether the letter is for the entry point to which all of a project's jobs come: that others' are nobody's is as it
// should be there.
func (l *Letter) JobStatus() bool { return l.EntryPoint == statusEntryPoint }

const jobStatusType = "google.cloud.dataflow.job.v1beta3.statusChanged"

// CloudEvent says whether the original message was a CloudEvent in Pub/Sub's binary mode, whose attributes have the event's
// own ID, rather than a message whose ID is lost.
func (f *Forwarded) CloudEvent() bool {
	return f.Attributes["ce-specversion"] != "" && f.Attributes["ce-type"] != ""
}

// Delivery makes a delivery of a forwarded message again. topic is the original's, projects/P/topics/T; a CloudEvent needs
// none. id is the message ID that a plain push gets in place of the one that was lost.
func (f *Forwarded) Delivery(topic, id string) (Letter, error) {
	if f.CloudEvent() {
		l := Letter{EntryPoint: eventEntryPoint, Header: make(http.Header), Body: f.Data}
		if f.Attributes["ce-type"] == jobStatusType {
			l.EntryPoint = statusEntryPoint
		}
		for name, value := range f.Attributes {
			if !keep(name) {
				continue
			}
			if strings.HasPrefix(name, "ce-") {
				value = percentEncode(value)
			}
			l.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
		}
		return l, nil
	}
	return f.Push(topic, id)
}

// Push is Delivery for a message that was delivered as a plain push, whatever its publisher's attributes say.
func (f *Forwarded) Push(topic, id string) (Letter, error) {
	type message struct {
		Data        []byte            `json:"data"`
		Attributes  map[string]string `json:"attributes,omitempty"`
		MessageID   string            `json:"messageId"`
		PublishTime string            `json:"publishTime,omitempty"`
		OrderingKey string            `json:"orderingKey,omitempty"`
	}
	m := message{Data: f.Data, Attributes: f.Attributes, MessageID: id, OrderingKey: f.OrderingKey}
	if !f.Published.IsZero() {
		m.PublishTime = f.Published.UTC().Format(time.RFC3339Nano)
	}
	body, err := json.Marshal(struct {
		Message      message `json:"message"`
		Subscription string  `json:"subscription,omitempty"`
	}{m, f.Subscription})
	if err != nil {
		return Letter{}, fmt.Errorf("make a push of a forwarded message: %w", err)
	}
	return Letter{EntryPoint: pubSubEntryPoint, Topic: topic, Header: http.Header{"Content-Type": {"application/json"}}, Body: body}, nil
}

// percentEncode makes a header's value of an attribute's, which Pub/Sub carries as it is: the spaces, quotes, percents, and
// what is no printable ASCII are encoded.
// https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md#3132-http-header-values
func percentEncode(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c <= ' ' || c > '~' || c == '"' || c == '%' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
