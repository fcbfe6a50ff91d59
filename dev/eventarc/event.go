package eventarc

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Event is a CloudEvent 1.0 (https://github.com/cloudevents/spec). Its payload
// is kept byte for byte.
type Event struct {
	ID          string
	Source      string
	Type        string
	Subject     string            // empty: none
	Time        time.Time         // zero: none
	DataSchema  string            // empty: none
	ContentType string            // of Data; empty: none
	Extensions  map[string]string // by name: lower-case letters and digits
	Data        []byte
}

// Attribute returns the value that a trigger's filter compares.
func (e Event) Attribute(name string) string {
	switch name {
	case "id":
		return e.ID
	case "source":
		return e.Source
	case "type":
		return e.Type
	case "subject":
		return e.Subject
	}
	return e.Extensions[name]
}

// attributes returns every attribute but those of the data's form.
func (e Event) attributes() map[string]string {
	all := map[string]string{"specversion": "1.0", "id": e.ID, "source": e.Source, "type": e.Type}
	if e.Subject != "" {
		all["subject"] = e.Subject
	}
	if !e.Time.IsZero() {
		all["time"] = e.Time.UTC().Format(time.RFC3339Nano)
	}
	if e.DataSchema != "" {
		all["dataschema"] = e.DataSchema
	}
	maps.Copy(all, e.Extensions)
	return all
}

// writeHeader puts the event's attributes into headers, as binary mode of the
// HTTP protocol binding has them.
func (e Event) writeHeader(h http.Header) {
	for name, value := range e.attributes() {
		h.Set("ce-"+name, encodeHeaderValue(value))
	}
	if e.ContentType != "" {
		h.Set("Content-Type", e.ContentType)
	}
}

// encodeHeaderValue percent-encodes what section 3.1.3.2 of the CloudEvents
// HTTP binding tells to: space, double quote, percent, and all that is not
// printable ASCII.
func encodeHeaderValue(value string) string {
	var b strings.Builder
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == '"' || c == '%' || c > '~' {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func decodeHeaderValue(value string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(value); i++ {
		if value[i] != '%' {
			b.WriteByte(value[i])
			continue
		}
		var c byte
		if _, err := fmt.Sscanf(value[i:min(i+3, len(value))], "%%%02X", &c); err != nil || i+3 > len(value) {
			return "", fmt.Errorf("%q is not percent-encoded", value)
		}
		b.WriteByte(c)
		i += 2
	}
	return b.String(), nil
}

// maxEventBytes is Eventarc's own limit on an event (https://cloud.google.com/eventarc/quotas).
const maxEventBytes = 512 << 10

// readEvent reads a CloudEvent in binary or structured mode.
func readEvent(r *http.Request) (Event, error) {
	data, err := io.ReadAll(io.LimitReader(r.Body, maxEventBytes+1))
	if err != nil {
		return Event{}, fmt.Errorf("read the event: %w", err)
	}
	if len(data) > maxEventBytes {
		return Event{}, fmt.Errorf("the event is larger than Eventarc's limit of %d bytes", maxEventBytes)
	}
	var e Event
	mediaType, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if mediaType == "application/cloudevents+json" {
		e, err = fromStructured(data)
	} else {
		e, err = fromBinary(r.Header, data)
	}
	if err != nil {
		return Event{}, err
	}
	if e.ID == "" || e.Source == "" || e.Type == "" {
		return Event{}, errors.New("a CloudEvent needs id, source and type: send them as the headers ce-id, ce-source and ce-type, or in an application/cloudevents+json body")
	}
	return e, nil
}

func fromBinary(h http.Header, data []byte) (Event, error) {
	attributes := map[string]string{}
	for name, values := range h {
		attribute, ok := strings.CutPrefix(strings.ToLower(name), "ce-")
		if !ok {
			continue
		}
		value, err := decodeHeaderValue(values[0])
		if err != nil {
			return Event{}, fmt.Errorf("header %s: %w", name, err)
		}
		attributes[attribute] = value
	}
	e, err := fromAttributes(attributes)
	e.ContentType, e.Data = h.Get("Content-Type"), data
	return e, err
}

func fromStructured(data []byte) (Event, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(data, &members); err != nil {
		return Event{}, fmt.Errorf("the structured CloudEvent is not a JSON object: %w", err)
	}
	attributes := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		raw := members[name]
		if name == "data" || name == "data_base64" {
			continue
		}
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			text = string(raw) // an integer or boolean extension
		}
		attributes[name] = text
	}
	contentType := attributes["datacontenttype"]
	delete(attributes, "datacontenttype")
	e, err := fromAttributes(attributes)
	if err != nil {
		return e, err
	}
	e.ContentType = contentType
	if raw, ok := members["data_base64"]; ok {
		return e, json.Unmarshal(raw, &e.Data)
	}
	e.Data = members["data"]
	if e.ContentType == "" {
		e.ContentType = "application/json"
	}
	return e, nil
}

func fromAttributes(attributes map[string]string) (Event, error) {
	e := Event{Extensions: map[string]string{}}
	for name, value := range attributes {
		switch name {
		case "specversion":
			if value != "1.0" {
				return e, fmt.Errorf("specversion is %q; only CloudEvents 1.0 is taken", value)
			}
		case "id":
			e.ID = value
		case "source":
			e.Source = value
		case "type":
			e.Type = value
		case "subject":
			e.Subject = value
		case "dataschema":
			e.DataSchema = value
		case "time":
			at, err := time.Parse(time.RFC3339, value)
			if err != nil {
				return e, fmt.Errorf("attribute time: %w", err)
			}
			e.Time = at
		default:
			if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
				return e, fmt.Errorf("attribute name %q: only lower-case letters and digits are allowed", name)
			}
			e.Extensions[name] = value
		}
	}
	if _, ok := attributes["specversion"]; !ok {
		return e, errors.New("specversion is missing: this is not a CloudEvent")
	}
	return e, nil
}

// envelope is the body of a push subscription's POST, and the payload of a
// messagePublished event. The real service writes IDs and times twice, in both
// spellings.
type envelope struct {
	Message         pushedMessage `json:"message"`
	Subscription    string        `json:"subscription"`
	DeliveryAttempt int           `json:"deliveryAttempt,omitempty"`
}

type pushedMessage struct {
	Attributes   map[string]string `json:"attributes,omitempty"`
	Data         string            `json:"data,omitempty"`
	MessageID    string            `json:"messageId"`
	MessageID2   string            `json:"message_id"`
	OrderingKey  string            `json:"orderingKey,omitempty"`
	PublishTime  string            `json:"publishTime"`
	PublishTime2 string            `json:"publish_time"`
}

// Message is a Pub/Sub message on its way to a subscriber.
type Message struct {
	Topic       string // projects/P/topics/T
	ID          string
	Data        []byte
	Attributes  map[string]string
	OrderingKey string
	PublishTime time.Time
}

func (m Message) envelope(subscription string, attempt int) []byte {
	at := m.PublishTime.UTC().Format("2006-01-02T15:04:05.000Z")
	return encodeJSON(envelope{
		Message: pushedMessage{
			Attributes: m.Attributes, Data: base64.StdEncoding.EncodeToString(m.Data), OrderingKey: m.OrderingKey,
			MessageID: m.ID, MessageID2: m.ID, PublishTime: at, PublishTime2: at,
		},
		Subscription: subscription, DeliveryAttempt: attempt,
	})
}

// encodeJSON keeps <, > and & as they are, as the real payloads do.
func encodeJSON(value any) []byte {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		panic(err) // strings and numbers only: cannot fail
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
