package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// demoTakes bounds a demo whose parts are built, on a busy machine.
const demoTakes = 10 * time.Minute

// demo prepares `make demo`, with its output going to a file: no terminal.
func demo(t *testing.T, args ...string) (cmd *exec.Cmd, output *watched, state string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "penstock-demo")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", program, "./cmd/demo")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the demo: %v\n%s", err, text)
	}
	state = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), demoTakes)
	t.Cleanup(cancel)
	cmd = exec.CommandContext(ctx, program, append([]string{"-state", state, "-within", "5m"}, args...)...)
	output = &watched{}
	cmd.Stdout, cmd.Stderr = output, output
	// As Ctrl-C does, not as a crash: what it has started must end.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- the demo's output\n%s", output)
		}
	})
	return cmd, output, state
}

// watched keeps output and tells of a text that is awaited.
type watched struct {
	mu    sync.Mutex
	text  bytes.Buffer
	await string
	seen  chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text.Write(p)
	if w.seen != nil && bytes.Contains(w.text.Bytes(), []byte(w.await)) {
		close(w.seen)
		w.seen = nil
	}
	return len(p), nil
}

func (w *watched) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

// The demo is the first thing that a newcomer runs: it shows one run a file however
// often its event came, and vouches for the results by its exit code.
func TestDemoShowsEachRunOnceAndPassesItsChecks(t *testing.T) {
	t.Parallel()
	cmd, output, _ := demo(t)
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	text := output.String()
	for what, pattern := range map[string]string{
		"the file delivered three times": `(?m)^ +weather +finalized:weather-landing/daily/seattle-2013\.csv#\d+ +succeeded +2 +[\d.]+s +2$`,
		"a file delivered once":          `(?m)^ +weather +finalized:weather-landing/daily/seattle-2014\.csv#\d+ +succeeded +2 +[\d.]+s +0$`,
		"the run that a message started": `(?m)^ +weather-report +pubsub:projects/penstock-dev/topics/weather-requests#\d+ +succeeded +1 +[\d.]+s +0$`,
		"a figure":                       `(?m)^ +seattle,2014-03,31,240\.0,`,
		"where to watch the runs":        `http://127\.0\.0\.1:\d+`,
		"why the broken event failed":    `dead-lettered: .*not JSON`,
	} {
		if !regexp.MustCompile(pattern).MatchString(text) {
			t.Errorf("%s is missing: no line matches %s", what, pattern)
		}
	}
	if n := len(regexp.MustCompile(`(?m)^ +weather(-report)? +\S+#\d+ +succeeded `).FindAllString(text, -1)); n != 5 {
		t.Errorf("the table has %d runs, want 5", n)
	}
	if passed, failed := strings.Count(text, "\n   ok     "), strings.Count(text, "\n   FAILED "); passed != 10 || failed != 0 {
		t.Errorf("%d checks passed and %d failed, want 10 and none", passed, failed)
	}
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
		t.Error("there are control characters in a text that no terminal shows")
	}
}

func TestDemoThatRunsOutOfTimeSaysWhatItWaitsFor(t *testing.T) {
	t.Parallel()
	cmd, output, state := demo(t, "-within", "1ms")
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Fatalf("ended with %v, want exit code 1", err)
	}
	for _, want := range []string{"seattle-2012: ", "all logs are in " + filepath.Join(state, "logs"), `make demo ARGS="-within 15m"`} {
		if !strings.Contains(output.String(), want) {
			t.Errorf("the output lacks %q", want)
		}
	}
}

func TestDemoKeepsRunningUntilItIsInterrupted(t *testing.T) {
	t.Parallel()
	cmd, output, state := demo(t, "-keep")
	seen := make(chan struct{})
	output.await, output.seen = "Stop it with Ctrl-C.", seen
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-seen:
	case err := <-ended:
		t.Fatalf("it ended without being interrupted: %v", err)
	}
	if _, err := os.Stat(filepath.Join(state, "dev.env")); err != nil {
		t.Errorf("nobody can join: %v", err)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("after an interrupt it ended with %v, want exit code 0: its checks had passed", err)
	}
	if _, err := os.Stat(filepath.Join(state, "dev.env")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dev.env stays: %v", err)
	}
}
