package events

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// MaxBodyBytes is the largest body that is read. A Pub/Sub message of 10 MB is 13.4 MiB as pushed.
const MaxBodyBytes = 16 << 20

// Decode reads a request to its end and decodes the event in it: a CloudEvent 1.0 in binary or structured mode, or a
// plain Pub/Sub push (wrapped), whose message is an ordinary one or a Cloud Storage notification with payload.
//
// A push envelope does not name its topic; it comes from the query of the push endpoint: ?topic=projects/P/topics/T.
// Every error is an *Error; see [Class] for what to answer.
func Decode(r *http.Request) (*Event, error) {
	if r.Method != http.MethodPost {
		return nil, &Error{Class: BadMethod, Reason: "the method is " + quote(r.Method) + "; events are delivered by POST"}
	}
	body, err := read(r)
	if err != nil {
		return nil, err
	}
	topic, err := topicOf(r.URL)
	if err != nil {
		return nil, withBody(err, body)
	}
	return DecodeBytes(r.Header, body, topic)
}

// DecodeBytes decodes an event from the header and body of a POST. topic is that of a plain Pub/Sub push, in the form
// projects/P/topics/T, and may be empty for everything else. It keeps body. Every error is an *Error.
func DecodeBytes(header http.Header, body []byte, topic string) (*Event, error) {
	if len(body) > MaxBodyBytes {
		return nil, tooLarge()
	}
	e, err := decode(header, body, topic)
	if err != nil {
		return nil, withBody(err, body)
	}
	e.body = body
	return e, nil
}

// FromJSON decodes an event from a file: a structured CloudEvent (which is also what an Event encodes to), a Pub/Sub push
// envelope (with its topic, in the form projects/P/topics/T, which may otherwise be empty), or the text of a whole HTTP
// POST of an event in any mode: request line, header lines, an empty line, body. Every error is an *Error.
func FromJSON(file []byte, topic string) (*Event, error) {
	if bytes.HasPrefix(file, []byte("POST ")) {
		return fromHTTPText(file, topic)
	}
	if len(file) > MaxBodyBytes {
		return nil, tooLarge()
	}
	header := http.Header{}
	top, err := readObject("", file)
	if err != nil {
		return nil, withBody(err, file)
	}
	if !top.has("message") || top.has("specversion") {
		header.Set("Content-Type", "application/cloudevents+json")
	}
	return DecodeBytes(header, file, topic)
}

func fromHTTPText(file []byte, topic string) (*Event, error) {
	// The bytes are all here: the body is what follows the empty line, whatever Content-Length says of it.
	head, body, ok := bytes.Cut(file, []byte("\r\n\r\n"))
	if !ok {
		if head, body, ok = bytes.Cut(file, []byte("\n\n")); !ok {
			return nil, malformed("", "the HTTP text has no empty line between its header and its body")
		}
	}
	line, fields, _ := strings.Cut(string(head), "\n")
	header, err := textproto.NewReader(bufio.NewReader(strings.NewReader(strings.TrimSuffix(fields, "\r") + "\n\n"))).ReadMIMEHeader()
	if err != nil {
		return nil, malformed("", "the HTTP header does not parse: %s", quote(err.Error()))
	}
	if words := strings.Fields(line); topic == "" && len(words) > 1 {
		u, err := url.Parse(words[1])
		if err != nil {
			return nil, malformed("", "the target of the request line does not parse") // not quoted: its query can hold a token
		}
		if topic, err = topicOf(u); err != nil {
			return nil, withBody(err, body)
		}
	}
	return DecodeBytes(http.Header(header), body, topic)
}

// read reads the body of r, at most MaxBodyBytes of it.
func read(r *http.Request) ([]byte, error) {
	if r.ContentLength > MaxBodyBytes {
		return nil, tooLarge()
	}
	if r.Body == nil {
		return nil, nil
	}
	// ContentLength is only the sender's word: it sizes the first buffer, within what an event usually has.
	var buf bytes.Buffer
	if r.ContentLength > 0 {
		buf.Grow(int(min(r.ContentLength, 512<<10)) + bytes.MinRead)
	}
	_, err := buf.ReadFrom(io.LimitReader(r.Body, MaxBodyBytes+1))
	if tooMany := (*http.MaxBytesError)(nil); errors.As(err, &tooMany) || buf.Len() > MaxBodyBytes {
		return nil, tooLarge()
	}
	if err != nil {
		return nil, &Error{Class: ReadFailed, Reason: "read the request body: " + err.Error(), err: err}
	}
	return buf.Bytes(), nil
}

func tooLarge() *Error {
	return &Error{Class: TooLarge, Reason: "the body is past 16 MiB; send a reference to the data instead"}
}

// decode finds out what the request is and decodes it.
func decode(header http.Header, body []byte, topic string) (*Event, error) {
	if enc := strings.Join(header.Values("Content-Encoding"), ","); enc != "" && !strings.EqualFold(enc, "identity") {
		return nil, unsupported("Content-Encoding", "the body is encoded as %s; send it as it is", quote(enc))
	}
	mode, err := modeOf(header)
	if err != nil {
		return nil, err
	}
	switch mode {
	case structured:
		return decodeStructured(body)
	case binary:
		return decodeBinary(header, body)
	}
	if header.Get("X-Goog-Pubsub-Message-Id") != "" {
		return nil, unsupported("X-Goog-Pubsub-Message-Id", "the push is unwrapped; turn payload unwrapping off on the subscription, so that the message keeps its attributes")
	}
	return decodePush(body, topic)
}

// topicOf reads the topic from the query of a push endpoint; empty when the query names none.
func topicOf(u *url.URL) (string, error) {
	if u == nil || u.RawQuery == "" {
		return "", nil
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		// Neither the query nor the error, which has a part of it, is quoted: it can hold a token.
		return "", malformed("topic", "the query of the push endpoint does not parse; write it as ?topic=projects/P/topics/T")
	}
	switch topics := query["topic"]; len(topics) {
	case 0:
		return "", nil
	case 1:
		return topics[0], nil
	default:
		return "", malformed("topic", "the query of the push endpoint names %d topics; name one", len(topics))
	}
}

// withBody gives a rejection the body for its dead letter. The decoders below return nothing but *Error.
func withBody(err error, body []byte) error {
	rejection := (*Error)(nil)
	if !errors.As(err, &rejection) {
		rejection = &Error{Class: Malformed, Reason: quote(err.Error()), err: err}
	}
	if rejection.Poison() {
		rejection.body = body
	}
	return rejection
}
