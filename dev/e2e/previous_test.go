package e2e_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/penstock/penstock/dev/stack"
)

// previousRelease is the commit that testdata/previous-release names.
func previousRelease() (string, error) {
	text, err := os.ReadFile(filepath.Join("testdata", "previous-release"))
	if err != nil {
		return "", err
	}
	var commits []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			commits = append(commits, line)
		}
	}
	if len(commits) != 1 || !regexp.MustCompile(`^[0-9a-f]{40}$`).MatchString(commits[0]) {
		return "", fmt.Errorf("testdata/previous-release says %q; it is to hold one commit, in full", commits)
	}
	return commits[0], nil
}

// previous makes what tests need of the previous release, once.
var previous = struct {
	worker, replayer func() (string, error)
}{
	worker: sync.OnceValues(func() (string, error) {
		return buildPrevious("worker", "go", "build", "-o", "{out}", "./worker/cmd")
	}),
	// Its tests of the worker, whose replay tests take the histories below the working directory.
	replayer: sync.OnceValues(func() (string, error) {
		return buildPrevious("worker-test", "go", "test", "-c", "-o", "{out}", "./worker")
	}),
}

// buildPrevious builds a program from the previous release's own files, {out} being
// where it is to lie, and keeps it beside what the stack builds: what a commit's files
// make does not change.
func buildPrevious(name string, command ...string) (string, error) {
	commit, err := previousRelease()
	if err != nil {
		return "", err
	}
	root, err := stack.FindRoot()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(root, ".penstock", "bin")
	path := filepath.Join(bin, name+"-"+commit)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp("", "penstock-previous-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := unpackCommit(root, commit, dir); err != nil {
		return "", err
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	// Another process may build the same: the last rename wins, with the same program.
	fresh := fmt.Sprintf("%s.%d.new", path, os.Getpid())
	for i, word := range command {
		command[i] = strings.ReplaceAll(word, "{out}", fresh)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the previous release's %s (%s): %w\n%s", name, commit, err, out)
	}
	return path, os.Rename(fresh, path)
}

// What the previous release's workers cannot replay: activities that they have not, and histories
// of this release in which they would have done something else than the marker of a change says.
var (
	newActivities   = []string{"AskForSweep", "SweepJobs"}
	otherwiseBefore = []string{
		"v4/hint-in-trouble.only-1", "v4/refused-look.only-1", "v4/reset-and-cancelled-at-once.run", "v4/reset-and-cancelled-in-a-back-off.run", "v4/reset-later-and-cancelled-in-a-back-off.run",
		"v4/retry-cancelled.run",
	}
)

// What this release's workers leave, the previous release's can go on with, but for what
// it does not know at all: docs/upgrades.md says what is to be done about that.
func TestHistoriesReplayOnThePreviousRelease(t *testing.T) {
	t.Parallel()
	replayer, err := previous.replayer()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	saved, err := filepath.Glob(filepath.Join(histories, "*", "*.json"))
	if err != nil || len(saved) == 0 {
		t.Fatalf("no histories in %s: %v", histories, err)
	}
	unknown := map[string]bool{} // to the previous release, by folder and name
	for _, path := range saved {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		name, err := filepath.Rel(histories, path)
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, "testdata", "histories", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o755), os.WriteFile(to, text, 0o644)); err != nil {
			t.Fatal(err)
		}
		name = filepath.ToSlash(strings.TrimSuffix(name, ".json"))
		unknown[name] = slices.Contains(otherwiseBefore, name) || slices.ContainsFunc(newActivities, func(activity string) bool {
			return bytes.Contains(text, []byte(`"`+activity+`"`))
		})
	}
	cmd := exec.CommandContext(t.Context(), replayer, "-test.run", "^TestSavedHistoriesReplay$", "-test.v")
	// TEMPORAL_DEBUG: the SDK takes a busy machine for a deadlock.
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TEMPORAL_DEBUG=1")
	out, err := cmd.CombinedOutput() // fails, as some of the histories are to
	said := regexp.MustCompile(`--- (PASS|FAIL): TestSavedHistoriesReplay/(\S+)_by_a_worker`).FindAllStringSubmatch(string(out), -1)
	if len(said) < len(saved) {
		t.Fatalf("the previous release's tests replayed %d times, with %d histories (%v):\n%s", len(said), len(saved), err, tail(string(out), 30))
	}
	for _, s := range said {
		switch replayed, name := s[1] == "PASS", s[2]; {
		case !replayed && !unknown[name]:
			t.Errorf("the previous release's worker cannot go on with %s", name)
		case replayed && unknown[name]:
			t.Errorf("the previous release's worker goes on with %s, which holds what it does not know", name)
		}
	}
}

// unpackCommit writes the production module's files of a commit below dir.
func unpackCommit(root, commit, dir string) error {
	cmd := exec.Command("git", "archive", "--format=tar", commit)
	cmd.Dir = root
	var said bytes.Buffer
	cmd.Stderr = &said
	archive, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("read the previous release, commit %s of testdata/previous-release, from this repository: %w: %s\n"+
			"The test needs a clone with its history; in a shallow one: git fetch --unshallow", commit, err, strings.TrimSpace(said.String()))
	}
	for files := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := files.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack commit %s: %w", commit, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		text, err := io.ReadAll(files)
		if err != nil {
			return fmt.Errorf("unpack %s of commit %s: %w", h.Name, commit, err)
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
}
