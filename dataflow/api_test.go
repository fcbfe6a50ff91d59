package dataflow_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/penstock/penstock/dataflow"
)

// api is a Dataflow endpoint that keeps every request that came in whole, and answers as the test says.
type api struct {
	*httptest.Server
	client *dataflow.Client

	mu   sync.Mutex
	seen []*http.Request
	body []string
}

func serve(t *testing.T, answer http.HandlerFunc) *api {
	t.Helper()
	a := new(api)
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // no whole request, so nothing that could be carried out
		}
		a.mu.Lock()
		a.seen, a.body = append(a.seen, r), append(a.body, string(body))
		a.mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer(w, r)
	}))
	t.Cleanup(a.Close)
	a.client = dial(t, dataflow.Options{Endpoint: a.URL})
	return a
}

func dial(t *testing.T, o dataflow.Options) *dataflow.Client {
	t.Helper()
	c, err := dataflow.New(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// requests is how many came in whole.
func (a *api) requests() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.seen)
}

// last is the latest request and its body.
func (a *api) last(t *testing.T) (*http.Request, string) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.seen) == 0 {
		t.Fatal("no request came")
	}
	return a.seen[len(a.seen)-1], a.body[len(a.body)-1]
}

// reply answers with a status and a body.
func reply(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

// refuse answers as the API refuses.
func refuse(code int, status, reason, message string, details ...any) http.HandlerFunc {
	b, err := json.Marshal(map[string]any{"error": map[string]any{
		"code": code, "message": message, "status": status, "details": details,
		"errors": []any{map[string]any{"message": message, "domain": "global", "reason": reason}},
	}})
	if err != nil {
		panic(err)
	}
	return reply(code, string(b))
}

// reset drops the connection as a crash does.
func reset(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// failure is err as an *Error of the kind.
func failure(t *testing.T, err error, kind dataflow.Kind) *dataflow.Error {
	t.Helper()
	var e *dataflow.Error
	if !errors.As(err, &e) {
		t.Fatalf("error %v, want one of kind %s", err, kind)
	}
	if e.Kind != kind || !errors.Is(err, kind) || dataflow.KindOf(err) != kind {
		t.Fatalf("kind %q, want %q: %v", e.Kind, kind, err)
	}
	return e
}

// calls are all of the client's, by what they do.
var calls = map[string]struct {
	write bool
	do    func(ctx context.Context, c *dataflow.Client) error
}{
	"launch": {true, func(ctx context.Context, c *dataflow.Client) error { _, err := c.Launch(ctx, orders()); return err }},
	"launch classic": {true, func(ctx context.Context, c *dataflow.Client) error {
		l := orders()
		l.Classic = true
		_, err := c.Launch(ctx, l)
		return err
	}},
	"cancel": {true, func(ctx context.Context, c *dataflow.Client) error {
		return c.Cancel(ctx, "acme", "us-central1", "id", false)
	}},
	"drain": {true, func(ctx context.Context, c *dataflow.Client) error { return c.Drain(ctx, "acme", "us-central1", "id") }},
	"find": {false, func(ctx context.Context, c *dataflow.Client) error {
		_, err := c.Find(ctx, "acme", "us-central1", "a")
		return err
	}},
	"list": {false, func(ctx context.Context, c *dataflow.Client) error {
		_, err := c.List(ctx, "acme", "us-central1")
		return err
	}},
	"get": {false, func(ctx context.Context, c *dataflow.Client) error {
		_, err := c.Get(ctx, "acme", "us-central1", "id")
		return err
	}},
	"metrics": {false, func(ctx context.Context, c *dataflow.Client) error {
		_, err := c.Metrics(ctx, "acme", "us-central1", "id")
		return err
	}},
	"first error": {false, func(ctx context.Context, c *dataflow.Client) error {
		_, err := c.FirstError(ctx, "acme", "us-central1", "id")
		return err
	}},
}

// eachCall runs a test for every call.
func eachCall(t *testing.T, test func(t *testing.T, write bool, do func(ctx context.Context, c *dataflow.Client) error)) {
	for name, call := range calls {
		t.Run(name, func(t *testing.T) { test(t, call.write, call.do) })
	}
}
