package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/contrib/envconfig"
)

// The environment variables of the rotator, besides Temporal's own.
const (
	EnvSecrets  = "PENSTOCK_ROTATION_SECRETS"        // what is rotated: a JSON array of Secret
	EnvCloudKey = "PENSTOCK_ROTATION_CLOUD_KEY_FILE" // a file with the key that Temporal Cloud's API is called with
	EnvCloudAPI = "PENSTOCK_ROTATION_CLOUD_API"      // its address; CloudAPI when empty
	EnvGrace    = "PENSTOCK_ROTATION_GRACE"          // Timing.Grace, as Go writes durations
	EnvRetire   = "PENSTOCK_ROTATION_RETIRE"         // Timing.Retire
	EnvLifetime = "PENSTOCK_ROTATION_LIFETIME"       // Timing.Lifetime
)

var secretRE = regexp.MustCompile(`^projects/[^/]+/secrets/[A-Za-z0-9_-]{1,255}$`)

// FromEnv makes the handler that the environment describes. It reports every mistake in it at once.
func FromEnv(ctx context.Context, getenv func(string) string, log *slog.Logger) (http.Handler, error) {
	var errs []error
	secrets, err := ReadSecrets(getenv(EnvSecrets))
	errs = append(errs, err)
	var timing Timing
	for name, value := range map[string]*time.Duration{EnvGrace: &timing.Grace, EnvRetire: &timing.Retire, EnvLifetime: &timing.Lifetime} {
		if text := getenv(name); text != "" {
			if *value, err = time.ParseDuration(text); err != nil {
				errs = append(errs, fmt.Errorf("%s is %q; set it to a duration such as 15m", name, text))
			}
		}
	}
	var cloud *Cloud
	for _, s := range secrets {
		if s.Owner == "" || cloud != nil {
			continue
		}
		base := getenv(EnvCloudAPI)
		if base == "" {
			base = CloudAPI
		}
		if getenv(EnvCloudKey) == "" {
			errs = append(errs, fmt.Errorf("%s is empty; name the file that holds the key to make keys with", EnvCloudKey))
		}
		if cloud, err = NewCloud(base, KeyFile(getenv(EnvCloudKey))); err != nil {
			errs = append(errs, err)
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("read the rotator's environment: %w", err)
	}
	vault, err := NewVault(ctx)
	if err != nil {
		return nil, err
	}
	r, err := New(vault, cloud, Namespace(envconfig.EnvLookupOS), timing, log)
	if err != nil {
		return nil, err
	}
	return r.Handler(secrets), nil
}

// ReadSecrets reads a JSON array of Secret.
func ReadSecrets(text string) ([]Secret, error) {
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	var secrets []Secret
	if err := decoder.Decode(&secrets); err != nil || len(secrets) == 0 {
		return nil, fmt.Errorf(`%s must be an array such as [{"secret": "projects/P/secrets/S", "owner": "SERVICE ACCOUNT ID"}] (%w)`, EnvSecrets, orEmpty(err))
	}
	seen := map[string]bool{}
	for _, s := range secrets {
		switch {
		case !secretRE.MatchString(s.Name):
			return nil, fmt.Errorf("%s: secret %q is not of the form projects/PROJECT/secrets/ID", EnvSecrets, s.Name)
		case seen[s.id()]:
			return nil, fmt.Errorf("%s: two secrets have the ID %q, by which notices are told apart", EnvSecrets, s.id())
		case s.Purpose != "" && s.Purpose != ForNamespace && s.Purpose != ForCloud:
			return nil, fmt.Errorf("%s: secret %q is for %q; it can be for %q or %q", EnvSecrets, s.Name, s.Purpose, ForNamespace, ForCloud)
		case s.Purpose == ForCloud && s.Owner == "":
			return nil, fmt.Errorf("%s: secret %q is for Temporal Cloud's API and has no owner", EnvSecrets, s.Name)
		}
		seen[s.id()] = true
	}
	return secrets, nil
}

func orEmpty(err error) error {
	if err == nil {
		return errors.New("it is empty")
	}
	return err
}

// maxNotice bounds a pushed notice in bytes; a real one has a few hundred.
const maxNotice = 1 << 20

// notice is a pushed message of Secret Manager.
//
// Source: https://cloud.google.com/secret-manager/docs/event-notifications,
// https://cloud.google.com/pubsub/docs/push#receive_push
type notice struct {
	Message struct {
		Attributes  map[string]string `json:"attributes"`
		MessageID   string            `json:"messageId"`
		PublishTime time.Time         `json:"publishTime"`
	} `json:"message"`
}

// Handler takes pushed notices of the secrets: SECRET_ROTATE asks for a rotation, also with the attribute force=true;
// SECRET_VERSION_ADD and SECRET_VERSION_ENABLE for the end of one, such as of a version that a person added.
//
// It answers 200 when there is nothing more to do about the notice, and 503 when a later delivery is wanted: something
// failed, or it is not yet time to disable or delete. So Pub/Sub keeps what is unfinished. Who may call is for Cloud Run to
// decide.
func (r *Rotator) Handler(secrets []Secret) http.Handler {
	known := map[string]Secret{}
	busy := map[string]*sync.Mutex{}
	for _, s := range secrets {
		known[s.id()], busy[s.id()] = s, &sync.Mutex{}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("POST /", func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxNotice))
		if err != nil {
			http.Error(w, "the notice cannot be read", http.StatusServiceUnavailable)
			return
		}
		var n notice
		if err := json.NewDecoder(bytes.NewReader(body)).Decode(&n); err != nil || n.Message.PublishTime.IsZero() {
			// Another delivery of it would say the same.
			r.log.Error("what was pushed is no message of Pub/Sub, and is dropped", "error", err)
			return
		}
		id := n.Message.Attributes["secretId"]
		id = id[strings.LastIndexByte(id, '/')+1:]
		log := r.log.With("message", n.Message.MessageID, "event", n.Message.Attributes["eventType"], "secretId", id)
		var request Request
		switch n.Message.Attributes["eventType"] {
		case "SECRET_ROTATE":
			request = Request{Due: n.Message.PublishTime, Force: n.Message.Attributes["force"] == "true"}
		case "SECRET_VERSION_ADD", "SECRET_VERSION_ENABLE":
		default:
			log.Debug("nothing is to be done about this notice")
			return
		}
		secret, ok := known[id]
		if !ok {
			log.Warn("a notice of a secret that is not rotated here is dropped; name it in " + EnvSecrets)
			return
		}
		if !busy[id].TryLock() {
			w.Header().Set("Retry-After", "60")
			http.Error(w, "a pass over this secret is at work", http.StatusServiceUnavailable)
			return
		}
		defer busy[id].Unlock()
		result, err := r.Pass(q.Context(), secret, request)
		switch {
		case err != nil:
			log.Error("the rotation failed; the next delivery goes on with it", "finding", "rotation-failed", "error", err, "rotated", result.Rotated)
			http.Error(w, "failed", http.StatusServiceUnavailable)
		case !result.Next.IsZero():
			log.Info("the rotation goes on later", "rotated", result.Rotated, "next", result.Next)
			w.Header().Set("Retry-After", strconv.Itoa(int(max(result.Next.Sub(r.clock.now()), 0)/time.Second)+1))
			http.Error(w, "goes on at "+result.Next.UTC().Format(time.RFC3339), http.StatusServiceUnavailable)
		default:
			log.Info("the rotation is complete", "rotated", result.Rotated)
		}
	})
	return mux
}

// stopWithin is the time that a pass in flight gets when the process is told to stop; Cloud Run kills 10 s after SIGTERM.
// A pass may be killed anywhere.
const stopWithin = 8 * time.Second

// Serve serves a handler on a listener until ctx is done.
func Serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{Handler: handler, ReadTimeout: 30 * time.Second, WriteTimeout: passTimeout + time.Minute, IdleTimeout: 2 * time.Minute}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		if err := server.Shutdown(within); err != nil {
			stopped <- server.Close()
			return
		}
		stopped <- nil
	})
	err := server.Serve(l)
	if !stop() && errors.Is(err, http.ErrServerClosed) {
		return <-stopped
	}
	return fmt.Errorf("serve at %s: %w", l.Addr(), err)
}
