package events

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
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	cloudevents "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
)

const (
	structuredType = "application/cloudevents+json"

	// maxAttributes and maxAttributeBytes bound the context attributes of one event, names and values together.
	maxAttributes     = 100
	maxAttributeBytes = 64 << 10
)

type mode int

const (
	push mode = iota
	binary
	structured
)

// modeOf tells how the event is packed, as section 3 of the CloudEvents HTTP binding says: by its media type, then by its ce- headers.
func modeOf(header http.Header) (mode, error) {
	types := header.Values("Content-Type")
	if len(types) > 1 {
		return 0, malformed("Content-Type", "the header is there %d times", len(types))
	}
	if ct := header.Get("Content-Type"); len(ct) >= 23 && strings.EqualFold(ct[:23], "application/cloudevents") {
		media, params, err := mime.ParseMediaType(ct)
		switch {
		case err != nil:
			return 0, malformed("Content-Type", "%s is not a media type", quote(ct))
		case strings.HasPrefix(media, "application/cloudevents-batch"):
			return 0, unsupported("Content-Type", "the request is a batch of events; send each in a request of its own")
		case media != structuredType:
			return 0, unsupported("Content-Type", "%s is not supported; send %s", quote(media), structuredType)
		}
		return structured, checkCharset("Content-Type", params)
	}
	for name := range header {
		if isAttributeHeader(name) {
			return binary, nil
		}
	}
	return push, nil
}

func isAttributeHeader(name string) bool {
	return len(name) >= 3 && strings.EqualFold(name[:3], "ce-")
}

// attributes are the checked context attributes of an event, and where each came from.
type attributes struct {
	values map[string]string // never null; integers and booleans in canonical form
	prefix string            // what goes before a name in an error: "ce-" in binary mode
	size   int
}

func (a *attributes) set(name, value string) error {
	if err := checkAttributeName(a.prefix, name); err != nil {
		return err
	}
	if a.size += len(name) + len(value); a.size > maxAttributeBytes || len(a.values) >= maxAttributes {
		return malformed(a.prefix+clip(name), "the event's attributes are past %d in number or %d KiB in all", maxAttributes, maxAttributeBytes>>10)
	}
	a.values[name] = value
	return nil
}

// checkAttributeName holds a name to the naming rule of the CloudEvents specification, section "Context Attributes".
func checkAttributeName(prefix, name string) error {
	if name == "" {
		return malformed(prefix, "an attribute has an empty name")
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return malformed(prefix+clip(name), "an attribute's name holds only lower-case letters and digits")
		}
	}
	return nil
}

// decodeBinary decodes a CloudEvent whose attributes are ce- headers and whose data is the body.
func decodeBinary(header http.Header, body []byte) (*Event, error) {
	attrs := attributes{values: make(map[string]string, 8), prefix: "ce-"}
	for key, values := range header {
		if !isAttributeHeader(key) {
			continue
		}
		name := strings.ToLower(key[3:])
		if _, again := attrs.values[name]; again || len(values) != 1 {
			return nil, malformed("ce-"+clip(name), "the header is there more than once")
		}
		switch name {
		case "datacontenttype": // the Content-Type header has it, says the HTTP binding
			continue
		case "data":
			return nil, malformed("ce-data", "data is no attribute; it is the body")
		}
		value, err := decodeHeaderValue(name, values[0])
		if err != nil {
			return nil, err
		}
		if err := attrs.set(name, value); err != nil {
			return nil, err
		}
	}
	if ct := header.Get("Content-Type"); ct != "" {
		attrs.values["datacontenttype"] = ct
	}

	checked := make(http.Header, len(attrs.values))
	for name, value := range attrs.values {
		if name == "datacontenttype" {
			checked["Content-Type"] = []string{value}
			continue
		}
		checked[http.CanonicalHeaderKey("ce-"+name)] = []string{value}
	}
	if err := checkSpecVersion(&attrs); err != nil {
		return nil, err
	}
	data := body
	if len(data) == 0 {
		data = nil
	}
	return decodeCloudEvent(&attrs, &http.Request{Method: http.MethodPost, Header: checked}, data)
}

// decodeHeaderValue undoes the quoting and percent-encoding of a ce- header, as section 3.1.3.2 of the HTTP binding asks
// receivers to and the SDK does not. What names the event must be encoded properly: were a stray % taken as it is, two
// ids could become one. The rest may be an object name from a sender that does not encode, and no file is lost over it:
// what does not decode stays as it came.
func decodeHeaderValue(name, raw string) (string, error) {
	required := name == "id" || name == "source" || name == "type" || name == "specversion"
	v := strings.Trim(raw, " \t")
	if len(v) >= 2 && v[0] == '"' && v[len(v)-1] == '"' {
		v = unquote(v[1 : len(v)-1])
	}
	encoded := true
	if strings.IndexByte(v, '%') >= 0 {
		v, encoded = percentDecode(v)
	}
	switch valid := utf8.ValidString(v); {
	case valid && encoded:
		return v, nil
	case !required:
		return strings.ToValidUTF8(raw, "\ufffd"), nil
	case !valid:
		return "", malformed("ce-"+name, "%s does not decode to UTF-8", quote(raw))
	default:
		return "", malformed("ce-"+name, "%s has a %% that begins no percent-encoded byte; encode it as %%25", quote(raw))
	}
}

func unquote(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b = append(b, s[i])
	}
	return string(b)
}

// percentDecode decodes once. A % that begins no encoded byte stays, and makes the result not ok.
func percentDecode(s string) (decoded string, ok bool) {
	b := make([]byte, 0, len(s))
	ok = true
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+2 < len(s) {
			hi, lo := unhex(s[i+1]), unhex(s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b, ok = append(b, '%'), false
	}
	return string(b), ok
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// decodeStructured decodes a CloudEvent that is one JSON object.
func decodeStructured(body []byte) (*Event, error) {
	top, err := readObject("", body)
	if err != nil {
		return nil, err
	}
	attrs := attributes{values: make(map[string]string, len(top.members))}
	var data []byte
	packed := "" // data or data_base64
	for _, m := range top.members {
		name, raw := string(m.name), m.value
		if isNull(raw) {
			continue // the JSON format says: an attribute that is null is not set
		}
		switch name {
		case "data":
			if packed != "" {
				return nil, malformed("data_base64", "the event has data and data_base64; send one")
			}
			data, packed = raw, name
		case "data_base64":
			if packed != "" {
				return nil, malformed("data_base64", "the event has data and data_base64; send one")
			}
			text, notString := jsonString(raw)
			if notString != nil {
				return nil, notString.in(name)
			}
			if data, err = base64.StdEncoding.DecodeString(text); err != nil {
				return nil, malformed(name, "the data is not base64: %s", quote(err.Error()))
			}
			packed = name
		default:
			value, err := attributeValue(name, raw)
			if err != nil {
				return nil, err
			}
			if err := attrs.set(name, value); err != nil {
				return nil, err
			}
		}
	}
	if err := checkSpecVersion(&attrs); err != nil {
		return nil, err
	}
	// The SDK gets the attributes alone, specversion first: it reads them in order, keeps a pooled buffer too long when
	// data_base64 precedes specversion, and stops without a word at an empty name.
	var doc bytes.Buffer
	doc.WriteString(`{"specversion":"1.0"`)
	for name, value := range attrs.values {
		if name != "specversion" {
			appendMember(&doc, name, value)
		}
	}
	doc.WriteByte('}')
	r := &http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {structuredType}}, Body: io.NopCloser(&doc)}
	return decodeCloudEvent(&attrs, r, data)
}

// coreAttributes are the ones that the specification defines, all of them strings in JSON; any other is an extension.
var coreAttributes = map[string]bool{
	"specversion": true, "id": true, "source": true, "type": true, "subject": true, "time": true, "datacontenttype": true, "dataschema": true,
}

// attributeValue turns an attribute's JSON value into its canonical string: extensions may be strings, booleans and integers.
func attributeValue(name string, raw []byte) (string, error) {
	field := name
	if len(field) > 40 {
		field = clip(field)
	}
	switch c := raw[0]; {
	case c == '"':
		value, err := jsonString(raw)
		if err != nil {
			return "", err.in(field)
		}
		return value, nil
	case coreAttributes[name]:
		return "", malformed(field, "the attribute is %s, not a string", kindOfJSON(raw))
	case c == 't', c == 'f':
		return string(raw), nil
	case c == '-' || '0' <= c && c <= '9':
		// A CloudEvents Integer is a whole number of 32 bits; the SDK would cut 1.5 to 1.
		n, err := parseInt(raw)
		if err != nil || n != int64(int32(n)) {
			return "", malformed(field, "%s is not a 32-bit integer; send it as a string", quote(string(raw)))
		}
		return fmt.Sprint(n), nil
	default:
		return "", malformed(field, "the attribute is %s; an extension is a string, a boolean or an integer", kindOfJSON(raw))
	}
}

func checkSpecVersion(a *attributes) error {
	switch v, ok := a.values["specversion"]; {
	case !ok:
		return malformed(a.prefix+"specversion", "the attribute is missing; CloudEvents 1.0 needs it")
	case v != "1.0":
		return unsupported(a.prefix+"specversion", "CloudEvents %s is not supported; send 1.0", quote(v))
	}
	return nil
}

// decodeCloudEvent has the SDK decode and validate the attributes in r, compares its view with ours, and decodes the data.
func decodeCloudEvent(attrs *attributes, r *http.Request, data []byte) (*Event, error) {
	for _, name := range []string{"id", "source", "type"} {
		v := attrs.values[name]
		if v == "" {
			return nil, malformed(attrs.prefix+name, "the attribute is missing or empty; CloudEvents 1.0 needs it")
		}
		if i := strings.IndexFunc(v, isControl); i >= 0 {
			return nil, malformed(attrs.prefix+name, "%s has a control character", quote(v))
		}
	}
	for _, name := range []string{"source", "dataschema"} {
		if _, err := url.Parse(attrs.values[name]); err != nil {
			return nil, malformed(attrs.prefix+name, "%s is not a URI reference", quote(attrs.values[name]))
		}
	}
	when, timeErr := parseTime(attrs.values["time"])
	if timeErr != nil {
		return nil, timeErr.in(attrs.prefix + "time")
	}
	if data != nil {
		if err := checkJSONType(attrs); err != nil {
			return nil, err
		}
	}
	ce, err := decodeAttributes(r)
	if err != nil {
		return nil, sdkError(attrs, err)
	}
	e := &Event{
		Kind: KindGeneric, Type: attrs.values["type"], Source: attrs.values["source"], ID: attrs.values["id"],
		Subject: attrs.values["subject"], Time: when, DataSchema: attrs.values["dataschema"],
	}
	taken := ce.Extensions()
	for name, value := range attrs.values {
		if coreAttributes[name] {
			continue
		}
		if _, ok := taken[name]; !ok {
			return nil, malformed(attrs.prefix+name, "the CloudEvents SDK does not take the attribute")
		}
		if e.Extensions == nil {
			e.Extensions = make(map[string]string, len(taken))
		}
		e.Extensions[name] = value
	}
	if ce.ID() != e.ID || ce.Type() != e.Type {
		return nil, malformed(attrs.prefix+"id", "the CloudEvents SDK reads the attributes differently")
	}
	return e, e.decodeData(data)
}

// decodeAttributes runs the SDK's decoder. It panics on some input, so it is run where a panic is an error.
func decodeAttributes(r *http.Request) (ce *cloudevents.Event, err error) {
	defer func() {
		if p := recover(); p != nil {
			ce, err = nil, fmt.Errorf("the CloudEvents SDK panicked: %v", p)
		}
	}()
	ce, err = cehttp.NewEventFromHTTPRequest(r)
	if err != nil {
		return nil, err
	}
	return ce, ce.Validate()
}

// sdkError names the attribute that the SDK complains of, where it says which.
func sdkError(attrs *attributes, err error) error {
	var invalid cloudevents.ValidationError
	if errors.As(err, &invalid) {
		for _, name := range slices.Sorted(maps.Keys(invalid)) {
			return &Error{Class: Malformed, Field: attrs.prefix + clip(name), Reason: quote(invalid[name].Error()), err: err}
		}
	}
	return &Error{Class: Malformed, Reason: quote(err.Error()), err: err}
}

// checkJSONType refuses data that is declared to be anything but JSON in UTF-8. Without a declaration it is JSON.
func checkJSONType(attrs *attributes) error {
	field := "datacontenttype"
	if attrs.prefix != "" {
		field = "Content-Type"
	}
	declared := attrs.values["datacontenttype"]
	if declared == "" || declared == "application/json" {
		return nil
	}
	media, params, err := mime.ParseMediaType(declared)
	switch {
	case err != nil:
		return malformed(field, "%s is not a media type", quote(declared))
	case media != "application/json" && media != "text/json" && !strings.HasSuffix(media, "+json"):
		return unsupported(field, "the data is %s, not JSON; for an Eventarc trigger set the event data content type to application/json", quote(media))
	}
	return checkCharset(field, params)
}

func checkCharset(field string, params map[string]string) error {
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") && !strings.EqualFold(cs, "us-ascii") {
		return unsupported(field, "the charset is %s; send UTF-8", quote(cs))
	}
	return nil
}

// decodeData decodes the data according to the type, and completes the event with it.
func (e *Event) decodeData(data []byte) error {
	const field = "data" // in errors, in either mode
	if change, ok := changes[e.Type]; ok {
		return e.setStorage(change, data, field)
	}
	switch e.Type {
	case TypePubSubMessagePublished:
		return e.setPubSub(data, field)
	case TypeJobStatusChanged:
		return e.setJobStatus(data, field)
	}
	if data == nil {
		return nil
	}
	if err := checkJSON(field, data); err != nil {
		return err
	}
	if isNull(bytes.TrimSpace(data)) {
		return nil
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, data); err != nil {
		return malformed(field, "%s", quote(err.Error()))
	}
	e.Data = compact.Bytes()
	return nil
}

// parseTime reads an RFC 3339 time. It refuses what cannot be written again: a year outside 0000 to 9999 once in UTC.
func parseTime(s string) (time.Time, *Error) {
	if s == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return time.Time{}, malformed("", "%s is not an RFC 3339 time", quote(s))
	}
	if t = t.UTC(); t.Year() < 0 || t.Year() > 9999 {
		return time.Time{}, malformed("", "%s is outside the years 0000 to 9999 in UTC", quote(s))
	}
	return t, nil
}

func isControl(r rune) bool { return r < 0x20 || 0x7f <= r && r <= 0x9f }

// clip shortens and escapes a name that came from outside, for the Field of an error.
func clip(name string) string {
	q := quote(name)
	if inner := strings.TrimSuffix(strings.TrimPrefix(q, `"`), `"`); len(inner) == len(name) {
		return name
	}
	return q
}
