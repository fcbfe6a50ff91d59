package events

import (
	"errors"
	"net/http"
)

// MaxBodyBytes is the largest body that is read. A Pub/Sub message of 10 MB is 13.4 MiB as pushed.
const MaxBodyBytes = 16 << 20

// Decode reads a request to its end and decodes the event in it: a CloudEvent 1.0 in binary or structured mode, or a
// plain Pub/Sub push (wrapped), whose message is an ordinary one or a Cloud Storage notification with payload.
//
// A push envelope does not name its topic; it comes from the query of the push endpoint: ?topic=projects/P/topics/T.
// Every error is an *Error; see [Class] for what to answer.
func Decode(r *http.Request) (*Event, error) {
	return nil, errors.New("events: Decode is being written")
}

// DecodeBytes decodes an event from the header and body of a POST. topic is that of a plain Pub/Sub push and may be empty
// for everything else. It keeps body.
func DecodeBytes(header http.Header, body []byte, topic string) (*Event, error) {
	return nil, errors.New("events: DecodeBytes is being written")
}

// FromJSON decodes an event from a file: a structured CloudEvent (which is also what an Event encodes to), a Pub/Sub push
// envelope (with its topic, which may otherwise be empty), or the text of an HTTP POST in either.
func FromJSON(file []byte, topic string) (*Event, error) {
	return nil, errors.New("events: FromJSON is being written")
}
