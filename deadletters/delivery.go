package deadletters

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/textproto"
	"time"
)

// Entry points that what Pub/Sub forwarded is delivered to. The triggers do the same, whichever an event arrives at; job
// status alone is another's.
const (
	pubSubEntryPoint = "PubSubTrigger"
	eventEntryPoint  = "EventTrigger"
	statusEntryPoint = "JobStatus"
)

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
			if keep(name) {
				l.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
			}
		}
		return l, nil
	}
	type message struct {
		Data        []byte            `json:"data"`
		Attributes  map[string]string `json:"attributes,omitempty"`
		MessageID   string            `json:"messageId"`
		PublishTime string            `json:"publishTime,omitempty"`
	}
	m := message{Data: f.Data, Attributes: f.Attributes, MessageID: id}
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
