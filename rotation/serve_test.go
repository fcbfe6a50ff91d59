package rotation

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/connect"
)

// TestARotationLetsNoCallFail rotates twice, from notice to the deletion of the old key, while clients such as functions
// and workers have call a server that looks at each call's key.
func TestARotationLetsNoCallFail(t *testing.T) {
	w := newWorld(t)
	temporal := w.serveTemporal()
	w.rotator.check = Namespace(temporal.env)
	w.overNetwork()
	rotator := httptest.NewServer(w.rotator.Handler([]Secret{w.secret}))
	t.Cleanup(rotator.Close)

	env := maps.Clone(temporal.env)
	env[connect.EnvAPIKeyFile] = w.mount
	callers := []*caller{
		w.calling(env, func(ctx context.Context, c client.Client) error {
			_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "run", TaskQueue: "q"}, "Run")
			return err
		}),
		w.calling(env, func(ctx context.Context, c client.Client) error {
			_, err := c.WorkflowService().PollWorkflowTaskQueue(ctx, &workflowservice.PollWorkflowTaskQueueRequest{Namespace: "acme"})
			return err
		}),
	}
	moveOn := func(d time.Duration) {
		for range int(d / (30 * time.Second)) { // as steadily as time goes by
			w.advance(30 * time.Second)
		}
		for _, c := range callers {
			c.another(t)
		}
	}
	for range 2 {
		due := w.now()
		answers := []int{}
		for range 12 {
			code := push(t, rotator.URL, notification("SECRET_ROTATE", due))
			answers = append(answers, code)
			moveOn(10 * time.Minute)
			if code == http.StatusOK {
				break
			}
		}
		if len(answers) < 3 || answers[len(answers)-1] != http.StatusOK {
			t.Errorf("the deliveries of the notice were answered %v; want 503 until all is done, then 200", answers)
		}
		w.mustBeClean()
		moveOn(24 * time.Hour)
	}
	if n := len(w.versions); n != 3 {
		t.Errorf("%d versions after two rotations, want 3", n)
	}
	for i, c := range callers {
		if n := c.stop(t); n < 20 {
			t.Errorf("caller %d made %d calls; the test saw nothing", i, n)
		}
	}
	if got := temporal.keysSeen(); got != 3 {
		t.Errorf("the server saw %d keys, want the first and two rotated ones", got)
	}
}

func TestAKeyThatMayNotWriteIsNotPutIn(t *testing.T) {
	w := newWorld(t)
	temporal := w.serveTemporal()
	w.rotator.check = Namespace(temporal.env)
	temporal.readOnly = true
	if _, err := w.pass(t.Context(), w.at); err == nil || !strings.Contains(err.Error(), "may only read") || len(w.versions) != 1 {
		t.Errorf("%v, %d versions; want an error that says so, and no second version", err, len(w.versions))
	}
}

func TestNoticesAreAnsweredSoThatNothingIsForgotten(t *testing.T) {
	for name, c := range map[string]struct {
		body  func(*world) string
		code  int
		added int
	}{
		"a rotation is due":                  {func(w *world) string { return notification("SECRET_ROTATE", w.at) }, 503, 1},
		"one that was answered by a version": {func(w *world) string { return notification("SECRET_ROTATE", w.at.Add(-365*24*time.Hour)) }, 200, 0},
		"a version was added":                {func(w *world) string { return notification("SECRET_VERSION_ADD", w.at) }, 200, 0},
		"the secret was changed":             {func(w *world) string { return notification("SECRET_UPDATE", w.at) }, 200, 0},
		"the notice is of another secret": {func(w *world) string {
			return strings.ReplaceAll(notification("SECRET_ROTATE", w.at), "temporal-api-key", "other")
		}, 200, 0},
		"it is no message":          {func(*world) string { return "<html>" }, 200, 0},
		"it is too long to be read": {func(*world) string { return strings.Repeat(" ", maxNotice+1) }, 503, 0},
		"Secret Manager and Temporal are down": {func(w *world) string {
			w.hook = func(int, string) fate { return lostBefore }
			return notification("SECRET_ROTATE", w.at)
		}, 503, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			server := httptest.NewServer(w.rotator.Handler([]Secret{w.secret}))
			t.Cleanup(server.Close)
			if code := push(t, server.URL, c.body(w)); code != c.code {
				t.Errorf("answered %d, want %d", code, c.code)
			}
			if got := len(w.versions) - 1; got != c.added {
				t.Errorf("%d versions were added, want %d", got, c.added)
			}
		})
	}
}

func TestTwoDeliveriesAtOnceAreOnePass(t *testing.T) {
	w := newWorld(t)
	handler := w.rotator.Handler([]Secret{w.secret})
	second := 0
	w.hook = func(_ int, what string) fate {
		if strings.HasSuffix(what, "/versions") && second == 0 {
			rec := httptest.NewRecorder()
			handler.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(notification("SECRET_ROTATE", begin))))
			second = rec.Code
		}
		return served
	}
	rec := httptest.NewRecorder()
	handler.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/", strings.NewReader(notification("SECRET_ROTATE", begin))))
	if second != http.StatusServiceUnavailable || rec.Header().Get("Retry-After") == "" || len(w.versions) != 2 {
		t.Errorf("the second was answered %d, %d versions; want 503 and one rotation", second, len(w.versions))
	}
}

func TestTheRotatorsEnvironment(t *testing.T) {
	good := map[string]string{
		EnvSecrets:  `[{"secret": "projects/acme/secrets/key", "owner": "sa"}, {"secret": "projects/acme/secrets/rotator", "owner": "sa2", "for": "cloud"}, {"secret": "projects/acme/secrets/hand"}]`,
		EnvCloudKey: "/etc/secrets/key", EnvGrace: "20m", EnvRetire: "2h",
	}
	for name, c := range map[string]struct {
		set  map[string]string
		want string
	}{
		"all right":                      {nil, ""},
		"no secrets":                     {map[string]string{EnvSecrets: ""}, EnvSecrets},
		"a typo in a field":              {map[string]string{EnvSecrets: `[{"secret": "projects/a/secrets/k", "owners": "sa"}]`}, "owners"},
		"no full name":                   {map[string]string{EnvSecrets: `[{"secret": "key"}]`}, "projects/PROJECT/secrets/ID"},
		"twice the same":                 {map[string]string{EnvSecrets: `[{"secret": "projects/a/secrets/k"}, {"secret": "projects/b/secrets/k"}]`}, "two secrets"},
		"an unknown purpose":             {map[string]string{EnvSecrets: `[{"secret": "projects/a/secrets/k", "for": "fun"}]`}, "fun"},
		"the rotator's without owner":    {map[string]string{EnvSecrets: `[{"secret": "projects/a/secrets/k", "for": "cloud"}]`}, "no owner"},
		"no key to make keys with":       {map[string]string{EnvCloudKey: ""}, EnvCloudKey},
		"no duration, and no key":        {map[string]string{EnvGrace: "soon", EnvCloudKey: ""}, EnvGrace},
		"a grace that is too short":      {map[string]string{EnvGrace: "1s"}, "Grace"},
		"keys would be sent in the open": {map[string]string{EnvCloudAPI: "http://saas-api.tmprl.cloud"}, "https"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", credentialsFile(t))
			env := maps.Clone(good)
			maps.Copy(env, c.set)
			_, err := FromEnv(t.Context(), func(name string) string { return env[name] }, slog.New(slog.DiscardHandler))
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

func TestTheRotatorStopsWhenItIsTold(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, w.rotator.Handler([]Secret{w.secret})) }()
	response, err := http.Get("http://" + l.Addr().String() + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	stop()
	if err := <-done; err != nil || response.StatusCode != http.StatusOK {
		t.Errorf("health %d, then %v", response.StatusCode, err)
	}
}

// credentialsFile holds credentials that are never used.
func credentialsFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "credentials.json")
	text := `{"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// notification is what Pub/Sub pushes of an event of Secret Manager.
func notification(event string, published time.Time) string {
	return fmt.Sprintf(`{"message": {"attributes": {"eventType": %q, "dataFormat": "JSON_API_V1", "secretId": "projects/1234567/secrets/temporal-api-key"},
		"data": "e30=", "messageId": "1", "message_id": "1", "publishTime": %[2]q, "publish_time": %[2]q}, "subscription": "projects/acme/subscriptions/rotation"}`,
		event, published.Format(time.RFC3339Nano))
}

func push(t *testing.T, url, body string) int {
	t.Helper()
	response, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

// overNetwork has the rotator call the APIs over TCP.
func (w *world) overNetwork() {
	w.t.Helper()
	vault := httptest.NewServer(w.counted("vault", w.serveVault))
	w.t.Cleanup(vault.Close)
	cloud := httptest.NewServer(w.counted("cloud", w.serveCloud))
	w.t.Cleanup(cloud.Close)
	var err error
	if w.rotator.vault, err = NewVault(w.t.Context(), option.WithEndpoint(vault.URL), option.WithoutAuthentication()); err != nil {
		w.t.Fatal(err)
	}
	if w.rotator.cloud, err = NewCloud(cloud.URL, func() (string, error) { return adminKey, nil }); err != nil {
		w.t.Fatal(err)
	}
	w.rotator.cloud.clock = w.rotator.clock
}

// environment is an envconfig.EnvLookup without what this machine sets.
type environment map[string]string

func (e environment) LookupEnv(key string) (string, bool) { v, ok := e[key]; return v, ok }

func (e environment) Environ() []string {
	var all []string
	for k, v := range e {
		all = append(all, k+"="+v)
	}
	return all
}

// temporal is a namespace of Temporal Cloud: gRPC over TLS, which lets in whoever has a key that is accepted now.
type temporal struct {
	workflowservice.UnimplementedWorkflowServiceServer
	world    *world
	env      environment
	readOnly bool

	mu   sync.Mutex
	seen map[string]bool
}

func (w *world) serveTemporal() *temporal {
	w.t.Helper()
	pki := httptest.NewUnstartedServer(http.NotFoundHandler())
	pki.StartTLS()
	w.t.Cleanup(pki.Close)
	ca := filepath.Join(w.t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pki.Certificate().Raw}), 0o600); err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	s := &temporal{world: w, seen: map[string]bool{}, env: environment{
		"TEMPORAL_ADDRESS": l.Addr().String(), "TEMPORAL_NAMESPACE": "acme", "TEMPORAL_TLS_SERVER_CA_CERT_PATH": ca, "TEMPORAL_CONFIG_FILE": os.DevNull,
	}}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: pki.TLS.Certificates, MinVersion: tls.VersionTLS12})), grpc.UnaryInterceptor(s.admit))
	workflowservice.RegisterWorkflowServiceServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	w.t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	})
	return s
}

func (s *temporal) admit(ctx context.Context, request any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	token := strings.TrimPrefix(strings.Join(md.Get("authorization"), ","), "Bearer ")
	s.world.mu.Lock()
	k := s.world.byToken(token)
	in := k != nil && k.owner == owner && s.world.accepted(k)
	s.world.mu.Unlock()
	if !in {
		return nil, status.Error(codes.Unauthenticated, "the key is not valid")
	}
	s.mu.Lock()
	s.seen[token] = true
	s.mu.Unlock()
	return next(ctx, request)
}

func (s *temporal) keysSeen() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

func (s *temporal) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{Capabilities: &workflowservice.GetSystemInfoResponse_Capabilities{}}, nil
}

func (s *temporal) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{}, nil
}

func (s *temporal) StartWorkflowExecution(context.Context, *workflowservice.StartWorkflowExecutionRequest) (*workflowservice.StartWorkflowExecutionResponse, error) {
	return &workflowservice.StartWorkflowExecutionResponse{RunId: "run"}, nil
}

func (s *temporal) PollWorkflowTaskQueue(context.Context, *workflowservice.PollWorkflowTaskQueueRequest) (*workflowservice.PollWorkflowTaskQueueResponse, error) {
	return &workflowservice.PollWorkflowTaskQueueResponse{}, nil
}

func (s *temporal) SignalWorkflowExecution(context.Context, *workflowservice.SignalWorkflowExecutionRequest) (*workflowservice.SignalWorkflowExecutionResponse, error) {
	if s.readOnly {
		return nil, status.Error(codes.PermissionDenied, "the key may only read")
	}
	return nil, status.Error(codes.NotFound, "workflow not found")
}

// caller is a client that calls all the time and reads its key from the mounted secret, on the world's clock.
type caller struct {
	cancel context.CancelFunc
	calls  chan int // the number of calls that succeeded, for whoever waits for another
	failed chan error
	ended  chan int
}

func (w *world) calling(env environment, call func(context.Context, client.Client) error) *caller {
	w.t.Helper()
	options, err := connect.OptionsAt(env, "test", slog.New(slog.DiscardHandler), w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	c, err := connect.Dial(w.t.Context(), options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(c.Close)
	ctx, cancel := context.WithCancel(w.t.Context())
	r := &caller{cancel: cancel, calls: make(chan int), failed: make(chan error, 1), ended: make(chan int, 1)}
	pace := time.NewTicker(2 * time.Millisecond)
	go func() {
		defer pace.Stop()
		n := 0
		defer func() { r.ended <- n }()
		for {
			if err := call(ctx, c); ctx.Err() != nil {
				return
			} else if err != nil {
				r.failed <- err
				return
			}
			n++
			select {
			case r.calls <- n:
			case <-pace.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return r
}

// another waits for the end of a call that began after now.
func (c *caller) another(t *testing.T) {
	t.Helper()
	for range 2 {
		select {
		case <-c.calls:
		case err := <-c.failed:
			t.Fatalf("a call failed during the rotation: %v", err)
		case <-time.After(time.Minute):
			t.Fatal("no call for a minute")
		}
	}
}

// stop ends the calling and says how many calls succeeded.
func (c *caller) stop(t *testing.T) int {
	t.Helper()
	c.cancel()
	n := <-c.ended
	select {
	case err := <-c.failed:
		t.Errorf("a call failed during the rotation: %v", err)
	default:
	}
	return n
}
