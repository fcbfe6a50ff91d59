package stack

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"
)

// sleepers is a pool of processes that do nothing until they are stopped.
func sleepers(t *testing.T) *WorkerPool {
	t.Helper()
	p := &WorkerPool{stack: bare(t), name: "part", argv: []string{"/bin/sh", "-c", "exec sleep 600"}, env: os.Environ}
	t.Cleanup(p.close)
	return p
}

func (p *WorkerPool) wantRunning(t *testing.T, n int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); p.Running() != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d processes run, want %d", p.Running(), n)
		}
	}
}

// ask sends the pool a request and gives the answer's status and body.
func ask(t *testing.T, p *WorkerPool, method, body string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	p.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/", strings.NewReader(body)))
	return w.Code, strings.TrimSpace(w.Body.String())
}

func TestWorkerPoolRunsAsManyAsItIsAskedFor(t *testing.T) {
	p := sleepers(t)
	for _, n := range []int{2, 0, 1} {
		if code, said := ask(t, p, http.MethodPut, fmt.Sprintf(`{"size": %d}`, n)); code != http.StatusNoContent {
			t.Fatalf("resize to %d: %d %s", n, code, said)
		}
		p.wantRunning(t, n)
		if _, said := ask(t, p, http.MethodGet, ""); said != fmt.Sprintf(`{"size": %d, "running": %d}`, n, n) {
			t.Errorf("the pool of %d says %s", n, said)
		}
	}
	for _, bad := range []string{"", "{}", "many", `{"size": "2"}`, `{"size": -1}`} {
		if code, _ := ask(t, p, http.MethodPut, bad); code/100 != 4 {
			t.Errorf("resize by %q: %d, want a refusal", bad, code)
		}
	}
	p.wantRunning(t, 1)
}

func TestWorkerPoolReplacesWhatDies(t *testing.T) {
	p := sleepers(t)
	if err := p.Kill(); err == nil {
		t.Error("an instance was killed of a pool that has none")
	}
	if err := p.Resize(1); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	p.wantRunning(t, 1)
	select {
	case err := <-p.stack.Died():
		t.Errorf("the stack takes an instance's end for a part's death: %v", err)
	default:
	}
}

func TestWorkerPoolThatIsClosedStartsNothing(t *testing.T) {
	p := sleepers(t)
	if err := p.Resize(2); err != nil {
		t.Fatal(err)
	}
	p.close()
	if n := p.Running(); n != 0 {
		t.Errorf("%d processes are left", n)
	}
	if err := p.Resize(1); err == nil {
		t.Error("a closed pool was resized")
	}
	p.wantRunning(t, 0)
}
