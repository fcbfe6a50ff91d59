package connect

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

func TestARotatedAPIKeyIsUsedWithoutARestart(t *testing.T) {
	pki := newPKI(t)
	server := startServer(t, pki.serverConfig(t, nil))
	server.accept("first-key")
	keyFile := write(t, "key", "first-key\n")
	clock := &clock{at: time.Now()}
	c := dialTest(t, map[string]string{
		"TEMPORAL_ADDRESS":                 server.addr,
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH": pki.caFile,
		EnvAPIKeyFile:                      keyFile,
		"TEMPORAL_API_KEY":                 "a key that the file goes before",
	}, clock)
	mustAnswer(t, c)

	server.accept("second-key")
	replace(t, keyFile, "second-key")
	if err := ask(t, c); status.Code(err) != codes.Unauthenticated && !strings.Contains(err.Error(), "wrong key") {
		t.Fatalf("before the key's age is up the old key goes on; got %v", err)
	}
	clock.advance(apiKeyAge + time.Second)
	mustAnswer(t, c)

	if err := os.Remove(keyFile); err != nil {
		t.Fatal(err)
	}
	clock.advance(apiKeyAge + time.Second)
	mustAnswer(t, c) // a file that is being replaced takes nothing away
	replace(t, keyFile, "two\nlines")
	clock.advance(apiKeyAge + time.Second)
	mustAnswer(t, c)
}

func TestARotatedClientCertificateIsUsedByTheNextConnection(t *testing.T) {
	pki := newPKI(t)
	server := startServer(t, pki.serverConfig(t, pki.pool()))
	certFile, keyFile := pki.clientFiles(t, 101)
	c := dialTest(t, map[string]string{
		"TEMPORAL_ADDRESS":                 server.addr,
		"TEMPORAL_TLS_SERVER_CA_CERT_PATH": pki.caFile,
		"TEMPORAL_TLS_CLIENT_CERT_PATH":    certFile,
		"TEMPORAL_TLS_CLIENT_KEY_PATH":     keyFile,
	}, &clock{at: time.Now()})
	mustAnswer(t, c)
	if got := server.lastSerial(); got != 101 {
		t.Fatalf("the server saw the certificate %d, want 101", got)
	}
	cert, key := pki.issue(t, 102)
	replace(t, certFile, cert)
	server.dropConnections() // in the middle of the change: the two files do not fit together
	reconnect(t, c)
	if got := server.lastSerial(); got != 101 {
		t.Fatalf("with half a pair in place the server saw the certificate %d, want 101 still", got)
	}
	replace(t, keyFile, key)
	server.dropConnections()
	reconnect(t, c)
	if got := server.lastSerial(); got != 102 {
		t.Fatalf("the server saw the certificate %d, want 102", got)
	}
}

func TestAnAPIKeyFileThatCannotBeUsedIsToldWithoutItsContents(t *testing.T) {
	for name, path := range map[string]string{
		"no file":   filepath.Join(t.TempDir(), "missing"),
		"empty":     write(t, "empty", "\n"),
		"two lines": write(t, "two", "s3cret\nmore"),
		"too long":  write(t, "long", strings.Repeat("s3cret", maxKey)),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OptionsAt(environment{EnvAPIKeyFile: path}, "test", slog.New(slog.DiscardHandler), time.Now)
			if err == nil || !strings.Contains(err.Error(), EnvAPIKeyFile) || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("got %v; want an error that names %s and not the key", err, EnvAPIKeyFile)
			}
		})
	}
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

type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func dialTest(t *testing.T, env environment, clock *clock) client.Client {
	t.Helper()
	env["TEMPORAL_CONFIG_FILE"] = os.DevNull
	o, err := OptionsAt(env, "test", slog.New(slog.DiscardHandler), clock.now)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func ask(t *testing.T, c client.Client) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	return err
}

func mustAnswer(t *testing.T, c client.Client) {
	t.Helper()
	if err := ask(t, c); err != nil {
		t.Fatal(err)
	}
}

// reconnect asks until the client has noticed that its connection is gone.
func reconnect(t *testing.T, c client.Client) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := ask(t, c)
		if err == nil {
			return
		}
		if status.Code(err) != codes.Unavailable && !strings.Contains(err.Error(), "EOF") || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// temporalServer is a gRPC server that answers as a Temporal frontend whoever has the right key.
type temporalServer struct {
	workflowservice.UnimplementedWorkflowServiceServer
	addr string

	mu     sync.Mutex
	key    string // empty: no key is asked for
	serial int64
	conns  []net.Conn
}

func (s *temporalServer) GetSystemInfo(context.Context, *workflowservice.GetSystemInfoRequest) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{Capabilities: &workflowservice.GetSystemInfoResponse_Capabilities{}}, nil
}

func (s *temporalServer) DescribeNamespace(context.Context, *workflowservice.DescribeNamespaceRequest) (*workflowservice.DescribeNamespaceResponse, error) {
	return &workflowservice.DescribeNamespaceResponse{}, nil
}

func startServer(t *testing.T, config *tls.Config) *temporalServer {
	t.Helper()
	s := &temporalServer{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(config)), grpc.UnaryInterceptor(s.check))
	workflowservice.RegisterWorkflowServiceServer(g, s)
	done := make(chan error, 1)
	go func() { done <- g.Serve(recording{l, s}) }()
	t.Cleanup(func() {
		g.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *temporalServer) check(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	s.mu.Lock()
	want := s.key
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.PeerCertificates) > 0 {
			s.serial = info.State.PeerCertificates[0].SerialNumber.Int64()
		}
	}
	s.mu.Unlock()
	md, _ := metadata.FromIncomingContext(ctx)
	got := strings.Join(md.Get("authorization"), ",")
	if want != "" && subtle.ConstantTimeCompare([]byte(got), []byte("Bearer "+want)) != 1 {
		return nil, status.Error(codes.Unauthenticated, "wrong key")
	}
	return next(ctx, req)
}

func (s *temporalServer) accept(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.key = key
}

func (s *temporalServer) lastSerial() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.serial
}

// dropConnections makes the client shake hands again.
func (s *temporalServer) dropConnections() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		_ = c.Close()
	}
	s.conns = nil
}

// recording keeps the connections that a server accepts.
type recording struct {
	net.Listener
	server *temporalServer
}

func (r recording) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	if err == nil {
		r.server.mu.Lock()
		r.server.conns = append(r.server.conns, c)
		r.server.mu.Unlock()
	}
	return c, err
}

// pki issues certificates for one test.
type pki struct {
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	caFile string
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &pki{ca: ca, key: key, caFile: write(t, "ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))}
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (p *pki) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.ca)
	return pool
}

// issue makes a certificate for this machine, as a client's and as a server's.
func (p *pki) issue(t *testing.T, serial int64) (cert, key string) {
	t.Helper()
	k := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(serial), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, p.ca, &k.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

func (p *pki) clientFiles(t *testing.T, serial int64) (certFile, keyFile string) {
	t.Helper()
	cert, key := p.issue(t, serial)
	return write(t, "client.pem", cert), write(t, "client.key", key)
}

// serverConfig asks clients for a certificate of the given authorities; nil: for none.
func (p *pki) serverConfig(t *testing.T, clients *x509.CertPool) *tls.Config {
	t.Helper()
	cert, key := p.issue(t, 2)
	pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	if clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, clients
	}
	return config
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	replace(t, path, text)
	return path
}

// replace changes a file as a mounted secret changes: at once.
func replace(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}
