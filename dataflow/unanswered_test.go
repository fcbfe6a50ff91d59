package dataflow_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/dataflow"
)

// What comes of a call that gets no usable answer turns on one question: may it have been carried out? A read changes
// nothing, so that it never may.
func TestNoUsableAnswer(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"reset after the commit": reset,
		"closed half way through the answer": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"id": "2026`)
		},
		"internal error":             refuse(500, "INTERNAL", "backendError", "Internal error encountered."),
		"unavailable":                refuse(503, "UNAVAILABLE", "backendError", "The service is currently unavailable."),
		"a gateway's time-out":       reply(504, "upstream request timeout"),
		"a proxy's bad gateway":      reply(502, "<html>Bad Gateway</html>"),
		"a request's time-out":       reply(408, ""),
		"deadline exceeded":          refuse(404, "NOT_FOUND", "notFound", `Calling GetObjectMetadata with file "/bigstore/x": RPC::DEADLINE_EXCEEDED: Deadline exceeded, notFound`),
		"lost against another write": refuse(409, "ABORTED", "aborted", "The operation was aborted."),
		"a page of a login":          reply(200, "<html>Sign in</html>"),
		"nothing but null":           reply(200, "null"),
		"a redirect":                 redirect(http.StatusFound),
		"a redirect of the write":    redirect(http.StatusPermanentRedirect),
	} {
		t.Run(name, func(t *testing.T) {
			eachCall(t, func(t *testing.T, write bool, do func(context.Context, *dataflow.Client) error) {
				a := serve(t, answer)
				want := dataflow.KindTransient
				if write {
					want = dataflow.KindUnanswered
				}
				_ = failure(t, do(t.Context(), a.client), want)
				// Go's transport may repeat a read by itself, when a connection breaks; a write must go out once.
				if n := a.requests(); n != 1 && write {
					t.Errorf("%d requests went out", n)
				}
				if r, _ := a.last(t); strings.Contains(r.URL.Path, "elsewhere") {
					t.Error("the redirect was followed")
				}
			})
		})
	}
}

// redirect sends the client elsewhere, where it would find an answer.
func redirect(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			reply(200, `{"id": "id", "job": {"id": "id"}}`)(w, r)
			return
		}
		http.Redirect(w, r, "/elsewhere", code)
	}
}

// An answer without an end is not read to the end, whether it is a success or a refusal.
func TestAnswersAreBounded(t *testing.T) {
	const chunks = 64 // of 1 MiB
	for _, code := range []int{200, 500} {
		eachCall(t, func(t *testing.T, write bool, do func(context.Context, *dataflow.Client) error) {
			cut := make(chan bool, 8)
			a := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(code)
				_, _ = io.WriteString(w, `{"id": "id", "job": {"id": "id"}, "more": "`)
				chunk := strings.Repeat("x", 1<<20)
				for range chunks {
					if _, err := io.WriteString(w, chunk); err != nil {
						cut <- true
						return
					}
				}
				_, _ = io.WriteString(w, `"}`)
				cut <- false
			})
			want := dataflow.KindTransient
			if write {
				want = dataflow.KindUnanswered
			}
			_ = failure(t, do(t.Context(), a.client), want)
			if !<-cut {
				t.Errorf("%d: all %d MiB were read", code, chunks)
			}
		})
	}
}

func TestHang(t *testing.T) {
	eachCall(t, func(t *testing.T, write bool, do func(context.Context, *dataflow.Client) error) {
		want := dataflow.KindTransient
		if write {
			want = dataflow.KindUnanswered
		}
		t.Run("until the caller gives up", func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			a := serve(t, func(_ http.ResponseWriter, r *http.Request) {
				cancel()
				<-r.Context().Done()
			})
			if err := do(ctx, a.client); !errors.Is(failure(t, err, want), context.Canceled) {
				t.Errorf("%v is not context.Canceled", err)
			}
		})
		t.Run("until the call's time is up", func(t *testing.T) {
			a := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
			a.client = dial(t, dataflow.Options{Endpoint: a.URL, Timeout: 100 * time.Millisecond})
			if err := do(t.Context(), a.client); !errors.Is(failure(t, err, want), context.DeadlineExceeded) {
				t.Errorf("%v is not context.DeadlineExceeded", err)
			}
		})
	})
}

// A request that surely did not leave was not carried out, and the call can be made again at once.
func TestNeverLeft(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + closed.Addr().String()
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	eachCall(t, func(t *testing.T, _ bool, do func(context.Context, *dataflow.Client) error) {
		t.Run("nobody listens", func(t *testing.T) {
			_ = failure(t, do(t.Context(), dial(t, dataflow.Options{Endpoint: nobody})), dataflow.KindTransient)
		})
		t.Run("cancelled before", func(t *testing.T) {
			a := serve(t, reply(200, "{}"))
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_ = failure(t, do(ctx, a.client), dataflow.KindTransient)
			if a.requests() != 0 {
				t.Error("a request went out")
			}
		})
		t.Run("too late", func(t *testing.T) {
			a := serve(t, reply(200, "{}"))
			ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
			defer cancel()
			_ = failure(t, do(ctx, a.client), dataflow.KindTransient)
			if a.requests() != 0 {
				t.Error("a request went out")
			}
		})
		t.Run("too late by the wall clock alone", func(t *testing.T) {
			a := serve(t, reply(200, "{}"))
			_ = failure(t, do(suspended{t.Context()}, a.client), dataflow.KindTransient)
			if a.requests() != 0 {
				t.Error("a request went out")
			}
		})
		t.Run("no trust in the other side", func(t *testing.T) {
			tls := httptest.NewUnstartedServer(reply(200, "{}"))
			tls.Config.ErrorLog = discard
			tls.StartTLS()
			defer tls.Close()
			_ = failure(t, do(t.Context(), dial(t, dataflow.Options{Endpoint: tls.URL})), dataflow.KindTransient)
		})
	})
}

// suspended is the context of a process that slept past its deadline: the context is not done yet, as its timer went by
// a clock that slept too.
type suspended struct{ context.Context }

func (suspended) Deadline() (time.Time, bool) { return time.Now().Add(-time.Second), true }

// A transport that tells nothing of its progress may have sent everything.
func TestUntracedTransport(t *testing.T) {
	c := dial(t, dataflow.Options{Endpoint: "http://127.0.0.1:1", HTTPClient: &http.Client{Transport: broken{}}})
	_, err := c.Launch(t.Context(), orders())
	_ = failure(t, err, dataflow.KindUnanswered)
	_, err = c.Get(t.Context(), "acme", "us-central1", "id")
	_ = failure(t, err, dataflow.KindTransient)
}

type broken struct{}

func (broken) RoundTrip(*http.Request) (*http.Response, error) { return nil, errors.New("broken") }

// A kept connection that the server has closed meanwhile is the usual way in which a write goes astray. Whether the
// transport notices before or after it wrote, a write counted as not done must not have arrived.
func TestStaleConnection(t *testing.T) {
	for range 50 {
		a := serve(t, func(w http.ResponseWriter, r *http.Request) {
			reply(200, `{"job": {"id": "id"}}`)(w, r)
		})
		if _, err := a.client.Launch(t.Context(), orders()); err != nil {
			t.Fatal(err)
		}
		go a.CloseClientConnections()
		before := a.requests()
		_, err := a.client.Launch(t.Context(), orders())
		arrived := a.requests() - before
		if arrived > 1 || (err == nil && arrived != 1) || (dataflow.KindOf(err) == dataflow.KindTransient && arrived != 0) {
			t.Fatalf("%d writes arrived, the error is %v", arrived, err)
		}
		a.Close()
	}
}

// Credentials are no part of the call: when they cannot be had, nothing has left.
func TestCredentials(t *testing.T) {
	for name, tt := range map[string]struct {
		token http.HandlerFunc
		want  dataflow.Kind
	}{
		"refused":    {reply(400, `{"error": "invalid_grant", "error_description": "account not found"}`), dataflow.KindPermission},
		"nobody can": {reply(503, ""), dataflow.KindTransient},
	} {
		t.Run(name, func(t *testing.T) {
			tokens := httptest.NewServer(tt.token)
			defer tokens.Close()
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", serviceAccount(t, tokens.URL))
			// Google's own address: what is tested is that nothing is sent there.
			c := dial(t, dataflow.Options{Timeout: 2 * time.Second})
			_, err := c.Launch(t.Context(), orders())
			e := failure(t, err, tt.want)
			if e.Code != 0 {
				t.Errorf("answered %d: the request left", e.Code)
			}
		})
	}
	t.Run("not sent to an emulator", func(t *testing.T) {
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
		a := serve(t, reply(200, `{"job": {"id": "id"}}`))
		if _, err := a.client.Launch(t.Context(), orders()); err != nil {
			t.Fatal(err)
		}
		if r, _ := a.last(t); r.Header.Get("Authorization") != "" {
			t.Error("credentials were sent")
		}
	})
	t.Run("none to be found", func(t *testing.T) {
		t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
		if _, err := dataflow.New(t.Context(), dataflow.Options{}); err == nil || !strings.Contains(err.Error(), "DATAFLOW_ENDPOINT") {
			t.Errorf("error %v, want one that says what to do", err)
		}
	})
}

func TestEndpoint(t *testing.T) {
	for _, bad := range []string{"localhost:8080", "ftp://x", "http://", "http://x/v1b3", "http://x?a=b", "://", "http://x\n"} {
		if _, err := dataflow.New(t.Context(), dataflow.Options{Endpoint: bad}); err == nil || !strings.Contains(err.Error(), "DATAFLOW_ENDPOINT") {
			t.Errorf("endpoint %q: error %v", bad, err)
		}
	}
	// Whatever resembles Google's gets no credentials: that none are looked for is seen by New not failing.
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
	for endpoint, google := range map[string]bool{
		"https://dataflow.googleapis.com": true, "https://dataflow.europe-west4.rep.googleapis.com/": true, "https://DATAFLOW.googleapis.com:443": true,
		"http://dataflow.googleapis.com": false, "https://googleapis.com.example.com": false, "https://evilgoogleapis.com": false,
		"https://dataflow.googleapis.com@127.0.0.1": false, "http://127.0.0.1:1/": false,
	} {
		if _, err := dataflow.New(t.Context(), dataflow.Options{Endpoint: endpoint}); (err != nil) != google {
			t.Errorf("endpoint %q: error %v", endpoint, err)
		}
	}
}

func TestErrorAsJSON(t *testing.T) {
	a := serve(t, refuse(400, "INVALID_ARGUMENT", "badRequest", "no"))
	_, err := a.client.Get(t.Context(), "acme", "us-central1", "id")
	want := failure(t, err, dataflow.KindInvalid)
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got dataflow.Error
	if err := json.Unmarshal(b, &got); err != nil || got.Error() != want.Error() || got.Kind != want.Kind {
		t.Errorf("%s comes back as %v (%v)", b, &got, err)
	}
}
