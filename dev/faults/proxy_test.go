package faults_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/penstock/penstock/dev/faults"
)

// startProxied runs a gRPC health server behind a proxy of the name worker, and a client of it.
func startProxied(t *testing.T, rules ...string) (*faults.Lab, *lines, *faults.Proxy, func(time.Duration) error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	healthpb.RegisterHealthServer(server, health.NewServer())
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	lab, log := open(t, rules...)
	p, err := lab.StartProxy("worker", listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := grpc.NewClient(p.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	client := healthpb.NewHealthClient(conn)
	return lab, log, p, func(timeout time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), timeout)
		defer cancel()
		_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	}
}

// put sets one rule given as JSON.
func put(t *testing.T, lab *faults.Lab, rule string) {
	t.Helper()
	for _, r := range parse(t, rule) {
		if err := lab.Put(r); err != nil {
			t.Fatal(err)
		}
	}
}

func parse(t *testing.T, rules ...string) []faults.Rule {
	t.Helper()
	plan, err := faults.ParsePlan([]byte(`{"rules": [` + strings.Join(rules, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return plan.Rules
}

func TestProxy(t *testing.T) {
	t.Run("forwards", func(t *testing.T) {
		_, log, _, check := startProxied(t, `{"name": "other", "at": "temporal", "operation": "functions", "fault": "refuse"}`)
		if err := check(within); err != nil {
			t.Error(err)
		}
		if got := log.injected(t); len(got) != 0 {
			t.Errorf("the log has %+v", got)
		}
	})
	t.Run("refuses new connections only", func(t *testing.T) {
		lab, _, _, check := startProxied(t)
		if err := check(within); err != nil {
			t.Fatal(err)
		}
		put(t, lab, `{"name": "closed", "at": "temporal", "operation": "worker", "fault": "refuse"}`)
		if err := check(within); err != nil {
			t.Errorf("an open connection: %v", err)
		}
		_, _, _, check = startProxied(t, `{"name": "closed", "at": "temporal", "fault": "refuse"}`)
		if err := check(within); status.Code(err) != codes.Unavailable {
			t.Errorf("a new connection: %v", err)
		}
	})
	t.Run("resets connections that are open, and idle", func(t *testing.T) {
		lab, log, p, _ := startProxied(t)
		conn, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(conn, make([]byte, 9)); err != nil { // the server's SETTINGS: the connection stands
			t.Fatal(err)
		}
		put(t, lab, `{"name": "cut", "at": "temporal", "fault": "reset", "count": 1}`)
		if _, err := io.ReadAll(conn); err == nil || !strings.Contains(err.Error(), "reset by peer") {
			t.Errorf("the connection ended by %v", err)
		}
		if got := log.injected(t); len(got) != 1 || got[0].Operation != "worker" {
			t.Errorf("the log has %+v", got)
		}
	})
	t.Run("a client comes back after a reset", func(t *testing.T) {
		lab, _, _, check := startProxied(t)
		if err := check(within); err != nil {
			t.Fatal(err)
		}
		put(t, lab, `{"name": "cut", "at": "temporal", "fault": "reset", "count": 1}`)
		for end := time.Now().Add(within); check(within) != nil; {
			if time.Now().After(end) {
				t.Fatal("it did not come back")
			}
		}
	})
	t.Run("hangs, and goes on when the rule ends", func(t *testing.T) {
		lab, _, _, check := startProxied(t)
		if err := check(within); err != nil {
			t.Fatal(err)
		}
		put(t, lab, `{"name": "hole", "at": "temporal", "fault": "hang"}`)
		if err := check(300 * time.Millisecond); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("answered %v", err)
		}
		lab.Delete("hole")
		if err := check(within); err != nil {
			t.Error(err)
		}
	})
	t.Run("goes on when the rule's window ends", func(t *testing.T) {
		_, _, _, check := startProxied(t, `{"name": "hole", "at": "temporal", "fault": "hang", "until": "300ms"}`)
		began := time.Now()
		if err := check(within); err != nil || time.Since(began) < 200*time.Millisecond {
			t.Errorf("answered %v after %v", err, time.Since(began))
		}
	})
	t.Run("is slow", func(t *testing.T) {
		lab, _, _, check := startProxied(t)
		if err := check(within); err != nil {
			t.Fatal(err)
		}
		put(t, lab, `{"name": "far", "at": "temporal", "fault": "latency", "delay": "150ms"}`)
		began := time.Now()
		if err := check(within); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < 300*time.Millisecond {
			t.Errorf("there and back took %v", took)
		}
	})
}

// startBytes runs a server behind a proxy that sends n bytes when it is asked, and ends; and asks it.
func startBytes(t *testing.T, n int, rules ...string) net.Conn {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if _, err := io.ReadFull(conn, make([]byte, 1)); err == nil { // the client is ready for whatever comes
				_, _ = conn.Write(make([]byte, n))
			}
			conn.Close()
		}
	}()
	lab, _ := open(t, rules...)
	p, err := lab.StartProxy("functions", listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		t.Fatal(err)
	}
	return conn
}

func TestProxyBytes(t *testing.T) {
	t.Run("all pass, and the end too", func(t *testing.T) {
		got, err := io.ReadAll(startBytes(t, 100_000))
		if err != nil || len(got) != 100_000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("cut after n bytes", func(t *testing.T) {
		conn := startBytes(t, 100_000, `{"name": "cut", "at": "temporal", "fault": "cut", "bytes": 20000}`)
		// A reset drops what the receiver has not read yet, so the count is a bound.
		got, err := io.ReadAll(conn)
		if err == nil || len(got) > 20_000 {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("throttled to n bytes a second", func(t *testing.T) {
		began := time.Now()
		got, err := io.ReadAll(startBytes(t, 5_000, `{"name": "narrow", "at": "temporal", "fault": "throttle", "bytes": 10000}`))
		if took := time.Since(began); err != nil || len(got) != 5_000 || took < 450*time.Millisecond {
			t.Errorf("%d bytes, %v, in %v", len(got), err, took)
		}
	})
}

func TestProxyStaysOnLoopback(t *testing.T) {
	lab, _ := open(t)
	for _, target := range []string{"temporal.example.com:7233", "192.0.2.1:7233", "7233"} {
		if p, err := lab.StartProxy("worker", target, nil); err == nil {
			p.Close()
			t.Errorf("a proxy before %s", target)
		}
	}
	p, err := lab.StartProxy("worker", "127.0.0.1:1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if host, _, err := net.SplitHostPort(p.Addr()); err != nil || host != "127.0.0.1" {
		t.Errorf("it listens on %s", p.Addr())
	}
}
