package faults

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// errReset and errHung end a call without an answer.
var (
	errReset = errors.New("a fault cut the call off")
	errHung  = errors.New("a fault left the call unanswered")
)

// refusal is the answer of a Status rule.
type refusal struct{ Rule }

func (r refusal) Error() string { return r.text() }

func (r refusal) text() string {
	return cmp.Or(r.Message, fmt.Sprintf("%s (fault %s)", http.StatusText(r.Status), r.Name))
}

// GRPCStatus makes it a gRPC error, with the delay as a RetryInfo (google/rpc/error_details.proto).
func (r refusal) GRPCStatus() *status.Status {
	s := status.New(answers[r.Status], r.text())
	if r.RetryAfter > 0 {
		if with, err := s.WithDetails(&errdetails.RetryInfo{RetryDelay: durationpb.New(time.Duration(r.RetryAfter))}); err == nil {
			s = with
		}
	}
	return s
}

// call strikes one call, before it does anything or once it is committed: it waits, and returns how the call ends if it does: a refusal, errReset or errHung.
// A call's context that ends leaves it unanswered.
func (l *Lab) call(ctx context.Context, t target, committed bool) error {
	for _, s := range l.strikes(t, func(r Rule) bool { return r.Committed == committed && callFaults[r.Fault].taken() }, func(f Fault) bool { return f != Latency }) {
		switch s.Fault {
		case Latency:
			waiting := ctx
			if s.Proceeds {
				waiting = context.WithoutCancel(ctx)
			}
			if s.sleep(waiting, s.delay()) != nil {
				return errHung
			}
		case Status:
			return refusal{s.Rule}
		case Hang:
			s.hang(ctx)
			return errHung
		case Reset:
			return errReset
		}
	}
	return nil
}

// taken tells an entry of a map from none.
func (t takes) taken() bool { return t.must != nil || t.may != nil }

// committing says whether a rule may strike answers at a place.
func (l *Lab) committing(place Place) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, r := range l.rules {
		if r.At == place && r.Committed {
			return true
		}
	}
	return false
}

// StorageHandler puts the rules at Storage before a Cloud Storage server.
func (l *Lab) StorageHandler(next http.Handler) http.Handler {
	return l.handler(Storage, next, storageCall)
}

// PubSubHandler puts the rules at PubSub before the REST side of a Pub/Sub server. PubSubServer is for the other.
func (l *Lab) PubSubHandler(next http.Handler) http.Handler {
	return l.handler(PubSub, next, pubsubCall)
}

func (l *Lab) handler(place Place, next http.Handler, name func(*http.Request) (operation, subject string)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		operation, subject := name(r)
		if operation == "" { // nobody's call
			next.ServeHTTP(w, r)
			return
		}
		t := target{place: place, operation: operation, subject: subject}
		if err := l.call(r.Context(), t, false); err != nil {
			end(w, r, err)
			return
		}
		if !l.committing(place) {
			next.ServeHTTP(w, r)
			return
		}
		held := &heldAnswer{header: http.Header{}, code: http.StatusOK}
		next.ServeHTTP(held, r)
		if held.code < http.StatusBadRequest { // what failed has not taken effect
			if err := l.call(r.Context(), t, true); err != nil {
				end(w, r, err)
				return
			}
		}
		held.send(w)
	})
}

// end ends an HTTP call as err says.
func end(w http.ResponseWriter, r *http.Request, err error) {
	refused := refusal{}
	if errors.As(err, &refused) {
		_, _ = io.Copy(io.Discard, r.Body) // a client may want to send all before it reads
		if after := refused.RetryAfter; after > 0 {
			w.Header().Set("Retry-After", seconds(time.Duration(after)))
		}
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		w.WriteHeader(refused.Status)
		_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
			"code": refused.Status, "message": refused.text(),
			"errors": []map[string]string{{"domain": "global", "reason": reason(refused.Status), "message": refused.text()}},
		}})
		return
	}
	if h, ok := w.(http.Hijacker); ok && errors.Is(err, errReset) {
		if conn, _, err := h.Hijack(); err == nil {
			reset(conn)
			return
		}
	}
	panic(http.ErrAbortHandler) // net/http's way to cut the connection
}

func reason(code int) string {
	switch code {
	case http.StatusTooManyRequests:
		return "rateLimitExceeded"
	case http.StatusServiceUnavailable:
		return "backendError"
	}
	return strings.ToLower(strings.ReplaceAll(http.StatusText(code), " ", ""))
}

// seconds is a Retry-After header (RFC 9110 section 10.2.3): whole seconds, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// reset closes a connection with a TCP reset.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	conn.Close()
}

// heldAnswer is an answer that may yet be lost.
type heldAnswer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (h *heldAnswer) Header() http.Header         { return h.header }
func (h *heldAnswer) WriteHeader(code int)        { h.code = code }
func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }

func (h *heldAnswer) send(w http.ResponseWriter) {
	for name, values := range h.header {
		w.Header()[name] = values
	}
	w.WriteHeader(h.code)
	_, _ = w.Write(h.body.Bytes())
}

// storageCall names a request by the JSON API's methods; XML reads and writes are objects.get and objects.insert.
func storageCall(r *http.Request) (operation, subject string) {
	path := r.URL.EscapedPath()
	if path == "/" || path == "/healthz" || strings.HasPrefix(path, "/batch") {
		return "", ""
	}
	part := func(s string) string {
		if plain, err := url.PathUnescape(s); err == nil {
			return plain
		}
		return s
	}
	rest, upload := "", false
	for _, prefix := range []string{"/resumable/upload/storage/v1/b", "/upload/storage/v1/b", "/upload/b", "/download/storage/v1/b", "/storage/v1/b", "/b"} {
		after, ok := strings.CutPrefix(path, prefix)
		if ok && (after == "" || after[0] == '/') {
			rest, upload = strings.Trim(after, "/"), strings.Contains(prefix, "upload")
			break
		}
		if prefix == "/b" { // the XML API
			verb := map[string]string{http.MethodGet: "get", http.MethodHead: "get", http.MethodPut: "insert", http.MethodDelete: "delete"}[r.Method]
			return "objects." + cmp.Or(verb, "other"), part(strings.Trim(path, "/"))
		}
	}
	if rest == "" {
		return "buckets." + map[bool]string{true: "insert", false: "list"}[r.Method == http.MethodPost], ""
	}
	pieces := strings.Split(rest, "/")
	bucket := part(pieces[0])
	verbs := map[string]string{http.MethodGet: "get", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete", http.MethodPost: "insert"}
	switch {
	case upload:
		return "objects.insert", bucket + "/" + cmp.Or(r.URL.Query().Get("name"), uploadName(r))
	case len(pieces) == 1:
		return "buckets." + verbs[r.Method], bucket
	case pieces[1] != "o":
		return "buckets." + pieces[1], bucket
	case len(pieces) == 2:
		return "objects." + map[bool]string{true: "list", false: "insert"}[r.Method == http.MethodGet], bucket
	case len(pieces) > 3:
		return "objects." + map[string]string{"rewriteTo": "rewrite", "copyTo": "copy", "compose": "compose"}[pieces[3]], bucket + "/" + part(pieces[2])
	}
	return "objects." + verbs[r.Method], bucket + "/" + part(pieces[2])
}

// uploadName is the object's name in an upload's metadata, where Google's clients put it: https://cloud.google.com/storage/docs/json_api/v1/objects/insert. The
// request's body is as before.
func uploadName(r *http.Request) string {
	const most = 64 << 10 // metadata are far smaller
	body := bufio.NewReaderSize(r.Body, most)
	r.Body = struct {
		io.Reader
		io.Closer
	}{body, r.Body}
	head, _ := body.Peek(most) // the error is that it ends before
	metadata := io.Reader(bytes.NewReader(head))
	if kind, params, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err == nil && strings.HasPrefix(kind, "multipart/") {
		part, err := multipart.NewReader(metadata, params["boundary"]).NextPart()
		if err != nil {
			return ""
		}
		metadata = part
	}
	var object struct {
		Name string `json:"name"`
	}
	_ = json.NewDecoder(metadata).Decode(&object) // what has no name has none
	return object.Name
}

// pubsubCall names a REST request by the gRPC method that it stands for, as far as publishing goes, else by its path's verb or HTTP's.
func pubsubCall(r *http.Request) (operation, subject string) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v1/")
	if !ok {
		return "", ""
	}
	resource, verb, _ := strings.Cut(path, ":")
	if verb != "" {
		return strings.ToUpper(verb[:1]) + verb[1:], resource
	}
	return r.Method, resource
}

// PubSubServer are options that put the rules at PubSub before the gRPC side of a Pub/Sub server. A client of gRPC sees a cut call as UNAVAILABLE. Of a stream
// only its beginning is struck.
func (l *Lab) PubSubServer() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, request any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			t := target{place: PubSub, operation: method(info.FullMethod), subject: resource(request)}
			if err := l.call(ctx, t, false); err != nil {
				return nil, grpcEnd(err)
			}
			answer, err := next(ctx, request)
			if err != nil {
				return nil, err
			}
			if err := l.call(ctx, t, true); err != nil {
				return nil, grpcEnd(err)
			}
			return answer, nil
		}),
		grpc.StreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := l.call(stream.Context(), target{place: PubSub, operation: method(info.FullMethod)}, false); err != nil {
				return grpcEnd(err)
			}
			return next(server, stream)
		}),
	}
}

func method(full string) string { return full[strings.LastIndexByte(full, '/')+1:] }

// resource is what a Pub/Sub request speaks of.
func resource(request any) string {
	switch r := request.(type) {
	case interface{ GetTopic() string }:
		return r.GetTopic()
	case interface{ GetSubscription() string }:
		return r.GetSubscription()
	case interface{ GetName() string }:
		return r.GetName()
	}
	return ""
}

func grpcEnd(err error) error {
	if refused := (refusal{}); errors.As(err, &refused) {
		return refused.GRPCStatus().Err()
	}
	return status.Error(codes.Unavailable, err.Error())
}
