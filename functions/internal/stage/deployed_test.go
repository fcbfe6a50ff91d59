package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/penstock/penstock/functions"
)

// built is the staged functions as the buildpack builds them.
func built(t *testing.T) (binary, pipelines string) {
	t.Helper()
	dir := t.TempDir()
	staged := filepath.Join(dir, "staged")
	pipelines = pipelinesFolder(t, pipelineFile)
	if code, _, stderr := stageOnce("-pipelines", pipelines, staged); code != 0 {
		t.Fatalf("stage: exit code %d: %s", code, stderr)
	}
	binary = filepath.Join(dir, "functions")
	begun := time.Now()
	if out, err := exec.Command(filepath.Join(moduleRoot, "scripts", "build-functions"), staged, binary).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	t.Logf("built in %v", time.Since(begun).Round(time.Millisecond))
	return binary, filepath.Join(staged, "pipelines")
}

// served is a running binary.
type served struct {
	url    string
	client *http.Client
	stderr *bytes.Buffer
}

// serve starts the binary and waits until it answers.
func serve(t *testing.T, binary string, env ...string) *served {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	s := &served{
		url:    fmt.Sprintf("http://127.0.0.1:%d", port),
		client: &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
		stderr: new(bytes.Buffer),
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, binary)
	cmd.Stderr = s.stderr
	cmd.Dir = t.TempDir()
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir, "LOCAL_ONLY=true", fmt.Sprintf("PORT=%d", port),
		"PENSTOCK_DEPLOYMENT=dev", "PENSTOCK_LOCATION=us-central1", "GOOGLE_CLOUD_PROJECT=penstock-dev",
		"TEMPORAL_ADDRESS=127.0.0.1:1", // where nothing listens
	}, env...)
	begun := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait() // killed
		if t.Failed() {
			t.Logf("its log:\n%s", s.stderr)
		}
	})
	for {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err == nil {
			_ = conn.Close()
			t.Logf("it listens %v after its start", time.Since(begun).Round(time.Millisecond))
			return s
		}
		if time.Since(begun) > time.Minute {
			t.Fatalf("it does not listen: %v\n%s", err, s.stderr)
		}
		time.Sleep(time.Millisecond) // until the port opens: nothing announces it
	}
}

func (s *served) post(t testing.TB, path, object, data string) (int, functions.Answer) {
	t.Helper()
	if data == "" {
		b, _ := json.Marshal(map[string]string{"bucket": "landing", "name": object, "generation": "1", "size": "3"})
		data = string(b)
	}
	r, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Ce-Specversion", "1.0")
	r.Header.Set("Ce-Type", "google.cloud.storage.object.v1.finalized")
	r.Header.Set("Ce-Source", "//storage.googleapis.com/projects/_/buckets/landing")
	r.Header.Set("Ce-Id", "1")
	r.Header.Set("Content-Type", "application/json")
	answer, err := s.client.Do(r)
	if err != nil {
		t.Error(err)
		return 0, functions.Answer{}
	}
	defer func() { _ = answer.Body.Close() }()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Error(err)
	}
	var a functions.Answer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Errorf("answered %d, not with JSON: %s", answer.StatusCode, body)
	}
	return answer.StatusCode, a
}

func TestBuiltAsDeployed(t *testing.T) {
	binary, pipelines := built(t)
	all := serve(t, binary, "PENSTOCK_PIPELINES="+pipelines)

	t.Run("the first event is answered soon after a cold start", func(t *testing.T) {
		begun := time.Now()
		if code, a := all.post(t, "/StorageTrigger", "other/a.csv", ""); code != 200 || len(a.Decisions) != 0 {
			t.Errorf("answered %d %+v", code, a)
		}
		t.Logf("answered after %v", time.Since(begun).Round(time.Microsecond))
	})
	t.Run("a malformed event without a dead-letter topic", func(t *testing.T) {
		for _, name := range []string{functions.NameStorageTrigger, functions.NamePubSubTrigger, functions.NameEventTrigger, functions.NameJobStatus} {
			if code, a := all.post(t, "/"+name, "", "{"); code != 400 || len(a.Decisions) != 1 || a.Decisions[0].Outcome != functions.Rejected {
				t.Errorf("%s answered %d %+v", name, code, a)
			}
		}
	})
	t.Run("60,000 events that nothing wants, 64 at a time", func(t *testing.T) {
		const events, clients = 60_000, 64
		var next, answered atomic.Int32
		var wg sync.WaitGroup
		begun := time.Now()
		for range clients {
			wg.Go(func() {
				for next.Add(1) <= events {
					if code, _ := all.post(t, "/StorageTrigger", "other/a.csv", ""); code == 200 {
						answered.Add(1)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("answered %d in %v", answered.Load(), time.Since(begun).Round(time.Millisecond))
		if answered.Load() != events {
			t.Errorf("%d of %d answered with 200", answered.Load(), events)
		}
	})
	t.Run("Temporal is away", func(t *testing.T) {
		code, a := all.post(t, "/StorageTrigger", "orders/a.csv", "")
		if code != 503 || len(a.Decisions) != 1 || a.Decisions[0].Outcome != functions.Undecided || !strings.Contains(a.Decisions[0].Reason, "127.0.0.1:1") {
			t.Errorf("answered %d %+v", code, a)
		}
	})
	t.Run("one function, at the root", func(t *testing.T) {
		one := serve(t, binary, "FUNCTION_TARGET=StorageTrigger", "PENSTOCK_PIPELINES="+pipelines)
		if code, _ := one.post(t, "/", "other/a.csv", ""); code != 200 {
			t.Errorf("answered %d", code)
		}
	})
	t.Run("without configuration it serves, and says what is missing", func(t *testing.T) {
		bare := serve(t, binary, "PENSTOCK_DEPLOYMENT=")
		if code, a := bare.post(t, "/StorageTrigger", "orders/a.csv", ""); code != 503 || !strings.Contains(a.Decisions[0].Reason, "PENSTOCK_DEPLOYMENT") {
			t.Errorf("answered %d %+v", code, a)
		}
	})
}
