package rotation

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/api/option"
)

const (
	secretName = "projects/acme/secrets/temporal-api-key"
	owner      = "sa-runner"
	adminKey   = "the-rotators-own-key"
	firstKey   = "token-made-by-hand"
)

var begin = time.Date(2026, 3, 1, 6, 0, 0, 0, time.UTC)

// world is Secret Manager and Temporal Cloud, on one clock, as a rotator sees them by their REST APIs.
type world struct {
	t       *testing.T
	rotator *Rotator
	secret  Secret
	mount   string // file that holds what `latest` is, as Cloud Run mounts it
	log     bytes.Buffer

	mu       sync.Mutex
	at       time.Time
	versions []*version
	keys     []*cloudKey
	repeated string // what is answered to an operation ID that was used before: same, silent, refused
	calls    int
	hook     func(call int, what string) fate // decides about each call
	slow     time.Duration                    // until a new key is accepted
	limit    int                              // of keys an account has
	refuses  func(*cloudKey) bool             // keys that the namespace does not let in
	opFails  bool
	opaque   bool // current-identity answers 503
	allKeys  bool // a list of keys heeds no filter
	broken   []string
	told     []string // errors that passes returned
}

// fate is what happens to a call.
type fate int

const (
	served     fate = iota
	lostBefore      // it never arrives
	lostAfter       // it is done, and the answer is lost
)

type version struct {
	state   string
	data    string
	created time.Time
	etag    int
	latest  time.Time // until when it was what readers got; zero: it is
}

type cloudKey struct {
	id, token, name, owner, operation string
	created, expires                  time.Time
	version                           int
	deleted                           bool
	removed                           time.Time // until when a deleted key is listed still
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, at: begin, repeated: "same", secret: Secret{Name: secretName, Owner: owner}, limit: 10, mount: filepath.Join(t.TempDir(), "value")}
	w.keys = []*cloudKey{
		{id: "key-hand", token: firstKey, name: "by hand", owner: owner, created: begin.Add(-50 * 24 * time.Hour), expires: begin.Add(1000 * time.Hour)},
		{id: "key-stranger", token: "token-of-a-stranger", name: w.secret.prefix() + "x", owner: "sa-other", created: begin.Add(-50 * 24 * time.Hour)},
		{id: "key-admin", token: adminKey, name: "rotator", owner: "sa-rotator", created: begin.Add(-50 * 24 * time.Hour)},
		{id: "key-of-a-person", token: "token-of-a-person", name: "laptop", owner: owner, created: begin.Add(-50 * 24 * time.Hour)},
	}
	w.put(firstKey, begin.Add(-40*24*time.Hour))
	apis := inMemory{"vault.test": w.counted("vault", w.serveVault), "127.0.0.1": w.counted("cloud", w.serveCloud)}
	v, err := NewVault(t.Context(), option.WithEndpoint("https://vault.test"), option.WithHTTPClient(&http.Client{Transport: apis}))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewCloud("http://127.0.0.1", func() (string, error) { return adminKey, nil })
	if err != nil {
		t.Fatal(err)
	}
	c.client.Transport = apis
	w.rotator, err = New(v, c, w.check, Timing{}, slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	w.rotator.clock = clock{now: w.now, sleep: func(ctx context.Context, d time.Duration) error {
		w.advance(d)
		return ctx.Err()
	}}
	c.clock = w.rotator.clock
	t.Cleanup(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, b := range w.broken {
			t.Error(b)
		}
		text := w.log.String() + strings.Join(w.told, "\n")
		for _, k := range w.keys {
			if strings.Contains(text, k.token) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(k.token))) {
				t.Errorf("the token of %s is in a log or an error:\n%s", k.id, text)
			}
		}
		if t.Failed() {
			t.Log("the rotator's log:\n" + w.log.String())
		}
	})
	return w
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at
}

func (w *world) advance(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at = w.at.Add(d)
}

// pass runs one pass for a notice that was published at due.
func (w *world) pass(ctx context.Context, due time.Time) (Result, error) {
	result, err := w.rotator.Pass(ctx, w.secret, Request{Due: due})
	if err != nil {
		w.mu.Lock()
		w.told = append(w.told, err.Error())
		w.mu.Unlock()
	}
	return result, err
}

// redeliver delivers a notice as Pub/Sub does, every ten minutes at the latest, until it is taken.
func (w *world) redeliver(due time.Time) {
	w.t.Helper()
	for range 40 {
		result, err := w.pass(w.t.Context(), due)
		if err == nil && result.Next.IsZero() {
			return
		}
		w.advance(10 * time.Minute)
	}
	w.t.Fatalf("the rotation does not end; the last errors: %v", w.told[max(0, len(w.told)-3):])
}

// mustBeClean says that one version is enabled, the newest, whose key works, and that no key is left that was made here and
// that it does not hold.
func (w *world) mustBeClean() {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	newest := w.versions[len(w.versions)-1]
	for i, v := range w.versions {
		if (v.state == enabled) != (v == newest) {
			w.t.Errorf("version %d of %d is %s", i+1, len(w.versions), v.state)
		}
	}
	for _, k := range w.keys {
		made := strings.HasPrefix(k.name, w.secret.prefix()) && k.owner == owner
		switch {
		case made && k.token == newest.data && k.deleted:
			w.t.Errorf("the key %s in force is deleted", k.id)
		case made && k.token != newest.data && !k.deleted:
			w.t.Errorf("the key %s is left over", k.id)
		case !made && k.deleted:
			w.t.Errorf("the key %s (%s) was deleted, which the rotator did not make", k.id, k.name)
		}
	}
	if newest.data == firstKey {
		w.t.Error("the key was not rotated")
	}
}

// unharmed checks, after each change, what readers rely on: that `latest` can be read and its key works, and that what they
// read in the last minutes goes on working. It expects w.mu.
func (w *world) unharmed(after string) {
	for i, v := range w.versions {
		k := w.byToken(v.data)
		works := k != nil && w.accepted(k)
		switch {
		case v.latest.IsZero() && v.state != enabled:
			w.broken = append(w.broken, fmt.Sprintf("after %s the newest version %d cannot be read", after, i+1))
		case (v.latest.IsZero() || w.at.Sub(v.latest) < MinGrace) && !works:
			w.broken = append(w.broken, fmt.Sprintf("after %s the key of version %d does not work for whoever read it", after, i+1))
		}
	}
}

// inMemory are servers by their host, which are called without a network: thousands of passes take seconds so.
type inMemory map[string]http.Handler

func (m inMemory) RoundTrip(q *http.Request) (response *http.Response, err error) {
	if err := q.Context().Err(); err != nil {
		return nil, err
	}
	defer func() {
		if v := recover(); v != nil {
			if aborted, ok := v.(error); !ok || !errors.Is(aborted, http.ErrAbortHandler) {
				panic(v)
			}
			response, err = nil, io.ErrUnexpectedEOF
		}
	}()
	if q.Body == nil {
		q.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	m[q.URL.Host].ServeHTTP(rec, q)
	return rec.Result(), nil
}

// put adds a version, which readers get from now on. It expects w.mu, or nobody else to be there.
func (w *world) put(data string, created time.Time) *version {
	for _, v := range w.versions {
		if v.latest.IsZero() {
			v.latest = created
		}
	}
	v := &version{state: enabled, data: data, created: created, etag: 1}
	w.versions = append(w.versions, v)
	w.t.Helper()
	if err := os.WriteFile(w.mount+".new", []byte(data), 0o600); err != nil {
		w.t.Error(err)
	}
	if err := os.Rename(w.mount+".new", w.mount); err != nil {
		w.t.Error(err)
	}
	return v
}

func (w *world) byToken(token string) *cloudKey {
	for _, k := range w.keys {
		if k.token == token {
			return k
		}
	}
	return nil
}

func (w *world) accepted(k *cloudKey) bool {
	return !k.deleted && !w.at.Before(k.created.Add(w.slow)) && (k.expires.IsZero() || w.at.Before(k.expires))
}

// check stands for the namespace.
func (w *world) check(_ context.Context, token string) error {
	if f := w.count("namespace check"); f != served {
		return fmt.Errorf("the connection broke")
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if k := w.byToken(token); k == nil || !w.accepted(k) || w.refuses != nil && w.refuses(k) {
		return fmt.Errorf("Request unauthorized")
	}
	return nil
}

func (w *world) count(what string) fate {
	w.mu.Lock()
	w.calls++
	call, hook := w.calls, w.hook
	w.mu.Unlock()
	if hook == nil {
		return served
	}
	return hook(call, what)
}

// counted serves an API whose calls hook decides about.
func (w *world) counted(name string, serve func(http.ResponseWriter, *http.Request)) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		what := name + " " + q.Method + " " + q.URL.Path
		f := w.count(what)
		if f == lostBefore {
			panic(http.ErrAbortHandler)
		}
		rec := httptest.NewRecorder()
		w.mu.Lock()
		serve(rec, q)
		w.unharmed(what)
		w.mu.Unlock()
		if f == lostAfter {
			panic(http.ErrAbortHandler)
		}
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(rec.Code)
		_, _ = rw.Write(rec.Body.Bytes())
	})
}

// serveVault is Secret Manager's REST API for one secret.
func (w *world) serveVault(rw http.ResponseWriter, q *http.Request) {
	refuse := func(code int, status, message string) {
		rw.WriteHeader(code)
		write(rw, map[string]any{"error": map[string]any{"code": code, "status": status, "message": message}})
	}
	path, verb, _ := strings.Cut(strings.TrimPrefix(q.URL.Path, "/v1/"+secretName), ":")
	number := strings.TrimPrefix(path, "/versions/")
	n, _ := strconv.Atoi(number)
	if number == "latest" {
		n = len(w.versions)
	}
	show := func(n int) map[string]any {
		v := w.versions[n-1]
		return map[string]any{"name": "projects/1234567/secrets/temporal-api-key/versions/" + strconv.Itoa(n), "state": v.state,
			"createTime": v.created.Format(time.RFC3339Nano), "etag": strconv.Itoa(v.etag), "replicationStatus": map[string]any{"automatic": map[string]any{}}}
	}
	if !strings.HasPrefix(q.URL.Path, "/v1/"+secretName) {
		// The number stands for the project as well as its ID does.
		if other, ok := strings.CutPrefix(q.URL.Path, "/v1/projects/1234567/secrets/temporal-api-key"); ok {
			q.URL.Path = "/v1/" + secretName + other
			w.serveVault(rw, q)
			return
		}
		refuse(http.StatusNotFound, "NOT_FOUND", "no such secret")
		return
	}
	switch {
	case q.Method == http.MethodGet && path == "/versions":
		// The newest comes first, two a page.
		from, _ := strconv.Atoi(q.URL.Query().Get("pageToken"))
		list := []any{}
		for n := len(w.versions) - from; n > 0 && len(list) < 2; n-- {
			list = append(list, show(n))
		}
		answer := map[string]any{"versions": list, "totalSize": len(w.versions)}
		if from += len(list); from < len(w.versions) {
			answer["nextPageToken"] = strconv.Itoa(from)
		}
		write(rw, answer)
	case q.Method == http.MethodPost && path == "" && verb == "addVersion":
		var request struct {
			Payload struct{ Data, DataCrc32c string }
		}
		_ = json.NewDecoder(q.Body).Decode(&request)
		data, err := base64.StdEncoding.DecodeString(request.Payload.Data)
		if err != nil || request.Payload.DataCrc32c != strconv.FormatInt(checksum(data), 10) {
			refuse(http.StatusBadRequest, "INVALID_ARGUMENT", "checksum")
			return
		}
		w.put(string(data), w.at)
		write(rw, show(len(w.versions)))
	case n < 1 || n > len(w.versions):
		refuse(http.StatusNotFound, "NOT_FOUND", "no such version")
	case q.Method == http.MethodGet && verb == "access":
		v := w.versions[n-1]
		if v.state != enabled {
			refuse(http.StatusBadRequest, "FAILED_PRECONDITION", "the version is in state "+v.state)
			return
		}
		write(rw, map[string]any{"name": show(n)["name"], "payload": map[string]any{
			"data": base64.StdEncoding.EncodeToString([]byte(v.data)), "dataCrc32c": strconv.FormatInt(checksum([]byte(v.data)), 10)}})
	case q.Method == http.MethodPost && verb == "disable":
		var request struct{ Etag string }
		_ = json.NewDecoder(q.Body).Decode(&request)
		v := w.versions[n-1]
		if v.state == "DESTROYED" || request.Etag != "" && request.Etag != strconv.Itoa(v.etag) {
			refuse(http.StatusBadRequest, "FAILED_PRECONDITION", "etag mismatch")
			return
		}
		v.state = "DISABLED"
		v.etag++
		write(rw, show(n))
	default:
		refuse(http.StatusNotFound, "NOT_FOUND", "no such method "+q.Method+" "+q.URL.Path)
	}
}

// serveCloud is the part of Temporal Cloud's API that is about API keys.
func (w *world) serveCloud(rw http.ResponseWriter, q *http.Request) {
	refuse := func(status, code int, message string) {
		rw.WriteHeader(status)
		write(rw, map[string]any{"code": code, "message": message, "details": []any{}})
	}
	token := strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer ")
	caller := w.byToken(token)
	show := func(k *cloudKey) map[string]any {
		state := "RESOURCE_STATE_ACTIVE"
		if k.deleted {
			state = "RESOURCE_STATE_DELETING"
		}
		return map[string]any{"id": k.id, "resourceVersion": strconv.Itoa(k.version), "state": state, "createdTime": k.created.Format(time.RFC3339Nano),
			"lastModifiedTime": nil, "spec": map[string]any{"ownerId": k.owner, "ownerType": serviceAccount, "displayName": k.name, "expiryTime": k.expires.Format(time.RFC3339)}}
	}
	running := map[string]any{"id": "", "state": "STATE_IN_PROGRESS", "checkDuration": "1.5s", "operationType": "key"}
	id := strings.TrimPrefix(q.URL.Path, "/cloud/api-keys/")
	there := func(k *cloudKey) bool { return !k.deleted || w.at.Before(k.removed) }
	i := slices.IndexFunc(w.keys, func(k *cloudKey) bool { return k.id == id && there(k) })
	switch {
	case caller == nil || !w.accepted(caller):
		refuse(http.StatusUnauthorized, 16, "the token "+token+" is not valid")
	case q.URL.Path == "/cloud/current-identity":
		if w.opaque && token != adminKey {
			refuse(http.StatusServiceUnavailable, 14, "later")
			return
		}
		write(rw, map[string]any{"serviceAccount": map[string]any{"id": caller.owner}, "principalApiKey": show(caller)})
	case caller.owner != "sa-rotator":
		refuse(http.StatusForbidden, 7, "only an account administrator may")
	case q.Method == http.MethodGet && q.URL.Path == "/cloud/api-keys":
		from, _ := strconv.Atoi(q.URL.Query().Get("pageToken"))
		list, next := []any{}, ""
		for i := from; i < len(w.keys); i++ {
			if k := w.keys[i]; there(k) && (w.allKeys || k.owner == q.URL.Query().Get("ownerId")) {
				if len(list) == 2 {
					next = strconv.Itoa(i)
					break
				}
				list = append(list, show(k))
			}
		}
		write(rw, map[string]any{"apiKeys": list, "nextPageToken": next})
	case q.Method == http.MethodPost && q.URL.Path == "/cloud/api-keys":
		var request struct {
			Spec             struct{ OwnerID, OwnerType, DisplayName, ExpiryTime string }
			AsyncOperationID string
		}
		_ = json.NewDecoder(q.Body).Decode(&request)
		expires, err := time.Parse(time.RFC3339, request.Spec.ExpiryTime)
		if err != nil || request.Spec.OwnerType != serviceAccount || !expires.After(w.at) {
			refuse(http.StatusBadRequest, 3, "invalid spec")
			return
		}
		count := 0
		for _, k := range w.keys {
			if k.operation == request.AsyncOperationID {
				running["id"] = k.operation
				switch w.repeated {
				case "same":
					write(rw, map[string]any{"keyId": k.id, "token": k.token, "asyncOperation": running})
				case "silent":
					write(rw, map[string]any{"keyId": k.id, "asyncOperation": running})
				default:
					refuse(http.StatusConflict, 6, "the operation exists")
				}
				return
			}
			if k.owner == request.Spec.OwnerID && !k.deleted {
				count++
			}
		}
		if count >= w.limit {
			refuse(http.StatusTooManyRequests, 8, "too many API keys")
			return
		}
		k := &cloudKey{id: fmt.Sprintf("key-%02d", len(w.keys)), token: fmt.Sprintf("tok3n-s3cret-%02d", len(w.keys)), name: request.Spec.DisplayName,
			owner: request.Spec.OwnerID, operation: request.AsyncOperationID, created: w.at, expires: expires, version: 1}
		w.keys = append(w.keys, k)
		running["id"] = k.operation
		write(rw, map[string]any{"keyId": k.id, "token": k.token, "asyncOperation": running})
	case q.Method == http.MethodDelete && i >= 0:
		if v := q.URL.Query().Get("resourceVersion"); w.keys[i].deleted || v != strconv.Itoa(w.keys[i].version) {
			refuse(http.StatusBadRequest, 9, "the resource version is not the current one")
			return
		}
		w.keys[i].deleted, w.keys[i].removed = true, w.at.Add(5*time.Minute)
		running["id"] = "delete-" + id
		write(rw, map[string]any{"asyncOperation": running})
	case q.Method == http.MethodGet && strings.HasPrefix(q.URL.Path, "/cloud/operations/"):
		op := map[string]any{"id": strings.TrimPrefix(q.URL.Path, "/cloud/operations/"), "state": "STATE_FULFILLED"}
		if w.opFails {
			op["state"], op["failureReason"] = "STATE_FAILED", "out of keys"
		}
		write(rw, map[string]any{"asyncOperation": op})
	default:
		refuse(http.StatusNotFound, 5, "not found")
	}
}

func write(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }
