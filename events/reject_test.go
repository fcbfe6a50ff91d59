package events_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/penstock/penstock/events"
)

const (
	ceJSON = "application/cloudevents+json"
	object = `{"bucket":"b","name":"n","generation":"1","metageneration":"1","size":"1"}`
)

// attrs returns the header of a binary CloudEvent with changes made: key, value pairs; an empty value takes the key out.
func attrs(changes ...string) http.Header {
	h := http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1"}, "Ce-Source": {"/s"}, "Ce-Type": {"com.example.t"}, "Content-Type": {"application/json"}}
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == "" {
			delete(h, changes[i])
			continue
		}
		h[changes[i]] = []string{changes[i+1]}
	}
	return h
}

// doc returns a structured CloudEvent with these members more.
func doc(members string) string {
	return `{"specversion":"1.0","id":"1","source":"/s","type":"com.example.t"` + members + `}`
}

func storageDoc(change, data string) string {
	return `{"specversion":"1.0","id":"1","source":"//storage.googleapis.com/projects/_/buckets/b","type":"google.cloud.storage.object.v1.` + change + `","data":` + data + `}`
}

func pubsubDoc(data string) string {
	return `{"specversion":"1.0","id":"1","source":"//pubsub.googleapis.com/projects/p/topics/t","type":"google.cloud.pubsub.topic.v1.messagePublished","data":` + data + `}`
}

func jobDoc(source, more, payload string) string {
	return `{"specversion":"1.0","id":"1","source":"` + source + `","type":"google.cloud.dataflow.job.v1beta3.statusChanged"` + more + `,"data":{"payload":` + payload + `}}`
}

func notification(attributes, payload string) string {
	return fmt.Sprintf(`{"message":{"messageId":"1","attributes":{%s},"data":%q}}`, attributes, base64.StdEncoding.EncodeToString([]byte(payload)))
}

func manyMembers(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"m%d":1`, i)
	}
	return "{" + b.String()[1:] + "}"
}

func TestRejections(t *testing.T) {
	structured := http.Header{"Content-Type": {ceJSON}}
	push := http.Header{"Content-Type": {"application/json"}}
	const (
		topic = "projects/p/topics/t"
		jobs  = "//dataflow.googleapis.com/projects/p/locations/l"
	)
	const note = `"eventType":"OBJECT_FINALIZE","payloadFormat":"JSON_API_V1","bucketId":"b","objectId":"n","objectGeneration":"1"`
	for _, c := range []struct {
		name   string
		header http.Header
		body   string
		topic  string
		class  events.Class
		field  string
		says   string
	}{
		// CloudEvents in binary mode
		{"no id", attrs("Ce-Id", ""), `{}`, "", events.Malformed, "ce-id", "missing"},
		{"no source", attrs("Ce-Source", ""), `{}`, "", events.Malformed, "ce-source", "missing"},
		{"no type", attrs("Ce-Type", ""), `{}`, "", events.Malformed, "ce-type", "missing"},
		{"no specversion", attrs("Ce-Specversion", ""), `{}`, "", events.Malformed, "ce-specversion", "missing"},
		{"CloudEvents 0.3", attrs("Ce-Specversion", "0.3"), `{}`, "", events.Unsupported, "ce-specversion", `"0.3"`},
		{"CloudEvents 2.0", attrs("Ce-Specversion", "2.0"), `{}`, "", events.Unsupported, "ce-specversion", `"2.0"`},
		{"bad time", attrs("Ce-Time", "yesterday"), `{}`, "", events.Malformed, "ce-time", "RFC 3339"},
		{"time that leaves the calendar in UTC", attrs("Ce-Time", "9999-12-31T23:59:59-23:59"), `{}`, "", events.Malformed, "ce-time", "outside"},
		{"header named ce-", attrs("Ce-", "x"), `{}`, "", events.Malformed, "ce-", "empty name"},
		{"header with a hyphen", attrs("Ce-A-B", "x"), `{}`, "", events.Malformed, "ce-a-b", "lower-case letters and digits"},
		{"data as header", attrs("Ce-Data", "x"), `{}`, "", events.Malformed, "ce-data", "body"},
		{"id given twice", http.Header{"Ce-Specversion": {"1.0"}, "Ce-Id": {"1", "2"}, "Ce-Source": {"/s"}, "Ce-Type": {"t"}}, ``, "", events.Malformed, "ce-id", "more than once"},
		{"id not percent-encoded", attrs("Ce-Id", "50%"), `{}`, "", events.Malformed, "ce-id", "%25"},
		{"id not UTF-8", attrs("Ce-Id", "%FF"), `{}`, "", events.Malformed, "ce-id", "UTF-8"},
		{"id with a control character", attrs("Ce-Id", "a%0Ab"), `{}`, "", events.Malformed, "ce-id", "control"},
		{"source that is no URI", attrs("Ce-Source", "http://%25zz"), `{}`, "", events.Malformed, "ce-source", "URI"},
		{"content type given twice", http.Header{"Content-Type": {"application/json", ceJSON}}, `{}`, "", events.Malformed, "Content-Type", "2 times"},
		{"text data", attrs("Content-Type", "text/plain"), `hello`, "", events.Unsupported, "Content-Type", "not JSON"},
		{"protobuf data", attrs("Content-Type", "application/protobuf"), "\x0a", "", events.Unsupported, "Content-Type", "application/json"},
		{"content type that is none", attrs("Content-Type", ";;"), `{}`, "", events.Malformed, "Content-Type", "media type"},
		{"Latin-1 data", attrs("Content-Type", "application/json; charset=latin1"), `{}`, "", events.Unsupported, "Content-Type", "UTF-8"},
		{"compressed body", attrs("Content-Encoding", "gzip"), "\x1f\x8b", "", events.Unsupported, "Content-Encoding", "gzip"},
		{"data that is no JSON", attrs(), `{"a":`, "", events.Malformed, "data", "JSON"},
		{"two JSON values", attrs(), `{} {}`, "", events.Malformed, "data", "JSON"},
		{"data that is not UTF-8", attrs(), "\"\xff\"", "", events.Malformed, "data", "UTF-8"},
		{"member twice in data", attrs(), `{"a":{"b":1,"\u0062":2}}`, "", events.Malformed, "data.a.b", "more than once"},
		{"half a surrogate pair", attrs(), `["\ud800"]`, "", events.Malformed, "data", "surrogate"},
		{"the other half", attrs(), `["\udc00"]`, "", events.Malformed, "data", "surrogate"},
		{"nested too deep", attrs(), strings.Repeat("[", 65) + strings.Repeat("]", 65), "", events.Malformed, "data", "64 deep"},
		{"nested so deep that a parser may fall", attrs(), strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000), "", events.Malformed, "data", ""},
		{"more members than anyone needs", attrs(), manyMembers(1<<16 + 1), "", events.Malformed, "data", "65536 members"},
		{"member twice among many", attrs(), strings.Replace(manyMembers(1000), `"m999"`, `"m1"`, 1), "", events.Malformed, "data.m1", "more than once"},
		{"attributes past the limit", attrs("Ce-X", strings.Repeat("x", 65<<10)), `{}`, "", events.Malformed, "ce-x", "64 KiB"},

		// CloudEvents in structured mode
		{"batch mode", http.Header{"Content-Type": {"application/cloudevents-batch+json"}}, `[]`, "", events.Unsupported, "Content-Type", "batch"},
		{"XML format", http.Header{"Content-Type": {"application/cloudevents+xml"}}, `<e/>`, "", events.Unsupported, "Content-Type", ceJSON},
		{"array", structured, `[]`, "", events.Malformed, "", "an array"},
		{"empty body", structured, ``, "", events.Malformed, "", "empty"},
		{"half a document", structured, `{"specversion":"1.0"`, "", events.Malformed, "", "JSON"},
		{"empty name", structured, `{"specversion":"1.0","id":"1","":1,"source":"/s","type":"t","data":1}`, "", events.Malformed, "", "empty name"},
		{"id twice", structured, doc(`,"id":"2"`), "", events.Malformed, "id", "more than once"},
		{"id a number", structured, `{"specversion":"1.0","id":1,"source":"/s","type":"t"}`, "", events.Malformed, "id", "not a string"},
		{"id empty", structured, `{"specversion":"1.0","id":"","source":"/s","type":"t"}`, "", events.Malformed, "id", "empty"},
		{"id null", structured, `{"specversion":"1.0","id":null,"source":"/s","type":"t"}`, "", events.Malformed, "id", "missing"},
		{"0.3 that panics the SDK", structured, `{"datacontentencoding":"","specversion":"0.3"}`, "", events.Unsupported, "specversion", "0.3"},
		{"data_base64 that panics the SDK", structured, `{"specversion":"1.0","data_base64":1}`, "", events.Malformed, "data_base64", "not a string"},
		{"data_base64 that is not", structured, doc(`,"data_base64":"*"`), "", events.Malformed, "data_base64", "base64"},
		{"data and data_base64", structured, doc(`,"data":1,"data_base64":"MQ=="`), "", events.Malformed, "data_base64", "one"},
		{"fraction", structured, doc(`,"retry":1.5`), "", events.Malformed, "retry", "32-bit integer"},
		{"integer of 64 bits", structured, doc(`,"retry":4294967296`), "", events.Malformed, "retry", "32-bit integer"},
		{"object as attribute", structured, doc(`,"ext":{}`), "", events.Malformed, "ext", "an object"},
		{"upper-case name", structured, doc(`,"Data":{}`), "", events.Malformed, "Data", ""},
		{"text data", structured, doc(`,"datacontenttype":"text/plain","data":"x"`), "", events.Unsupported, "datacontenttype", "not JSON"},
		{"bad dataschema", structured, doc(`,"dataschema":"http://%zz"`), "", events.Malformed, "dataschema", ""},

		// Storage
		{"no bucket", structured, storageDoc("finalized", `{"name":"n","generation":"1"}`), "", events.Malformed, "data.bucket", "missing"},
		{"no name", structured, storageDoc("deleted", `{"bucket":"b","generation":"1"}`), "", events.Malformed, "data.name", "missing"},
		{"no generation", structured, storageDoc("archived", `{"bucket":"b","name":"n"}`), "", events.Malformed, "data.generation", "missing"},
		{"generation that is none", structured, storageDoc("finalized", `{"bucket":"b","name":"n","generation":"x"}`), "", events.Malformed, "data.generation", "64-bit"},
		{"generation that overflows", structured, storageDoc("finalized", `{"bucket":"b","name":"n","generation":9223372036854775808}`), "", events.Malformed, "data.generation", "64-bit"},
		{"generation as a fraction", structured, storageDoc("finalized", `{"bucket":"b","name":"n","generation":1.5}`), "", events.Malformed, "data.generation", "64-bit"},
		{"metadata update without metageneration", structured, storageDoc("metadataUpdated", `{"bucket":"b","name":"n","generation":1}`), "", events.Malformed, "data.metageneration", "missing"},
		{"no data", structured, `{"specversion":"1.0","id":"1","source":"/s","type":"google.cloud.storage.object.v1.finalized"}`, "", events.Malformed, "data", "empty"},
		{"bucket with a slash", structured, storageDoc("finalized", `{"bucket":"b/c","name":"n","generation":1}`), "", events.Malformed, "data.bucket", "bucket name"},
		{"other bucket in source", structured, storageDoc("finalized", `{"bucket":"c","name":"n","generation":1}`), "", events.Malformed, "data.bucket", "source"},
		{"name past 1,024 bytes", structured, storageDoc("finalized", `{"bucket":"b","name":"`+strings.Repeat("n", 1025)+`","generation":1}`), "", events.Malformed, "data.name", "1025 bytes"},
		{"name with a line break", structured, storageDoc("finalized", `{"bucket":"b","name":"a\nb","generation":1}`), "", events.Malformed, "data.name", "line break"},
		{"a bucket, not an object", structured, storageDoc("finalized", `{"kind":"storage#bucket","bucket":"b","name":"n","generation":1}`), "", events.Malformed, "data.kind", "storage#object"},
		{"a message in a storage event", structured, storageDoc("finalized", `{"message":{"messageId":"1"}}`), "", events.Malformed, "data.bucket", "missing"},
		{"both names of a field, contradicting", structured, storageDoc("finalized", `{"bucket":"b","name":"n","generation":1,"contentType":"a","content_type":"b"}`), "", events.Malformed, "data.contentType", "agree"},
		{"bad time in data", structured, storageDoc("finalized", `{"bucket":"b","name":"n","generation":1,"timeCreated":"x"}`), "", events.Malformed, "data.timeCreated", "RFC 3339"},
		{"metadata that is no string", structured, storageDoc("finalized", `{"bucket":"b","name":"n","generation":1,"metadata":{"a":1}}`), "", events.Malformed, "data.metadata.a", "not a string"},

		// Pub/Sub
		{"neither event nor push", push, `{"hello":"world"}`, topic, events.Malformed, "ce-specversion", "neither"},
		{"structured event under a wrong content type", push, doc(""), topic, events.Malformed, "Content-Type", ceJSON},
		{"empty push", push, ``, topic, events.Malformed, "", "empty"},
		{"unwrapped push", http.Header{"X-Goog-Pubsub-Message-Id": {"1"}}, `{}`, topic, events.Unsupported, "X-Goog-Pubsub-Message-Id", "unwrapping"},
		{"push without topic", push, `{"message":{"messageId":"1"}}`, "", events.Malformed, "topic", "?topic="},
		{"push with a short topic", push, `{"message":{"messageId":"1"}}`, "t", events.Malformed, "topic", "projects/P/topics/T"},
		{"push with a topic that holds #", push, `{"message":{"messageId":"1"}}`, "projects/p/topics/t#1", events.Malformed, "topic", "projects/P/topics/T"},
		{"no messageId", push, `{"message":{"data":"AQ=="}}`, topic, events.Malformed, "message.messageId", "missing"},
		{"messageId and message_id contradicting", push, `{"message":{"messageId":"1","message_id":"2"}}`, topic, events.Malformed, "message.messageId", "agree"},
		{"messageId twice", push, `{"message":{"messageId":"1","messageId":"1"}}`, topic, events.Malformed, "message.messageId", "more than once"},
		{"message data that is not base64", push, `{"message":{"messageId":"1","data":"*"}}`, topic, events.Malformed, "message.data", "base64"},
		{"attribute that is no string", push, `{"message":{"messageId":"1","attributes":{"a":1}}}`, topic, events.Malformed, "message.attributes.a", "not a string"},
		{"message that is no object", push, `{"message":"x"}`, topic, events.Malformed, "message", "a string"},
		{"attempts that are no number", push, `{"message":{"messageId":"1"},"deliveryAttempt":"many"}`, topic, events.Malformed, "deliveryAttempt", "integer"},
		{"CloudEvent without message", structured, pubsubDoc(`{"subscription":"s"}`), "", events.Malformed, "data.message", "missing"},
		{"CloudEvent of an unnamed topic", structured, strings.Replace(pubsubDoc(`{"message":{"messageId":"1"}}`), "topics/t", "topics", 1), "", events.Malformed, "source", "names the topic"},
		{"an object in a Pub/Sub event", structured, pubsubDoc(object), "", events.Malformed, "data.message", "missing"},

		// Cloud Storage notifications
		{"notification without payload", push, notification(strings.Replace(note, "JSON_API_V1", "NONE", 1), ""), "", events.Unsupported, "message.attributes.payloadFormat", "JSON_API_V1"},
		{"notification of an unknown change", push, notification(strings.Replace(note, "FINALIZE", "FROBNICATE", 1), object), "", events.Unsupported, "message.attributes.eventType", "FROBNICATE"},
		{"notification of another bucket", push, notification(strings.Replace(note, `"bucketId":"b"`, `"bucketId":"c"`, 1), object), "", events.Malformed, "message.data.bucket", `"c"`},
		{"notification of another object", push, notification(strings.Replace(note, `"objectId":"n"`, `"objectId":"m"`, 1), object), "", events.Malformed, "message.attributes.objectId", `"m"`},
		{"notification of another generation", push, notification(strings.Replace(note, `"objectGeneration":"1"`, `"objectGeneration":"2"`, 1), object), "", events.Malformed, "message.attributes.objectGeneration", `"2"`},
		{"notification of a bad time", push, notification(note+`,"eventTime":"x"`, object), "", events.Malformed, "message.attributes.eventTime", "RFC 3339"},
		{"notification with a broken payload", push, notification(note, `{`), "", events.Malformed, "message.data", "JSON"},

		// Job status
		{"status from elsewhere", structured, jobDoc("/s", "", `{}`), "", events.Malformed, "source", "where the job is"},
		{"status without payload", structured, jobDoc(jobs, "", `null`), "", events.Malformed, "data.payload", "missing"},
		{"status without name", structured, jobDoc(jobs, "", `{"id":"1","currentState":"JOB_STATE_DONE"}`), "", events.Malformed, "data.payload.name", "missing"},
		{"status without ID", structured, jobDoc(jobs, "", `{"name":"n","currentState":"JOB_STATE_DONE"}`), "", events.Malformed, "data.payload.id", "missing"},
		{"status without state", structured, jobDoc(jobs, "", `{"name":"n","id":"1"}`), "", events.Malformed, "data.payload.currentState", "missing"},
		{"state that is no enum", structured, jobDoc(jobs, "", `{"name":"n","id":"1","currentState":true}`), "", events.Malformed, "data.payload.currentState", "enum"},
		{"subject of another job", structured, jobDoc(jobs, `,"subject":"jobs/m"`, `{"name":"n","id":"1","currentState":"JOB_STATE_DONE"}`), "", events.Malformed, "data.payload.name", "subject"},
		{"job attribute of another job", structured, jobDoc(jobs, `,"job":"m"`, `{"name":"n","id":"1","currentState":"JOB_STATE_DONE"}`), "", events.Malformed, "data.payload.name", "job attribute"},
		{"job of another location", structured, jobDoc(jobs, "", `{"name":"n","id":"1","currentState":"JOB_STATE_DONE","location":"m"}`), "", events.Malformed, "data.payload.location", "source"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, err := events.DecodeBytes(c.header, []byte(c.body), c.topic)
			if err == nil {
				t.Fatalf("accepted as %s", e.Identity())
			}
			rejection := wantClass(t, err, c.class)
			if rejection.Field != c.field && c.name != "upper-case name" || !strings.Contains(rejection.Reason, c.says) {
				t.Errorf("field %q and reason %q, want %q and %q", rejection.Field, rejection.Reason, c.field, c.says)
			}
			if !rejection.Poison() || string(rejection.Body()) != c.body {
				t.Errorf("poison %v with a body of %d bytes; want the body for the dead letter", rejection.Poison(), len(rejection.Body()))
			}
			if strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("the error is not one printable line: %q", err)
			}
		})
	}
}

func wantClass(t *testing.T, err error, class events.Class) *events.Error {
	t.Helper()
	var rejection *events.Error
	if !errors.As(fmt.Errorf("wrapped: %w", err), &rejection) {
		t.Fatalf("%v is no *events.Error", err)
	}
	if !errors.Is(err, class) || rejection.Class != class {
		t.Fatalf("%v is not of class %q", err, class)
	}
	return rejection
}

func TestOnlyPostIsADelivery(t *testing.T) {
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodOptions, "\n"} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(`{}`))
		r.Header, r.Method = attrs(), method
		_, err := events.Decode(r)
		if rejection := wantClass(t, err, events.BadMethod); rejection.Poison() {
			t.Errorf("%q: a request that is no delivery must not be dead-lettered", method)
		}
	}
}

func TestBodyPastTheLimitIsNotPoison(t *testing.T) {
	zeros := func() io.Reader { return io.MultiReader(strings.NewReader(`"`), &endless{}) }
	declared := httptest.NewRequest(http.MethodPost, "/", broken{}) // refused without a read
	declared.ContentLength = events.MaxBodyBytes + 1
	chunked := httptest.NewRequest(http.MethodPost, "/", zeros())
	chunked.ContentLength = -1
	lying := httptest.NewRequest(http.MethodPost, "/", zeros())
	lying.ContentLength = 10
	outer := httptest.NewRequest(http.MethodPost, "/", zeros())
	outer.ContentLength = -1
	outer.Body = http.MaxBytesReader(httptest.NewRecorder(), outer.Body, 100)
	for name, r := range map[string]*http.Request{"declared": declared, "chunked": chunked, "lying": lying, "stopped by an outer limit": outer} {
		r.Header = attrs()
		_, err := events.Decode(r)
		if rejection := wantClass(t, err, events.TooLarge); rejection.Poison() || rejection.Body() != nil {
			t.Errorf("%s: must be answered so that Pub/Sub forwards it", name)
		}
	}
	if _, err := events.DecodeBytes(attrs(), make([]byte, events.MaxBodyBytes+1), ""); !errors.Is(err, events.TooLarge) {
		t.Errorf("DecodeBytes: %v", err)
	}
}

// The largest message that Pub/Sub takes, 10 MB, fits.
func TestLargestMessageFits(t *testing.T) {
	data := bytes.Repeat([]byte{0xfb}, 10_000_000)
	body, err := json.Marshal(map[string]any{"message": map[string]any{"messageId": "1", "data": data}, "subscription": "projects/p/subscriptions/s"})
	if err != nil {
		t.Fatal(err)
	}
	e, err := events.Decode(httptest.NewRequest(http.MethodPost, "/?topic=projects/p/topics/t", bytes.NewReader(body)))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(e.PubSub.Data, data) {
		t.Errorf("got %d bytes", len(e.PubSub.Data))
	}
}

func TestBodyThatBreaksOffIsRedelivered(t *testing.T) {
	r := httptest.NewRequest(http.MethodPost, "/", io.MultiReader(strings.NewReader(`{"a":`), broken{}))
	r.Header = attrs()
	_, err := events.Decode(r)
	if rejection := wantClass(t, err, events.ReadFailed); rejection.Poison() || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want its cause and no dead letter", err)
	}
}

func TestTopicOfThePushEndpoint(t *testing.T) {
	for query, says := range map[string]string{
		"topic=projects/p/topics/a&topic=projects/p/topics/b": "2 topics",
		"topic=%zz": "does not parse",
		"topic=":    "?topic=",
		"":          "?topic=",
	} {
		_, err := events.Decode(httptest.NewRequest(http.MethodPost, "/?"+query, strings.NewReader(`{"message":{"messageId":"1"}}`)))
		if rejection := wantClass(t, err, events.Malformed); rejection.Field != "topic" || !strings.Contains(rejection.Reason, says) || rejection.Body() == nil {
			t.Errorf("%q: got %v, want %q", query, err, says)
		}
	}
}

func TestFromJSONRejects(t *testing.T) {
	for text, field := range map[string]string{
		"":                                  "",
		"{":                                 "",
		"[]":                                "",
		`{"message":{"messageId":"1"}}`:     "topic",
		`{"a":1}`:                           "specversion",
		"POST / HTTP/1.1":                   "",
		"POST / HTTP/1.1\nno colon\n\n{}":   "",
		"POST /?topic=%zz HTTP/1.1\n\n\n{}": "topic",
		"POST / HTTP/1.1\r\nCe-Specversion: 1.0\r\nCe-Id: 1\r\nCe-Source: s\r\n\r\n{}": "ce-type",
	} {
		_, err := events.FromJSON([]byte(text), "")
		if rejection := wantClass(t, err, events.Malformed); rejection.Field != field {
			t.Errorf("%q: got %v, want field %q", text, err, field)
		}
	}
}

type endless struct{}

func (*endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// The query of a push endpoint can hold a token, and what is said of an event goes into logs and dead letters.
func TestTheQueryOfAnEndpointIsNotQuoted(t *testing.T) {
	push := notification("", "x")
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(push))
	r.URL.RawQuery = "token=s3cret%zz&topic=projects/p/topics/t"
	_, err := events.Decode(r)
	_, fromText := events.FromJSON([]byte("POST /?token=s3cret%zz HTTP/1.1\r\n\r\n"+push), "")
	_, badTarget := events.FromJSON([]byte("POST http://[::1?token=s3cret HTTP/1.1\r\n\r\n"+push), "")
	for _, err := range []error{err, fromText, badTarget} {
		if err == nil || !strings.Contains(err.Error(), "does not parse") || strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "zz") {
			t.Errorf("it says %v", err)
		}
	}
}
