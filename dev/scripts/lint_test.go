package scripts

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// lintYard has one module, and tools that find nothing. There is no shellcheck in it.
func lintYard(t *testing.T) *yard {
	t.Helper()
	y := newYard(t, "lint")
	for name, text := range map[string]string{"go.mod": "module acme\n", ".golangci.yml": ""} {
		if err := os.WriteFile(filepath.Join(y.root, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(y.root, "dev/tools"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tool := range []string{".penstock/bin/golangci-lint", ".penstock/bin/workflowcheck"} {
		y.program(t, tool, "#!/bin/sh\n")
	}
	return y
}

func TestLintWithoutShellcheck(t *testing.T) {
	t.Parallel()
	y := lintYard(t)
	// On a machine with Go, make and git alone, the rest is checked and this is said.
	r := y.run(t, []string{"PATH=" + y.without(t, "shellcheck")}, "lint", ".")
	r.wantStatus(t, 0)
	r.wantSaid(t, "the scripts are NOT checked")
	// Where it is asked for, nothing passes without.
	r = y.run(t, []string{"SHELLCHECK=/tools/shellcheck"}, "lint", ".")
	r.wantStatus(t, 2)
	r.wantSaid(t, "SHELLCHECK is /tools/shellcheck, and there is no such program")
}

func TestLintChecksScripts(t *testing.T) {
	t.Parallel()
	y := lintYard(t)
	y.program(t, "checker", "#!/bin/sh\necho \"checker $*\" >>\"$WORLD/calls\"\n[ \"$FAILS\" != checker ]\n")
	named := "SHELLCHECK=" + filepath.Join(y.root, "checker")
	r := y.run(t, []string{named, "FAILS="}, "lint", ".")
	r.wantStatus(t, 0)
	if got := r.calls[len(r.calls)-1]; !strings.HasPrefix(got, "checker ") || !strings.Contains(got, " scripts/lint") {
		t.Errorf("it calls %q", got)
	}
	y.run(t, []string{named, "FAILS=checker"}, "lint", ".").wantStatus(t, 1)
}

// without is a PATH of all programs that the scripts find on this machine, but for one.
func (y *yard) without(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(y.root, "without")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, from := range []string{filepath.Join(y.root, "programs"), "/usr/local/bin", "/usr/bin", "/bin"} {
		programs, _ := filepath.Glob(filepath.Join(from, "*")) // the pattern is well-formed
		for _, program := range programs {
			if base := filepath.Base(program); base != name {
				_ = os.Symlink(program, filepath.Join(dir, base)) // the first of a name wins
			}
		}
	}
	return dir
}
