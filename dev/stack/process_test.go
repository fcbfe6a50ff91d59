package stack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bare is a stack without parts, to run processes in.
func bare(t *testing.T) *Stack {
	t.Helper()
	l, err := openLogs(t.TempDir(), nil, false)
	if err != nil {
		t.Fatal(err)
	}
	s := &Stack{o: Options{Root: t.TempDir()}, logs: l, died: make(chan error, 8), stop: func() {}}
	t.Cleanup(func() { s.watching.Wait() })
	return s
}

func sh(t *testing.T, s *Stack, script string) *process {
	t.Helper()
	p, err := s.spawn("part", []string{"/bin/sh", "-c", script}, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	s.ready(p)
	t.Cleanup(func() { _ = p.kill() })
	return p
}

// printed waits until the part has printed a line and returns it.
func printed(t *testing.T, s *Stack) string {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if line, _, ok := strings.Cut(s.Logs("part"), "\n"); ok {
			return line
		}
	}
	t.Fatal("the part printed nothing")
	return ""
}

func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) || zombie(pid) {
			return
		}
	}
	t.Errorf("process %d is left", pid)
}

// zombie says that a process has ended and waits for a parent that may not ask,
// as in a container without an init.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && bytes.Contains(stat, []byte(") Z "))
}

func TestPartThatDiesIsReportedWithItsLastLines(t *testing.T) {
	s := bare(t)
	sh(t, s, "echo starting; echo 'cannot reach the moon' >&2; exit 3")
	select {
	case err := <-s.Died():
		for _, want := range []string{"the part ended by itself", "exit status 3", "cannot reach the moon"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was told")
	}
}

func TestPartThatIsStoppedIsNoDeath(t *testing.T) {
	s := bare(t)
	for _, end := range []func(*process) error{(*process).stop, (*process).kill} {
		if err := end(sh(t, s, "sleep 1000")); err != nil {
			t.Error(err)
		}
	}
	s.watching.Wait()
	if len(s.died) != 0 {
		t.Errorf("reported %v", <-s.died)
	}
}

func TestStopEndsTheWholeGroup(t *testing.T) {
	s := bare(t)
	p := sh(t, s, "sleep 1000 & echo $!; wait")
	grandchild, err := strconv.Atoi(printed(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	gone(t, grandchild)
}

func TestPartThatDiesWhileStartingFailsTheStart(t *testing.T) {
	s := bare(t)
	p := sh(t, s, "echo 'address already in use'; exit 1")
	err := s.awaitReady(t.Context(), p, time.Minute, func(context.Context) error { return errors.New("no answer") })
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
}

// TestMain runs as the parent of TestNoOrphansWhenTheParentIsKilled.
func TestMain(m *testing.M) {
	if os.Getenv("STACK_TEST_PARENT") == "" {
		os.Exit(m.Run())
	}
	l, err := openLogs(os.Getenv("STACK_TEST_PARENT"), nil, false)
	if err != nil {
		panic(err)
	}
	s := &Stack{o: Options{Root: "/"}, logs: l, died: make(chan error, 8)}
	p, err := s.spawn("part", []string{"/bin/sleep", "1000"}, nil)
	if err != nil {
		panic(err)
	}
	fmt.Println(p.cmd.Process.Pid)
	select {}
}

func TestNoOrphansWhenTheParentIsKilled(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // only Linux has a parent-death signal
	}
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "STACK_TEST_PARENT="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	gone(t, child)
}

func TestNamesAreReadFromPipelinesFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "on:\n  - storage: {bucket: acme-landing, object: \"x/*\"}\n  - pubsub: {topic: orders}\nsteps:\n  - dataflow:\n      template: gs://acme-templates/a.json\n      parameters: {output: \"gs://acme-clean/${object.x}/\", bad: \"gs://${event.bucket}/\"}\n",
		"b.yml":  "on:\n  - storage:\n      bucket: 'other-landing' # why\n  - pubsub:\n      topic: \"projects/p/topics/t\"\n  broken [\n",
		"c.txt":  "bucket: not-a-pipeline\n",
	} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readNames(dir)
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2][]string{
		"buckets":          {got.buckets, {"acme-clean", "acme-landing", "acme-templates", "other-landing"}},
		"template buckets": {got.templateBuckets, {"acme-templates"}},
		"topics":           {got.topics, {"orders", "projects/p/topics/t"}},
	} {
		if strings.Join(pair[0], " ") != strings.Join(pair[1], " ") {
			t.Errorf("%s %q, want %q", what, pair[0], pair[1])
		}
	}
}

func TestOneStackAFolder(t *testing.T) {
	dir := t.TempDir()
	lock, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lockDir(dir); err == nil || !strings.Contains(err.Error(), "another stack runs in") {
		t.Errorf("a second stack in the folder: %v", err)
	}
	lock.Close()
	again, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}

// TestLostPortIsNoFailure: somebody listens where a part wants to, on its first try.
func TestLostPortIsNoFailure(t *testing.T) {
	s := bare(t)
	s.o.Progress = io.Discard
	var tried []string
	p, err := s.addPart(&Part{name: "part", command: func(addr string) ([]string, []string, error) {
		tried = append(tried, addr)
		script := "exec sleep 1000"
		if len(tried) == 1 {
			script = "echo 'listen tcp " + addr + ": bind: address already in use' >&2; exit 1"
		}
		return []string{"/bin/sh", "-c", script}, os.Environ(), nil
	}, await: func(context.Context) error {
		if len(tried) == 1 {
			return errors.New("not yet")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(tried) != 2 || tried[0] == tried[1] || p.Addr() != tried[1] {
		t.Errorf("tried %q, serves on %q", tried, p.Addr())
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tried[2] != tried[1] {
		t.Errorf("it came back at %s, was at %s", tried[2], tried[1])
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	s.watching.Wait()
	if len(s.died) != 0 {
		t.Errorf("reported %v", <-s.died)
	}
}
