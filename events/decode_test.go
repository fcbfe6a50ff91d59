package events_test

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/events"
)

// upstream is the topic that the plain pushes in testdata come from, where their request line does not say.
const upstream = "projects/acme/topics/upstream"

func load(t testing.TB, name string) *events.Event {
	t.Helper()
	e, err := events.FromJSON(file(t, name), upstream)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return e
}

func file(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fixtures are the names of all the events in testdata.
func fixtures(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if !e.IsDir() {
			names = append(names, e.Name())
		}
	}
	if len(names) < 20 {
		t.Fatalf("testdata holds %d events only", len(names))
	}
	return names
}

// The identities are for good: a changed one makes every event that Penstock has seen a new one.
func TestIdentitiesAreFrozen(t *testing.T) {
	const part = "acme-landing/orders/eu/2026-11-21/part 1#a.csv"
	want := map[string]string{
		"storage-finalized.binary.http":           "finalized:" + part + "#1763700000123456",
		"storage-finalized.structured.json":       "finalized:" + part + "#1763700000123456",
		"storage-finalized.push.json":             "finalized:" + part + "#1763700000123456",
		"storage-finalized.redelivered-push.json": "finalized:" + part + "#1763700000123456",
		"storage-finalized.eventarc-pubsub.http":  "finalized:" + part + "#1763700000123456",
		"storage-overwritten.binary.http":         "finalized:" + part + "#1763700999000001",
		"storage-deleted.binary.http":             "deleted:" + part + "#1763700000123456",
		"storage-archived.binary.http":            "archived:" + part + "#1763700000123456",
		"storage-metadata.binary.http":            "metadataUpdated:" + part + "#1763700000123456.2",
		"storage-every-field.structured.json":     `finalized:acme_Old.bucket/räksmörgås/../${x}/{{y}}/%2F,"'日本.csv#9007199254740993`,
		"storage-snake-case.structured.json":      "finalized:acme-landing/a.csv#5",
		"pubsub.binary.http":                      "pubsub:projects/acme/topics/upstream#3103425958877813",
		"pubsub.structured.json":                  "pubsub:projects/acme/topics/upstream#3103425958877813",
		"pubsub.push.http":                        "pubsub:projects/acme/topics/upstream#3103425958877813",
		"pubsub-attributes-only.push.http":        "pubsub:projects/acme/topics/upstream#12",
		"pubsub-bytes.push.http":                  "pubsub:projects/acme/topics/upstream#13",
		"job-done.binary.http":                    "event://dataflow.googleapis.com/projects/acme/locations/europe-west1#ab3c01f6-77b2",
		"job-updated.structured.json":             "event://dataflow.googleapis.com/projects/acme/locations/europe-west1#ab3c01f6-77b3",
		"job-future-state.structured.json":        "event://dataflow.googleapis.com/projects/acme/locations/europe-west1#ab3c01f6-77b4",
		"generic.structured.json":                 "event:https://shop.example.com/50%2525%237#order 7#1",
		"generic-base64.structured.json":          "event:s#2",
		"generic-no-data.binary.http":             "event:/jobs/nightly#3",
	}
	for _, name := range fixtures(t) {
		if got := load(t, name).Identity(); got != want[name] {
			t.Errorf("%s: identity %q, want %q", name, got, want[name])
		}
	}
}

func TestOneChangeIsOneEventHoweverItIsDelivered(t *testing.T) {
	for _, group := range [][]string{
		{"storage-finalized.binary.http", "storage-finalized.structured.json", "storage-finalized.push.json", "storage-finalized.eventarc-pubsub.http"},
		{"pubsub.binary.http", "pubsub.structured.json", "pubsub.push.http"},
	} {
		first := *load(t, group[0])
		for _, name := range group[1:] {
			other := *load(t, name)
			// What belongs to the delivery and not to the change may differ.
			if first.PubSub != nil {
				other.ID = first.ID
				other.PubSub.Subscription, other.PubSub.DeliveryAttempt = first.PubSub.Subscription, first.PubSub.DeliveryAttempt
			}
			if a, b := encode(&first), encode(&other); a != b {
				t.Errorf("%s and %s differ:\n%s\n%s", group[0], name, a, b)
			}
		}
	}
}

func TestStorageEventHasEveryField(t *testing.T) {
	e := load(t, "storage-every-field.structured.json")
	date := func(s string) time.Time { d, _ := time.Parse(time.RFC3339Nano, s); return d }
	want := &events.Storage{
		Change: events.Finalized, Bucket: "acme_Old.bucket", Name: `räksmörgås/../${x}/{{y}}/%2F,"'日本.csv`,
		Generation: 9007199254740993, Metageneration: 9223372036854775807,
		ContentType: "text/plain", ContentEncoding: "gzip", ContentDisposition: "inline", ContentLanguage: "en", CacheControl: "no-store",
		MD5Hash: "xrX0h3SqCoeoKidv+GvlBw==", CRC32C: "AAAAAA==", ETag: "COu8mb3Dn+kCEAE=", StorageClass: "ANOTHER_CLASS_OF_2031",
		KMSKeyName: "projects/p/locations/l/keyRings/r/cryptoKeys/k", ComponentCount: 32, EventBasedHold: true,
		TimeCreated: date("2020-05-06T15:14:15.917Z"), Updated: date("1970-09-15T14:05:26.975Z"), TimeDeleted: date("2020-05-18T09:07:51.799Z"),
		TimeStorageClassUpdated: date("1988-10-25T10:29:01.558Z"), RetentionExpirationTime: date("1960-08-15T07:40:17.432Z"),
	}
	if !reflect.DeepEqual(e.Storage, want) {
		t.Errorf("got  %+v\nwant %+v", e.Storage, want)
	}
	if e.Kind != events.KindStorage || e.Subject != "objects/"+want.Name || e.Storage.URI() != "gs://acme_Old.bucket/"+want.Name {
		t.Errorf("kind %s, subject %q, URI %q", e.Kind, e.Subject, e.Storage.URI())
	}
}

func TestStorageFieldsInSnakeCaseAndAsStrings(t *testing.T) {
	s := load(t, "storage-snake-case.structured.json").Storage
	if s.ContentType != "text/csv" || s.MD5Hash == "" || s.StorageClass != "STANDARD" || s.TimeCreated.IsZero() || s.Generation != 5 {
		t.Errorf("got %+v", s)
	}
}

func TestPubSubMessage(t *testing.T) {
	got := load(t, "pubsub.push.http").PubSub
	want := &events.PubSub{
		Topic: upstream, Subscription: "projects/acme/subscriptions/up", DeliveryAttempt: 5, MessageID: "3103425958877813", OrderingKey: "eu",
		PublishTime: time.Date(2026, 11, 21, 4, 6, 14, 109e6, time.UTC),
		Attributes:  map[string]string{"kind": "forecast", "region": "eu"}, Data: []byte(`{"day":"2026-11-21"}`),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	if m := load(t, "pubsub-bytes.push.http").PubSub; string(m.Data) != "\x01\x02\x03\xff" || m.OrderingKey != "k" || m.DeliveryAttempt != 2 {
		t.Errorf("URL-safe base64 and snake case: got %+v", m)
	}
	if m := load(t, "pubsub-attributes-only.push.http").PubSub; m.Data != nil || m.Attributes["a"] != "b" {
		t.Errorf("no data: got %+v", m)
	}
}

func TestJobStatus(t *testing.T) {
	date := func(s string) time.Time { d, _ := time.Parse(time.RFC3339Nano, s); return d }
	for name, want := range map[string]*events.JobStatus{
		"job-done.binary.http": {
			Project: "acme", Location: "europe-west1", JobName: "prod-orders-clean-1a2b3c4d-1", JobID: "2026-11-20_21_00_00-1234567890123456789",
			State: "JOB_STATE_DONE", StateTime: date("2026-11-21T05:07:12.345678Z"), Type: "JOB_TYPE_BATCH", CreateTime: date("2026-11-21T05:00:01Z"),
			StartTime: date("2026-11-21T05:00:01.5Z"), Labels: map[string]string{"penstock_pipeline": "orders"},
		},
		"job-updated.structured.json": {
			Project: "acme", Location: "europe-west1", JobName: "prod-stream-read-1a2b3c4d-1", JobID: "old-id", State: "JOB_STATE_UPDATED",
			StateTime: date("2026-11-21T05:07:12Z"), Type: "JOB_TYPE_STREAMING", ReplacedByJobID: "new-id",
		},
		"job-future-state.structured.json": {
			Project: "acme", Location: "europe-west1", JobName: "n", JobID: "i", State: "JOB_STATE_HIBERNATING", Type: "JOB_TYPE_HYBRID", ReplaceJobID: "older",
		},
	} {
		if got := load(t, name).JobStatus; !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
	}
}

func TestGenericEvent(t *testing.T) {
	e := load(t, "generic.structured.json")
	if e.Kind != events.KindGeneric || e.Type != "com.example.order.placed" || e.Source != "https://shop.example.com/50%25#7" || e.Subject != "orders/7" || e.DataSchema == "" {
		t.Errorf("got %+v", e)
	}
	if want := time.Date(2026, 11, 21, 4, 0, 0, 0, time.UTC); !e.Time.Equal(want) || e.Time.Location() != time.UTC {
		t.Errorf("time %v, want %v in UTC", e.Time, want)
	}
	if e.Extensions["comexampleretry"] != "3" || e.Extensions["urgent"] != "true" || len(e.Extensions) != 3 {
		t.Errorf("extensions %v", e.Extensions)
	}
	if want := `{"total":12345678901234567890,"rate":1.5,"html":"<b>&</b>","":"an empty name is data","lines":[{"sku":"é"}]}`; string(e.Data) != want {
		t.Errorf("data %s\nwant %s", e.Data, want)
	}
	if e := load(t, "generic-base64.structured.json"); string(e.Data) != `{"a":1}` {
		t.Errorf("data_base64: %s", e.Data)
	}
	if e := load(t, "generic-no-data.binary.http"); e.Data != nil || !e.Time.IsZero() {
		t.Errorf("no data: %s at %v", e.Data, e.Time)
	}
}

// Nobody knows that every sender encodes the subject: an object name in it must not cost the event.
func TestSubjectThatDoesNotDecodeIsNoReasonToRefuseAFile(t *testing.T) {
	for _, subject := range []string{"objects/100%.csv", "objects/%FF.csv", "objects/\xff.csv", "objects/other.csv", "objects/tab\t.csv"} {
		header := http.Header{
			"Ce-Specversion": {"1.0"}, "Ce-Type": {events.TypeStorageFinalized}, "Ce-Source": {"//storage.googleapis.com/projects/_/buckets/b"}, "Ce-Id": {"1"},
			"Ce-Subject": {subject}, "Ce-Bucket": {"b"},
		}
		e, err := events.DecodeBytes(header, []byte(`{"bucket":"b","name":"%FF.csv","generation":1}`), "")
		if err != nil {
			t.Errorf("%q: %v", subject, err)
			continue
		}
		if e.Subject != "objects/%FF.csv" || e.Identity() != "finalized:b/%FF.csv#1" {
			t.Errorf("%q: subject %q, identity %q; want them from the data", subject, e.Subject, e.Identity())
		}
	}
}

// The HTTP binding (3.1.3.2) has receivers undo quotes and percent-encoding, once.
func TestHeadersArePercentDecodedOnce(t *testing.T) {
	header := http.Header{
		"Ce-Specversion": {"1.0"}, "Ce-Type": {"com.example.t"}, "Ce-Source": {"/a%20b"}, "Ce-Id": {`"50%2525 \"off\""`},
		"Ce-Subject": {"Euro%20%E2%82%AC"}, "Ce-Path": {"100% of it"}, "Ce-Datacontenttype": {"text/plain"},
	}
	e, err := events.DecodeBytes(header, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	if e.Source != "/a b" || e.ID != `50%25 "off"` || e.Subject != "Euro €" || e.Extensions["path"] != "100% of it" {
		t.Errorf("got source %q, id %q, subject %q, extensions %q", e.Source, e.ID, e.Subject, e.Extensions)
	}
}

func TestEveryEventRoundTripsThroughJSON(t *testing.T) {
	for _, name := range fixtures(t) {
		e := load(t, name)
		first := encode(e)
		var back events.Event
		if err := json.Unmarshal([]byte(first), &back); err != nil {
			t.Fatalf("%s: %v in\n%s", name, err, first)
		}
		if second := encode(&back); first != second {
			t.Errorf("%s: encodes as\n%s\nthen as\n%s", name, first, second)
		}
		if back.Identity() != e.Identity() || !reflect.DeepEqual(back.Storage, e.Storage) || !reflect.DeepEqual(back.PubSub, e.PubSub) || !reflect.DeepEqual(back.JobStatus, e.JobStatus) {
			t.Errorf("%s: came back as %+v", name, back)
		}
		if again, err := events.FromJSON([]byte(first), ""); err != nil || again.Identity() != e.Identity() {
			t.Errorf("%s: FromJSON of the encoding: %v", name, err)
		}
	}
}

// Other languages read this encoding as workflow input: fields may join it, none may change.
func TestEncodingIsFrozen(t *testing.T) {
	for _, name := range []string{"storage-metadata.binary.http", "storage-every-field.structured.json", "pubsub.push.http", "job-done.binary.http", "generic.structured.json"} {
		got := encode(load(t, name))
		golden := filepath.Join("testdata", "encoded", strings.SplitN(name, ".", 2)[0]+".json")
		if os.Getenv("UPDATE_GOLDEN") != "" {
			if err := os.WriteFile(golden, []byte(got+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if got+"\n" != string(want) {
			t.Errorf("%s encodes as\n%s\nwant\n%s", name, got, want)
		}
	}
}

func TestEventHeldByValueEncodesTheSame(t *testing.T) {
	e := load(t, "pubsub.push.http")
	byValue, err := json.Marshal(struct{ E events.Event }{*e})
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"E":` + encode(e) + `}`; string(byValue) != want {
		t.Errorf("got %s, want %s", byValue, want)
	}
}

func encode(e *events.Event) string {
	b, err := json.Marshal(e)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// post makes the request that the HTTP text in testdata describes.
func post(t testing.TB, name string) *http.Request {
	t.Helper()
	text := file(t, name)
	head, body, ok := bytes.Cut(text, []byte("\n\n"))
	if !ok {
		t.Fatalf("%s has no empty line", name)
	}
	lines := strings.Split(string(head), "\n")
	r := httptest.NewRequest(http.MethodPost, strings.Fields(lines[0])[1], bytes.NewReader(body))
	for _, line := range lines[1:] {
		key, value, _ := strings.Cut(line, ": ")
		r.Header.Add(key, value)
	}
	return r
}

func TestDecodeOverHTTPKeepsTheBody(t *testing.T) {
	for _, name := range fixtures(t) {
		if !strings.HasSuffix(name, ".http") {
			continue
		}
		_, want, _ := bytes.Cut(file(t, name), []byte("\n\n"))
		got := make(chan *events.Event, 1)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			e, err := events.Decode(r)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			got <- e
		}))
		r := post(t, name)
		out, err := http.NewRequest(http.MethodPost, server.URL+r.URL.RequestURI(), r.Body)
		if err != nil {
			t.Fatal(err)
		}
		out.Header = r.Header
		resp, err := http.DefaultClient.Do(out)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		server.Close()
		e := <-got
		if e == nil {
			continue
		}
		if e.Identity() != load(t, name).Identity() || !bytes.Equal(e.Body(), want) {
			t.Errorf("%s: identity %q, body of %d bytes, want %d", name, e.Identity(), len(e.Body()), len(want))
		}
	}
}
