package stack

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// built are the programs that this process has built, by path: stacks that start one
// after the other build once.
var built struct {
	sync.Mutex
	programs map[string]bool
}

// build makes the programs that the stack runs. Go's own cache decides what is
// out of date, so that a second start costs moments. Stacks that start together
// build one after the other.
func (s *Stack) build(ctx context.Context) error {
	bin := filepath.Dir(s.bin("x"))
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return fmt.Errorf("make the folder for programs: %w", err)
	}
	steps := []struct {
		program string
		wanted  bool
		build   func(context.Context) error
	}{
		{"functions", s.o.FunctionsBinary == "", s.buildFunctions},
		{"worker", s.o.WorkerBinary == "", s.goBuild("worker", s.o.Root, "./worker/cmd")},
		{"pipelines", s.o.Beam || s.o.ImageMap != "", s.goBuild("pipelines", filepath.Join(s.o.Root, "examples", "pipelines"), ".")},
		{"dataflow-emulator", s.o.DataflowProcess, s.goBuild("dataflow-emulator", filepath.Join(s.o.Root, "dev"), "./dataflowemulator/cmd/dataflow-emulator")},
		{"temporal-dev", !s.joined() && s.temporalCLI() == "", s.goBuild("temporal-dev", filepath.Join(s.o.Root, "dev", "temporal"), ".")},
	}
	built.Lock()
	defer built.Unlock()
	unlock, err := lockBuilds(ctx, filepath.Join(bin, "build.lock"))
	if err != nil {
		return err
	}
	defer unlock()
	for _, step := range steps {
		if !step.wanted || built.programs[s.bin(step.program)] {
			continue
		}
		if err := step.build(ctx); err != nil {
			return err
		}
		if built.programs == nil {
			built.programs = map[string]bool{}
		}
		built.programs[s.bin(step.program)] = true
	}
	return nil
}

// goBuild is the step that builds one program of a module.
func (s *Stack) goBuild(name, dir, pkg string) func(context.Context) error {
	return func(ctx context.Context) error {
		first := ""
		if !exists(s.bin(name)) {
			first = firstBuild[name]
		}
		return s.command(ctx, "build "+name, first, dir, "go", "build", "-v", "-o", s.bin(name), pkg)
	}
}

// firstBuild prepares the user for the long ones, on two cores.
var firstBuild = map[string]string{
	"temporal-dev": "a Temporal server; the first time takes about 3 minutes",
	"pipelines":    "the example pipelines and Beam's local runner; the first time takes about 1.5 minutes",
	"worker":       "the first time takes about a minute",
}

// buildFunctions stages and builds what is deployed, as Cloud Functions does.
func (s *Stack) buildFunctions(ctx context.Context) error {
	staged, err := os.MkdirTemp("", "penstock-functions-")
	if err != nil {
		return fmt.Errorf("stage the functions: %w", err)
	}
	defer os.RemoveAll(staged)
	out := filepath.Join(staged, "staged")
	if err := s.command(ctx, "stage functions", "", s.o.Root, filepath.Join(s.o.Root, "scripts", "stage-functions"), out); err != nil {
		return err
	}
	sum, err := hashFolder(out)
	if err != nil {
		return fmt.Errorf("stage the functions: %w", err)
	}
	// The buildpack's steps take seconds even with nothing to do; what was built
	// from the same files is not built again.
	mark := s.bin("functions.sum")
	if old, err := os.ReadFile(mark); err == nil && string(old) == sum && exists(s.bin("functions")) {
		return nil
	}
	if err := s.command(ctx, "build functions", "as the buildpack does; the first time takes about a minute", s.o.Root,
		filepath.Join(s.o.Root, "scripts", "build-functions"), out, s.bin("functions")); err != nil {
		return err
	}
	if err := os.WriteFile(mark, []byte(sum), 0o644); err != nil {
		return fmt.Errorf("remember what the functions were built from: %w", err)
	}
	return nil
}

// command runs a step of the build. It says so only when the step takes longer
// than a moment, and then every few seconds which package it is at.
func (s *Stack) command(ctx context.Context, what, note, dir, name string, args ...string) error {
	began := time.Now()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	// The same build, and the same entries of the cache, with or without a C compiler.
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	cmd.SysProcAttr = childAttributes()
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Stdout = s.logs.part(buildLog)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if err := onSpawner(cmd.Start); err != nil {
		return fmt.Errorf("%s: run %s: %w", what, name, err)
	}
	var at atomic.Value
	at.Store("")
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		lines := bufio.NewScanner(io.TeeReader(stderr, s.logs.part(buildLog)))
		for lines.Scan() {
			at.Store(strings.TrimSpace(lines.Text()))
		}
	}()
	finished := make(chan struct{})
	go s.reportProgress(what, note, began, &at, finished)
	<-quiet
	err = cmd.Wait()
	close(finished)
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	if err != nil {
		return fmt.Errorf("%s: %w; %s", what, err, s.logs.lastLines(buildLog))
	}
	if took := time.Since(began); took > announceAfter {
		s.progress("%-10s %s (%s)", "done", what, took.Round(100*time.Millisecond))
	}
	return nil
}

const announceAfter = 2 * time.Second

func (s *Stack) reportProgress(what, note string, began time.Time, at *atomic.Value, finished <-chan struct{}) {
	wait := announceAfter
	for first := true; ; first = false {
		select {
		case <-finished:
			return
		case <-time.After(wait):
		}
		wait = 10 * time.Second
		switch where := at.Load().(string); {
		case first && note != "":
			s.progress("%-10s %s: %s", "building", what, note)
		case where == "":
			s.progress("%-10s %s, %s", "building", what, time.Since(began).Round(time.Second))
		default:
			s.progress("%-10s %s, %s, at %s", "building", what, time.Since(began).Round(time.Second), where)
		}
	}
}

// lockBuilds waits for other stacks that build into the same folder.
func lockBuilds(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock the builds: %w", err)
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock the builds: %w", err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for another stack's build: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// hashFolder covers the paths and bytes of all files.
func hashFolder(dir string) (string, error) {
	h := sha256.New()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %d\n", rel, len(data))
		h.Write(data)
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), err
}
