package events_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/penstock/penstock/events"
)

// FuzzDecode holds every request to two outcomes: a typed rejection, or an event that has an identity and survives its own
// JSON encoding. The header is text, one field a line.
func FuzzDecode(f *testing.F) {
	for _, name := range fixtures(f) {
		text := file(f, name)
		if head, body, ok := bytes.Cut(text, []byte("\n\n")); ok && strings.HasSuffix(name, ".http") {
			_, fields, _ := strings.Cut(string(head), "\n")
			f.Add(fields, body, upstream)
			continue
		}
		f.Add("Content-Type: "+ceJSON, text, "")
		f.Add("Content-Type: application/json", text, upstream)
	}
	for _, body := range []string{`{"specversion":"1.0","data_base64":1}`, `{"datacontentencoding":"","specversion":"0.3"}`, `{"specversion":"1.0","":1}`, `{"id":"\ud800"}`} {
		f.Add("Content-Type: "+ceJSON, []byte(body), "")
	}
	f.Add("ce-: x\nce-specversion: 1.0", []byte(`{}`), "")
	f.Add("ce-specversion: 1.0\nce-id: \"%41\\\"\"\nce-source: a%20b\nce-type: t\nce-time: 9999-12-31T23:59:59-23:59", []byte(`{}`), "")
	f.Fuzz(func(t *testing.T, fields string, body []byte, topic string) {
		header := http.Header{}
		for line := range strings.SplitSeq(fields, "\n") {
			key, value, _ := strings.Cut(line, ":")
			header[http.CanonicalHeaderKey(key)] = append(header[http.CanonicalHeaderKey(key)], strings.TrimSpace(value))
		}
		checkOutcome(t, header, body, topic)
	})
}

// FuzzStructured spends its time on the JSON forms alone.
func FuzzStructured(f *testing.F) {
	for _, name := range fixtures(f) {
		f.Add([]byte(encode(load(f, name))))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		checkOutcome(t, http.Header{"Content-Type": {ceJSON}}, body, "")
	})
}

func checkOutcome(t *testing.T, header http.Header, body []byte, topic string) {
	t.Helper()
	e, err := events.DecodeBytes(header, body, topic)
	if err != nil {
		var rejection *events.Error
		if !errors.As(err, &rejection) || !rejection.Poison() || rejection.Reason == "" || !bytes.Equal(rejection.Body(), body) {
			t.Fatalf("%#v is no typed rejection with its body", err)
		}
		return
	}
	identity := e.Identity()
	if identity == "" || !utf8.ValidString(identity) {
		t.Fatalf("identity %q", identity)
	}
	first, err := json.Marshal(e)
	if err != nil {
		t.Fatalf("%s does not encode: %v", identity, err)
	}
	var back events.Event
	if err := json.Unmarshal(first, &back); err != nil {
		t.Fatalf("%v in %s", err, first)
	}
	second, err := json.Marshal(&back)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first, second) || back.Identity() != identity || back.Kind != e.Kind {
		t.Fatalf("%q encodes as\n%s\nand comes back as %q\n%s", identity, first, back.Identity(), second)
	}
}

func benchmarkDecode(b *testing.B, name string) {
	b.Helper()
	r := post(b, name)
	_, body, _ := bytes.Cut(file(b, name), []byte("\n\n"))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		r.Body = io.NopCloser(bytes.NewReader(body))
		e, err := events.Decode(r)
		if err != nil {
			b.Fatal(err)
		}
		if e.Identity() == "" {
			b.Fatal("no identity")
		}
	}
}

func BenchmarkDecodeStorage(b *testing.B)   { benchmarkDecode(b, "storage-finalized.binary.http") }
func BenchmarkDecodePubSub(b *testing.B)    { benchmarkDecode(b, "pubsub.push.http") }
func BenchmarkDecodeJobStatus(b *testing.B) { benchmarkDecode(b, "job-done.binary.http") }
