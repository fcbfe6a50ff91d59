// Package deadletters is the dead letter: the Pub/Sub message that keeps a delivery which nothing could be done with, so
// that it can be looked at and delivered again, and the subscription that such messages wait in.
package deadletters

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"cloud.google.com/go/pubsub/v2"
)

// Attributes of a dead letter. Beside them it has the content-type and ce-* headers of the request, so that posting its data
// with those headers to the entry point, and the topic as the query parameter, is the original delivery again.
const (
	AttrReason     = "penstock-reason"
	AttrIdentity   = "penstock-identity" // goes on in -2, -3 and so on where it does not fit into one
	AttrPipeline   = "penstock-pipeline" // absent where the event never got as far as a pipeline
	AttrEntryPoint = "penstock-entry-point"
	AttrTopic      = "penstock-topic" // of a plain push, whose envelope does not name it
	AttrForm       = "penstock-form"  // formHTTP, or absent
)

// formHTTP marks a dead letter whose data is the text of the whole HTTP request, headers and body, because a header does not
// fit into an attribute.
const formHTTP = "http"

// HeaderIdentity is the header in which a redelivery carries the identity that the event had, percent-encoded: a function
// that reads another event from the delivery refuses it.
const HeaderIdentity = "Penstock-Identity"

// HeaderPipeline is the header in which a redelivery names the one pipeline that it is for: the others have decided on the
// event, and their runs may be forgotten, so that they would run again.
const HeaderPipeline = "Penstock-Pipeline"

// ReasonUnwanted is the reason of a decision `skipped` on a delivery with HeaderPipeline: no trigger of that pipeline wants the
// event, as when the pipeline was renamed. A `when` that is false has another reason.
const ReasonUnwanted = "the delivery is for this pipeline alone, which does not want the event"

// Limits of a Pub/Sub message. https://cloud.google.com/pubsub/quotas#resource_limits
const (
	MaxAttributes     = 100
	MaxAttributeKey   = 256
	MaxAttributeValue = 1024
	maxMessage        = 10_000_000
	messageOverhead   = 1_000 // for what surrounds the data in the publish request
)

// MaxSize is the most that Size may say of a message that is to be published, in bytes.
const MaxSize = maxMessage - messageOverhead

// Letter is a delivery that nothing could be done with, and why.
type Letter struct {
	// Reason is why, in words.
	Reason string
	// Identity is the event's, or the one that the pipeline gives it; empty for what did not decode. One past 8 KiB is
	// "sha256:" and its hash.
	Identity string
	// Pipeline is the one that could not take the event; empty where it never got as far.
	Pipeline string
	// EntryPoint is the name of the function that it arrived at.
	EntryPoint string
	// Topic is that of a plain push, projects/P/topics/T; otherwise empty.
	Topic string
	// Header holds the headers that a redelivery needs; others are not kept.
	Header http.Header
	Body   []byte
}

// Message makes the Pub/Sub message of a letter. It may be too large to publish: see Size.
func (l *Letter) Message() *pubsub.Message {
	m := &pubsub.Message{Data: l.Body, Attributes: make(map[string]string)}
	set := func(name, value string) {
		if value != "" {
			m.Attributes[name] = value
		}
	}
	set(AttrReason, cut(strings.ToValidUTF8(l.Reason, "\uFFFD"), MaxAttributeValue))
	set(AttrPipeline, cut(l.Pipeline, MaxAttributeValue))
	set(AttrEntryPoint, l.EntryPoint)
	for i, part := range split(l.Identity, MaxAttributeValue) {
		set(identityAttribute(i), part)
	}
	if l.headersFit(len(m.Attributes)) {
		for name, values := range l.kept() {
			set(name, values[0])
		}
		set(AttrTopic, l.Topic)
	} else {
		m.Data = l.requestText()
		set(AttrForm, formHTTP)
	}
	return m
}

// Size is what a message takes of MaxSize.
func Size(m *pubsub.Message) int {
	size := len(m.Data)
	for name, value := range m.Attributes {
		size += len(name) + len(value) + 12 // tags and lengths of the encoding
	}
	return size
}

// identityAttribute names the attribute of the nth part, from 0.
func identityAttribute(n int) string {
	if n == 0 {
		return AttrIdentity
	}
	return fmt.Sprintf("%s-%d", AttrIdentity, n+1)
}

// keep says whether a redelivery needs the header, whose name is in lower case.
func keep(name string) bool {
	return name == "content-type" || name == "content-encoding" || strings.HasPrefix(name, "ce-")
}

// kept are the headers that a redelivery needs, by their names in lower case.
func (l *Letter) kept() map[string][]string {
	kept := make(map[string][]string)
	for name, values := range l.Header {
		if lower := strings.ToLower(name); keep(lower) {
			kept[lower] = values
		}
	}
	return kept
}

// headersFit says whether the headers survive as attributes, of which taken are in use.
func (l *Letter) headersFit(taken int) bool {
	kept := l.kept()
	for name, values := range kept {
		if len(name) > MaxAttributeKey || len(values) != 1 || len(values[0]) > MaxAttributeValue || !utf8.ValidString(values[0]) {
			return false
		}
	}
	return taken+len(kept)+1 <= MaxAttributes && len(l.Topic) <= MaxAttributeValue && utf8.ValidString(l.Topic)
}

// requestText writes the delivery as the HTTP request that it was.
func (l *Letter) requestText() []byte {
	var b bytes.Buffer
	target := "/" + l.EntryPoint
	if l.Topic != "" {
		target += "?" + url.Values{"topic": {l.Topic}}.Encode()
	}
	fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: penstock\r\nContent-Length: %d\r\n", target, len(l.Body))
	kept := l.kept()
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
	b.Write(l.Body)
	return b.Bytes()
}

// read gives back the letter that Message made a message of. ours is false for a message that a function did not make.
func read(data []byte, attributes map[string]string) (l Letter, ours bool, err error) {
	// What Pub/Sub forwarded has the attributes that its publisher chose, whatever they are called.
	if attributes[AttrEntryPoint] == "" || attributes[AttrReason] == "" || attributes[forwardedSubscription] != "" {
		return Letter{}, false, nil
	}
	l = Letter{
		Reason: attributes[AttrReason], Pipeline: attributes[AttrPipeline], EntryPoint: attributes[AttrEntryPoint],
		Topic: attributes[AttrTopic], Header: make(http.Header), Body: data,
	}
	for i := range maxIdentityParts {
		l.Identity += attributes[identityAttribute(i)]
	}
	switch form := attributes[AttrForm]; form {
	case "":
		for name, value := range attributes {
			if keep(name) {
				l.Header[textproto.CanonicalMIMEHeaderKey(name)] = []string{value}
			}
		}
		return l, true, nil
	case formHTTP:
		return l, true, l.readText(data)
	default:
		return l, true, fmt.Errorf("the dead letter has the form %q, which this program does not know: use a newer one", form)
	}
}

// readText takes apart what requestText put together. The bytes are not given to an HTTP parser: that refuses bytes in
// headers which a server let in, and they are to go out again as they came.
func (l *Letter) readText(text []byte) error {
	head, body, ok := bytes.Cut(text, []byte("\r\n\r\n"))
	line, fields, _ := strings.Cut(string(head), "\r\n")
	words := strings.Split(line, " ")
	if !ok || len(words) != 3 {
		return errors.New("the dead letter should be the text of an HTTP request, and is not")
	}
	target, err := url.Parse(words[1])
	if err != nil {
		return fmt.Errorf("read the dead letter's request line: %w", err)
	}
	l.Body, l.Topic = body, target.Query().Get("topic")
	for field := range strings.SplitSeq(fields, "\r\n") {
		name, value, _ := strings.Cut(field, ": ")
		if keep(strings.ToLower(name)) {
			key := textproto.CanonicalMIMEHeaderKey(name)
			l.Header[key] = append(l.Header[key], value)
		}
	}
	return nil
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
	if len(s) > (n-utf8.UTFMax)*maxIdentityParts { // a part may end before a character that does not fit
		return []string{hashed(s)}
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

func hashed(identity string) string {
	sum := sha256.Sum256([]byte(identity))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// SameIdentity says whether the identity that a letter kept is that of an event.
func SameIdentity(kept, identity string) bool {
	return kept == strings.Join(split(identity, MaxAttributeValue), "")
}
