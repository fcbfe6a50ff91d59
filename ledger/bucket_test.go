package ledger

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/runs"
)

const testBucket = "acme-state"

// testServer speaks what the ledger uses of the JSON API, with its preconditions:
// https://cloud.google.com/storage/docs/json_api/v1/objects. Real Cloud Storage
// loses no answer when a test asks it to.
type testServer struct {
	t     *testing.T
	http  *httptest.Server
	pages int // objects a page of a list

	mu         sync.Mutex
	objects    map[string]testObject
	generation int64
	seen       []string // each request's method, path and query
	fault      func(w http.ResponseWriter, r *http.Request, carryOut func()) bool
}

type testObject struct {
	data       string
	generation int64
	written    time.Time
}

func startBucket(t *testing.T) *testServer {
	t.Helper()
	s := &testServer{t: t, objects: map[string]testObject{}, generation: 1763000000000000, pages: 7}
	s.http = httptest.NewServer(s)
	t.Cleanup(s.http.Close)
	t.Setenv("STORAGE_EMULATOR_HOST", strings.TrimPrefix(s.http.URL, "http://"))
	return s
}

func (s *testServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, r.Method+" "+r.URL.RequestURI())
	if r.Header.Get("Authorization") != "" {
		s.t.Error("an emulator gets credentials")
	}
	if s.fault != nil && s.fault(w, r, func() { s.serve(httptest.NewRecorder(), r) }) {
		return
	}
	s.serve(w, r)
}

// once makes the next request that matches meet a fault.
func (s *testServer) once(method string, fault func(w http.ResponseWriter, carryOut func())) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = func(w http.ResponseWriter, r *http.Request, carryOut func()) bool {
		if r.Method != method {
			return false
		}
		s.fault = nil
		fault(w, carryOut)
		return true
	}
}

func loseAnswer(_ http.ResponseWriter, carryOut func()) {
	carryOut()
	panic(http.ErrAbortHandler)
}

func answer(code int, body string) func(http.ResponseWriter, func()) {
	return func(w http.ResponseWriter, _ func()) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func (s *testServer) serve(w http.ResponseWriter, r *http.Request) {
	refuse := func(code int, reason, message string) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{"code": code, "message": message, "errors": []any{map[string]any{"reason": reason, "message": message}}}})
	}
	q := r.URL.Query()
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/upload")
	rest, ok := strings.CutPrefix(path, "/storage/v1/b/"+testBucket+"/o")
	object, err := url.PathUnescape(strings.TrimPrefix(rest, "/"))
	switch {
	case !ok || err != nil:
		refuse(404, "notFound", "The specified bucket does not exist.")
	case r.Method == http.MethodPost && rest == "" && q.Get("uploadType") == "multipart":
		name, data := s.upload(r)
		want, err := strconv.ParseInt(q.Get("ifGenerationMatch"), 10, 64)
		if err != nil {
			s.t.Errorf("a write without a precondition: %s", r.URL)
		}
		if s.objects[name].generation != want {
			refuse(412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.")
			return
		}
		s.generation++
		s.objects[name] = testObject{data, s.generation, time.Now()}
		_ = json.NewEncoder(w).Encode(map[string]string{"generation": strconv.FormatInt(s.generation, 10)})
	case r.Method == http.MethodGet && rest == "":
		s.list(w, q)
	case r.Method == http.MethodGet && q.Get("alt") == "media":
		o, ok := s.objects[object]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprintf(w, "No such object: %s/%s", testBucket, object)
			return
		}
		w.Header().Set("X-Goog-Generation", strconv.FormatInt(o.generation, 10))
		_, _ = io.WriteString(w, o.data)
	default:
		refuse(400, "invalid", "unexpected: "+r.Method+" "+r.URL.String())
	}
}

func (s *testServer) upload(r *http.Request) (name, data string) {
	s.t.Helper()
	_, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		s.t.Fatal(err)
	}
	parts := multipart.NewReader(r.Body, params["boundary"])
	var contents []string
	for {
		part, err := parts.NextPart()
		if errors.Is(err, io.EOF) {
			break
		}
		contents = append(contents, string(must(io.ReadAll(part))(s.t)))
	}
	var meta struct{ Name, CacheControl, ContentType string }
	if err := json.Unmarshal([]byte(contents[0]), &meta); err != nil || meta.CacheControl != "no-store" || meta.ContentType != "application/json" {
		s.t.Errorf("metadata %s, %v", contents[0], err)
	}
	return meta.Name, contents[1]
}

func (s *testServer) list(w io.Writer, q url.Values) {
	names := slices.Sorted(maps.Keys(s.objects))
	names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasPrefix(n, q.Get("prefix")) || n < q.Get("pageToken") })
	answer := map[string]any{}
	if len(names) > s.pages {
		answer["nextPageToken"] = names[s.pages]
		names = names[:s.pages]
	}
	items := []any{}
	for _, n := range names {
		items = append(items, map[string]string{"name": n, "timeCreated": s.objects[n].written.UTC().Format(time.RFC3339Nano)})
	}
	answer["items"] = items
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *testServer) count(prefix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.seen {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func TestALostAnswerIsAskedForAgain(t *testing.T) {
	s := startBucket(t)
	l := open(t, "gs://"+testBucket)
	c := claim("a.csv", "first", day0)
	s.once(http.MethodPost, loseAnswer)
	if got, err := l.Claim(t.Context(), c); err == nil {
		t.Fatalf("the answer was lost, and yet %+v", got)
	}
	first := must(l.Claim(t.Context(), c))(t)
	if !first.Mine {
		t.Fatalf("the chain does not know its own claim: %+v", first)
	}

	second := claim("a.csv", "second", day0.Add(time.Hour))
	s.once(http.MethodPost, loseAnswer)
	if got, err := l.TakeOver(t.Context(), first.Entry, second); err == nil {
		t.Fatalf("the answer was lost, and yet %+v", got)
	}
	if got := must(l.Claim(t.Context(), second))(t); !got.Mine || got.Entry.Claim.After != "first" {
		t.Fatalf("the chain does not know its own take-over: %+v", got)
	}

	s.once(http.MethodPost, loseAnswer)
	r := record(second, runs.OutcomeSucceeded, day0.Add(2*time.Hour))
	if err := l.Finish(t.Context(), r); err == nil {
		t.Fatal("the answer was lost, and yet no error")
	}
	finish(t, l, r)
	if n := len(s.objects); n != 2 {
		t.Errorf("there are %d objects, want the claim and its record", n)
	}
}

func TestAFreshClaimIsOneCall(t *testing.T) {
	s := startBucket(t)
	must(open(t, "gs://"+testBucket).Claim(t.Context(), claim("a.csv", "first", day0)))(t)
	if n := s.count(""); n != 1 {
		t.Errorf("%d calls: %q", n, s.seen)
	}
}

func TestABucketsTroubleIsAnErrorWithAHint(t *testing.T) {
	for _, test := range []struct {
		name   string
		method string
		code   int
		body   string
		hint   string
	}{
		{"too many requests", http.MethodPost, 429, `{"error":{"code":429}}`, "try again"},
		{"an outage", http.MethodPost, 503, "<html>", "try again"},
		{"no such bucket", http.MethodPost, 404, `{"error":{"code":404,"message":"The specified bucket does not exist."}}`, "create the bucket"},
		{"no such bucket, of a read", http.MethodGet, 404, "The specified bucket does not exist.", "create the bucket"},
		{"not allowed", http.MethodPost, 403, `{"error":{"code":403}}`, "roles/storage.objectUser"},
		{"a redirect", http.MethodPost, 307, "", "redirects are not followed"},
		{"a redirect of a read", http.MethodGet, 302, "", "redirects are not followed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := startBucket(t)
			l := open(t, "gs://"+testBucket)
			s.once(test.method, answer(test.code, test.body))
			var err error
			if test.method == http.MethodPost {
				_, err = l.Claim(t.Context(), claim("a.csv", "first", day0))
			} else {
				_, err = l.Read(t.Context(), "prod", "orders", "a.csv")
			}
			var e *Error
			if !errors.As(err, &e) || e.Code != test.code || !strings.Contains(e.Hint, test.hint) || errors.Is(err, ErrNotFound) {
				t.Errorf("got %v", err)
			}
			if n := s.count(""); n != 1 {
				t.Errorf("%d calls: %q", n, s.seen)
			}
			if !strings.Contains(fmt.Sprint(err), `key "a.csv" of pipeline "orders"`) {
				t.Errorf("the error does not name the key: %v", err)
			}
		})
	}
}

func TestAStrangeAnswerIsAnError(t *testing.T) {
	endless := func(w http.ResponseWriter, _ func()) {
		w.Header().Set("X-Goog-Generation", "1")
		for range 2 * maxObject / 64 {
			_, _ = io.WriteString(w, strings.Repeat(" ", 64))
		}
	}
	for name, test := range map[string]struct {
		method string
		fault  func(http.ResponseWriter, func())
	}{
		"a write without a generation": {http.MethodPost, answer(200, "{}")},
		"a write answered with null":   {http.MethodPost, answer(200, "null")},
		"a read without a generation":  {http.MethodGet, answer(200, `{}`)},
		"an object without an end":     {http.MethodGet, endless},
	} {
		t.Run(name, func(t *testing.T) {
			s := startBucket(t)
			l := open(t, "gs://"+testBucket)
			s.once(test.method, test.fault)
			_, err := l.Claim(t.Context(), claim("a.csv", "first", day0))
			if test.method == http.MethodGet {
				_, err = l.Read(t.Context(), "prod", "orders", "a.csv")
			}
			if err == nil || strings.Contains(name, "without an end") && !errors.Is(err, errTooLarge) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestAListThatBreaksOffSaysSo(t *testing.T) {
	s := startBucket(t)
	l := open(t, "gs://"+testBucket)
	for i := range 20 {
		must(l.Claim(t.Context(), claim(strconv.Itoa(i), "first", day0)))(t)
	}
	list := 0
	s.fault = func(w http.ResponseWriter, r *http.Request, _ func()) bool {
		if !r.URL.Query().Has("prefix") {
			return false
		}
		list++
		if list == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return list == 2
	}
	seen, failed := 0, error(nil)
	for _, err := range l.List(t.Context(), "prod", "orders", time.Time{}, time.Time{}) {
		failed = cmp.Or(failed, err)
		if err == nil {
			seen++
		}
	}
	if seen != s.pages || failed == nil {
		t.Errorf("%d entries, then %v", seen, failed)
	}
}

func TestStorageEmulatorHost(t *testing.T) {
	s := startBucket(t)
	for _, host := range []string{s.http.URL, s.http.URL + "/", s.http.Listener.Addr().String()} {
		t.Setenv("STORAGE_EMULATOR_HOST", host)
		must(open(t, "gs://"+testBucket).Claim(t.Context(), claim("a.csv", "first", day0)))(t)
	}
	for _, host := range []string{"ftp://x", "http://", "http://x/storage/v1", "http://user:secret@x", "http://x?y"} {
		t.Setenv("STORAGE_EMULATOR_HOST", host)
		if _, err := Open(t.Context(), "gs://"+testBucket); err == nil || !strings.Contains(err.Error(), "STORAGE_EMULATOR_HOST") {
			t.Errorf("%s: %v", host, err)
		}
	}
}
