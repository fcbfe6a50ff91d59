package main

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const moduleRoot = "../../.."

const pipelineFile = `name: orders
purpose: Load each order export.
owner: data@example.com
on:
  - storage: {bucket: landing, object: "orders/**"}
workflow: {type: Load, taskQueue: loads}
`

func pipelinesFolder(t testing.TB, content string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"orders.yaml": content, "README.md": "not a pipelines file", ".orders.yaml.swp": "an editor's"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// stageOnce runs the command and returns its exit code and what it printed.
func stageOnce(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(append([]string{"-root", moduleRoot}, args...), &out, &errs)
	return code, out.String(), errs.String()
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	var list []string
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			list = append(list, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestStagedIsWhatTheFunctionNeeds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "staged")
	if code, _, stderr := stageOnce("-pipelines", pipelinesFolder(t, pipelineFile), dir); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	staged := names(t, dir)
	for _, name := range []string{"function.go", "go.mod", "go.sum", "functions/functions.go", "events/event.go", "pipeline/pipeline.go", "runs/names.go", "pipelines/orders.yaml"} {
		if !slices.Contains(staged, name) {
			t.Errorf("%s is missing", name)
		}
	}
	for _, name := range staged {
		base := filepath.Base(name)
		switch top, _, _ := strings.Cut(name, "/"); {
		case strings.HasSuffix(base, "_test.go"), strings.Contains(name, "testdata/"), base == "go.work",
			base == "go.mod" && name != "go.mod",
			slices.Contains([]string{"worker", "dataflow", "service", "cmd", "dev", "examples", "scripts"}, top),
			top == "pipelines" && name != "pipelines/orders.yaml",
			strings.HasPrefix(base, ".") && name != marker:
			t.Errorf("%s is staged", name)
		}
	}
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for _, module := range []string{"github.com/spf13/cobra", "pgregory.net/rapid", "google.golang.org/api/dataflow"} {
		if strings.Contains(string(mod), module) {
			t.Errorf("go.mod requires %s, which no function imports", module)
		}
	}
}

func TestStagingTwiceGivesTheSameBytes(t *testing.T) {
	pipelines := pipelinesFolder(t, pipelineFile)
	var archives [2][]byte
	var bases [2]string
	for i := range archives {
		dir := filepath.Join(t.TempDir(), "staged")
		code, stdout, stderr := stageOnce("-pipelines", pipelines, "-zip", dir)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		name := strings.TrimSpace(stdout)
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		archives[i], bases[i] = b, filepath.Base(name)
	}
	if bases[0] != bases[1] || !bytes.Equal(archives[0], archives[1]) {
		t.Errorf("%s and %s differ", bases[0], bases[1])
	}

	dir := filepath.Join(t.TempDir(), "staged")
	changed := pipelinesFolder(t, strings.Replace(pipelineFile, "Load each", "Load every", 1))
	for range 2 { // a staged folder may be staged anew
		code, stdout, stderr := stageOnce("-pipelines", changed, "-zip", dir)
		if code != 0 {
			t.Fatalf("exit code %d: %s", code, stderr)
		}
		if base := filepath.Base(strings.TrimSpace(stdout)); base == bases[0] {
			t.Errorf("a changed pipeline has the old archive's name %s", base)
		}
	}
}

func TestRefusals(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "precious"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"pipelines that do not lint":     {[]string{"-pipelines", pipelinesFolder(t, "name: orders\nnonsense: 1\n"), filepath.Join(t.TempDir(), "x")}, exitInvalid, "orders.yaml:2:1"},
		"a folder without pipelines":     {[]string{"-pipelines", t.TempDir(), filepath.Join(t.TempDir(), "x")}, exitFailed, "no pipelines file"},
		"a folder that is not there":     {[]string{"-pipelines", filepath.Join(t.TempDir(), "x"), filepath.Join(t.TempDir(), "x")}, exitInvalid, "no such file"},
		"a folder of something else":     {[]string{full}, exitFailed, "not empty"},
		"no folder":                      {nil, exitUsage, "usage"},
		"a flag that does not exist":     {[]string{"-frobnicate", "x"}, exitUsage, "usage"},
		"two folders":                    {[]string{"x", "y"}, exitUsage, "usage"},
		"help is asked for, not refused": {[]string{"-h"}, 0, "usage"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, _, stderr := stageOnce(tt.args...); code != tt.code || !strings.Contains(stderr, tt.says) {
				t.Errorf("exit code %d, want %d; it says %s", code, tt.code, stderr)
			}
		})
	}
	if _, err := os.Stat(filepath.Join(full, "precious")); err != nil {
		t.Errorf("it removed what it did not stage: %v", err)
	}
}
