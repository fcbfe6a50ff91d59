// Package storageemulator is a Cloud Storage server for one machine: buckets,
// objects, generations, preconditions and versioning behind the JSON API and
// the read half of the XML API, as the Google client libraries call them when
// STORAGE_EMULATOR_HOST is set. Each object change is reported to a callback
// with the payload that a real storage event carries.
//
// It asks for no credentials and has no access control. Content passes through
// memory on upload, so it is for files that fit there.
package storageemulator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Options configure an emulator.
type Options struct {
	// Addr is where to listen, as host:port. Defaults to 127.0.0.1:0, a free port.
	Addr string
	// Dir keeps buckets and objects, so that they survive a restart. It is made
	// if missing. Empty: everything is kept in memory and ends with the emulator.
	Dir string
	// OnChange is told of every object change, one at a time, in order, after
	// the change is durable and before the client has its answer. It must be
	// quick and must not call the emulator. Nil: changes are not reported.
	OnChange func(Change)
	// Wrap stands between the connections and the emulator; for tests that make the API misbehave. Nil: nothing does.
	Wrap func(http.Handler) http.Handler
	// Log gets one debug record a request. Defaults to none.
	Log *slog.Logger
}

// Emulator is a running server.
type Emulator struct {
	store   *store
	base    string // http://host:port
	addr    string
	log     *slog.Logger
	server  *http.Server
	uploads uploadSessions
	closed  sync.WaitGroup
}

// Start opens the data folder and serves until Close.
func Start(o Options) (*Emulator, error) {
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.OnChange == nil {
		o.OnChange = func(Change) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	listener, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("storage emulator: listen: %w; choose another port, or 0 for a free one", err)
	}
	e := &Emulator{addr: listener.Addr().String(), log: o.Log}
	e.base = "http://" + e.addr
	if e.store, err = openStore(o.Dir, func(c Change) {
		c.Object = c.Object.linked(e.base)
		o.OnChange(c)
	}); err != nil {
		listener.Close()
		return nil, err
	}
	var handler http.Handler = e
	if o.Wrap != nil {
		handler = o.Wrap(e)
	}
	e.server = &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	e.closed.Go(func() {
		if err := e.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			o.Log.Error("storage emulator stopped serving", "error", err)
		}
	})
	return e, nil
}

// Addr is the host:port for STORAGE_EMULATOR_HOST.
func (e *Emulator) Addr() string { return e.addr }

// Close stops serving. What is in Dir stays.
func (e *Emulator) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := e.server.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = e.server.Close()
	}
	e.closed.Wait()
	return err
}

// EnsureBucket makes a bucket unless it exists.
func (e *Emulator) EnsureBucket(name string) error {
	_, err := e.store.createBucket(name, nil)
	if api := (*apiError)(nil); errors.As(err, &api) && api.code == http.StatusConflict {
		return nil
	}
	return err
}

// UploadDir copies the regular files under dir into a bucket, which is made if
// missing; an object is named by the path below dir, with slashes. A file whose
// object already has the same content is left as it is.
func (e *Emulator) UploadDir(bucketName, dir string) error {
	if err := e.EnsureBucket(bucketName); err != nil {
		return fmt.Errorf("upload %s: %w", dir, err)
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return fmt.Errorf("upload %s to bucket %s: %w", dir, bucketName, err)
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return fmt.Errorf("upload %s: %w", path, err)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("upload %s: %w", path, err)
		}
		name := filepath.ToSlash(rel)
		if old, err := e.store.get(bucketName, name, 0); err == nil && old.CRC32C == crc32c(content) && old.Size == int64(len(content)) {
			return nil
		}
		attributes := Object{Name: name, ContentType: mime.TypeByExtension(filepath.Ext(path))}
		if _, err := e.store.put(bucketName, upload{attributes: attributes, content: content}, conditions{}); err != nil {
			return fmt.Errorf("upload %s to gs://%s/%s: %w", path, bucketName, name, err)
		}
		return nil
	})
}

// ServeHTTP answers both APIs. Paths are taken apart while still escaped, as an
// object name may hold any byte that a path gives a meaning to.
func (e *Emulator) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.log.Debug("request", "method", r.Method, "url", r.URL.String())
	path := r.URL.EscapedPath()
	if path == "/" || path == "/healthz" {
		writeAnswer(w, map[string]string{"kind": "penstock#storageEmulator"})
		return
	}
	for _, api := range []struct {
		prefix string
		serve  func(http.ResponseWriter, *http.Request, []string) error
	}{
		// Clients put "/resumable" in front of uploads, leave "/storage/v1" out,
		// or both, depending on their language.
		{"/resumable/upload/storage/v1/b", e.serveUpload},
		{"/upload/storage/v1/b", e.serveUpload},
		{"/upload/b", e.serveUpload},
		{"/download/storage/v1/b", e.serveDownload},
		{"/storage/v1/b", e.serveJSON},
		{"/b", e.serveJSON},
		{"/batch/storage/v1", e.serveBatch},
		{"/batch", e.serveBatch},
	} {
		rest, ok := strings.CutPrefix(path, api.prefix)
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		segments, err := splitPath(rest)
		if err == nil {
			err = api.serve(w, r, segments)
		}
		if err != nil {
			writeError(w, err)
		}
		return
	}
	e.serveXML(w, r, path)
}

// splitPath unescapes each segment by itself: "%2F" in a name is not a
// separator.
func splitPath(path string) ([]string, error) {
	path = strings.Trim(path, "/")
	if path == "" {
		return nil, nil
	}
	segments := strings.Split(path, "/")
	for i, s := range segments {
		plain, err := url.PathUnescape(s)
		if err != nil {
			return nil, badRequest("The request path is not valid: " + err.Error())
		}
		segments[i] = plain
	}
	return segments, nil
}

func writeAnswer(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	_ = encoder.Encode(value) // the client is gone: nobody is left to tell
}

func writeError(w http.ResponseWriter, err error) {
	e := asAPIError(err)
	if e.code == http.StatusNotModified {
		w.WriteHeader(e.code)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=UTF-8")
	w.WriteHeader(e.code)
	_ = json.NewEncoder(w).Encode(map[string]any{"error": map[string]any{
		"code":    e.code,
		"message": e.message,
		"errors":  []map[string]string{{"domain": "global", "reason": e.reason, "message": e.message}},
	}})
}
