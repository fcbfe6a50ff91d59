package events

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
)

// MarshalJSON encodes the event as a structured CloudEvent. Its receiver is a value, so that an Event held by value is not
// encoded field by field.
func (e Event) MarshalJSON() ([]byte, error) {
	data, err := e.encodeData()
	if err != nil {
		return nil, fmt.Errorf("encode event %s: %w", quote(e.ID), err)
	}
	var b bytes.Buffer
	b.WriteString(`{"specversion":"1.0"`)
	appendMember(&b, "id", e.ID)
	appendMember(&b, "source", e.Source)
	appendMember(&b, "type", e.Type)
	if e.Subject != "" {
		appendMember(&b, "subject", e.Subject)
	}
	if !e.Time.IsZero() {
		appendMember(&b, "time", e.Time.UTC().Format(time.RFC3339Nano))
	}
	if e.DataSchema != "" {
		appendMember(&b, "dataschema", e.DataSchema)
	}
	for _, name := range slices.Sorted(maps.Keys(e.Extensions)) {
		appendMember(&b, name, e.Extensions[name])
	}
	if data != nil {
		appendMember(&b, "datacontenttype", "application/json")
		b.WriteString(`,"data":`)
		b.Write(data)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON decodes a structured CloudEvent, with the checks of Decode. Its errors are *Error. A null is no event and
// changes nothing, as encoding/json has it.
func (e *Event) UnmarshalJSON(doc []byte) error {
	if isNull(bytes.TrimSpace(doc)) {
		return nil
	}
	decoded, err := decodeStructured(doc)
	if err != nil {
		return err
	}
	*e = *decoded
	return nil
}

func (e Event) encodeData() ([]byte, error) {
	switch {
	case e.Storage != nil:
		return json.Marshal(e.Storage)
	case e.PubSub != nil:
		p := e.PubSub
		return json.Marshal(wireEnvelope{p.Subscription, p.DeliveryAttempt, wireMessage{p.MessageID, p.PublishTime, p.OrderingKey, p.Attributes, p.Data}})
	case e.JobStatus != nil:
		j := e.JobStatus
		return json.Marshal(wireJobEvent{wireJob{j.JobID, j.JobName, j.Project, j.Location, j.Type, j.State, j.StateTime, j.CreateTime, j.StartTime, j.Labels, j.ReplaceJobID, j.ReplacedByJobID}})
	}
	return e.Data, nil
}

// wireEnvelope is google.events.cloud.pubsub.v1.MessagePublishedData, which is also the envelope of a push.
type wireEnvelope struct {
	Subscription    string      `json:"subscription,omitempty"`
	DeliveryAttempt int         `json:"deliveryAttempt,omitempty"`
	Message         wireMessage `json:"message"`
}

type wireMessage struct {
	MessageID   string            `json:"messageId"`
	PublishTime time.Time         `json:"publishTime,omitzero"`
	OrderingKey string            `json:"orderingKey,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Data        []byte            `json:"data,omitempty"`
}

// wireJobEvent is google.events.cloud.dataflow.v1beta3.JobEventData.
type wireJobEvent struct {
	Payload wireJob `json:"payload"`
}

type wireJob struct {
	ID               string            `json:"id"`
	Name             string            `json:"name"`
	ProjectID        string            `json:"projectId"`
	Location         string            `json:"location"`
	Type             string            `json:"type,omitempty"`
	CurrentState     string            `json:"currentState"`
	CurrentStateTime time.Time         `json:"currentStateTime,omitzero"`
	CreateTime       time.Time         `json:"createTime,omitzero"`
	StartTime        time.Time         `json:"startTime,omitzero"`
	Labels           map[string]string `json:"labels,omitempty"`
	ReplaceJobID     string            `json:"replaceJobId,omitempty"`
	ReplacedByJobID  string            `json:"replacedByJobId,omitempty"`
}

// appendMember appends a member to an object that has one already.
func appendMember(b *bytes.Buffer, name, value string) {
	quoted, err := json.Marshal(value)
	if err != nil { // a string always encodes
		panic(err)
	}
	b.WriteString(`,"`)
	b.WriteString(name) // lower-case letters and digits
	b.WriteString(`":`)
	b.Write(quoted)
}
