package pipeline_test

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	dataflow "google.golang.org/api/dataflow/v1b3"

	"github.com/penstock/penstock/pipeline"
)

func TestTheSchemaAndTheReferenceFollowTheDescriptions(t *testing.T) {
	schema, err := os.ReadFile("../schemas/pipeline.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(schema, pipeline.Schema()) {
		t.Error("schemas/pipeline.schema.json is out of step: run go generate ./pipeline")
	}
	page, err := os.ReadFile("../docs/pipelines.md")
	if err != nil {
		t.Fatal(err)
	}
	updated, err := pipeline.UpdateReference(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, updated) {
		t.Error("docs/pipelines.md is out of step: run go generate ./pipeline")
	}
	if _, err := pipeline.UpdateReference([]byte("# no marks")); err == nil {
		t.Error("a page without marks is updated")
	}
}

// TestTheSchemaIsWellFormed checks what editors rely on: every object is closed, and every pattern is an expression.
func TestTheSchemaIsWellFormed(t *testing.T) {
	var root map[string]any
	if err := json.Unmarshal(pipeline.Schema(), &root); err != nil {
		t.Fatal(err)
	}
	var walk func(path string, v map[string]any)
	walk = func(path string, v map[string]any) {
		if v["type"] == "object" && v["additionalProperties"] == nil {
			t.Errorf("%s is open", path)
		}
		if p, ok := v["pattern"].(string); ok {
			if _, err := regexp.Compile(p); err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		for name, c := range v {
			if c, ok := c.(map[string]any); ok {
				walk(path+"/"+name, c)
			}
		}
	}
	walk("", root)
}

// TestTheEnvironmentIsDataflows holds our names against the API's own client.
func TestTheEnvironmentIsDataflows(t *testing.T) {
	ours := pipeline.EnvironmentNames()
	theirs := func(v any) []string {
		var names []string
		for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name != "-" && name != "additionalUserLabels" { // labels are written under labels
				names = append(names, name)
			}
		}
		slices.Sort(names)
		return names
	}
	for kind, v := range map[string]any{"flex": dataflow.FlexTemplateRuntimeEnvironment{}, "classic": dataflow.RuntimeEnvironment{}} {
		if got, want := ours[kind], theirs(v); !slices.Equal(got, want) {
			t.Errorf("%s templates:\ngot  %v\nwant %v", kind, got, want)
		}
	}
}

func TestSnippetsInTheDocsLint(t *testing.T) {
	n := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != ".." || d.Name() == "node_modules") {
			return fs.SkipDir
		}
		if filepath.Ext(path) != ".md" {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllSubmatchIndex(src, -1) {
			snippet := src[m[2]:m[3]]
			if !bytes.Contains(snippet, []byte("\npurpose:")) {
				continue // YAML of something else
			}
			n++
			name := strings.TrimPrefix(path, "../")
			if _, problems := pipeline.Parse(name, append(bytes.Repeat([]byte("\n"), bytes.Count(src[:m[2]], []byte("\n"))), snippet...)); len(problems) > 0 {
				t.Errorf("%v", problems)
			}
		}
		return nil
	})
	if err != nil || n < 4 {
		t.Errorf("%d snippets, %v", n, err)
	}
}

func TestExamplesLint(t *testing.T) {
	files, err := filepath.Glob("../examples/*/pipelines/*.yaml")
	if err != nil || len(files) == 0 {
		t.Errorf("found %d examples, %v", len(files), err)
	}
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, problems := pipeline.Parse(path, src); len(problems) > 0 {
			t.Errorf("%v", problems)
		}
	}
}
