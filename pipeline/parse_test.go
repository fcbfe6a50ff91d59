package pipeline_test

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/pipeline"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestProblemsOfBadFiles lints every file in testdata/bad and compares what a user reads with the golden file beside it.
func TestProblemsOfBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("found %d bad files: %v", len(files), err)
	}
	for _, path := range files {
		name := filepath.Base(path)
		t.Run(strings.TrimSuffix(name, ".yaml"), func(t *testing.T) {
			src, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			p, problems := pipeline.Parse(name, src)
			if len(problems) == 0 {
				t.Fatal("no problem was found")
			}
			if (p == nil) != problems.HasErrors() {
				t.Errorf("pipeline is %v with problems %v", p, problems)
			}
			compareGolden(t, strings.TrimSuffix(path, ".yaml")+".golden", problems.Error()+"\n")
		})
	}
}

func compareGolden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOneFileWithTenMistakesTellsAllTen(t *testing.T) {
	src, err := os.ReadFile("testdata/bad/ten-different-mistakes.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, problems := pipeline.Parse("f", src)
	text := problems.Error()
	for _, want := range []string{
		"f:1:7: name", "f:6:17: when", "f:7:", "f:8:1: unknown field", "circle", "f:13:17: ${ }", "f:15:", "Region", "maxWorkers", "timeout", "attempts",
		"claen", "jobbId", "two steps are called load", "not a gs:// path",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("problems lack %q:\n%s", want, text)
		}
	}
}

func parse(t *testing.T, src string) *pipeline.Pipeline {
	t.Helper()
	p, problems := pipeline.Parse("pipeline.yaml", []byte(src))
	if p == nil {
		t.Fatalf("parse:\n%v", problems)
	}
	return p
}

const orders = `
name: orders
purpose: Load each order export into the warehouse before 06:00.
owner: data@example.com
on:
  - storage: {bucket: acme-landing, object: "orders/{region}/{date}/*.csv"}
    when: event.size > 0
steps:
  - name: clean
    dataflow:
      template: gs://acme-templates/clean.json
      parameters:
        input: ${event.uri}
        output: gs://acme-clean/${object.region}/${object.date}/
        price: $${free}
        batch: 500
        strict: true
      labels: {region: "${label(object.region)}"}
      environment: {maxWorkers: 10, serviceAccountEmail: orders@acme.iam.gserviceaccount.com, additionalExperiments: [a=b]}
      location: europe-west4
    timeout: 1d12h
    retry: {attempts: 3, backoff: 30s}
  - name: load
    needs: [clean, clean]
    dataflow:
      template: gs://acme-templates/load.json
      classic: true
      parameters:
        rows: ${steps.clean.metrics.rows + event.size}
`

func TestParseReadsEveryField(t *testing.T) {
	p := parse(t, orders)
	if p.Name != "orders" || p.Owner != "data@example.com" || !strings.HasPrefix(p.Purpose, "Load each") {
		t.Errorf("got %q, %q, %q", p.Name, p.Owner, p.Purpose)
	}
	if len(p.Version.Hash) != 64 || !p.Version.ChangedAt.IsZero() {
		t.Errorf("version is %+v", p.Version)
	}
	on := p.On[0]
	if on.Storage.Bucket != "acme-landing" || len(on.Storage.Kinds) != 1 || on.Storage.Kinds[0] != "finalized" || on.When != "event.size > 0" {
		t.Errorf("trigger is %+v", on)
	}
	clean, load := p.Steps[0], p.Steps[1]
	if clean.Timeout != 36*time.Hour || clean.Retry != (pipeline.Retry{Attempts: 3, Backoff: 30 * time.Second, MaxBackoff: 30 * time.Minute}) {
		t.Errorf("timeout %v, retry %+v", clean.Timeout, clean.Retry)
	}
	env := clean.Dataflow.Environment
	if env["maxWorkers"] != int64(10) || env["serviceAccountEmail"] != "orders@acme.iam.gserviceaccount.com" || env["additionalExperiments"].([]string)[0] != "a=b" {
		t.Errorf("environment is %v", env)
	}
	if clean.Dataflow.Location != "europe-west4" || clean.Dataflow.Classic || !load.Dataflow.Classic {
		t.Errorf("jobs are %+v and %+v", clean.Dataflow, load.Dataflow)
	}
	if len(load.Needs) != 1 || load.Needs[0] != "clean" || load.Timeout != 0 || load.Retry.Attempts != 1 {
		t.Errorf("load is %+v", load)
	}
}

func TestCapsOfAFile(t *testing.T) {
	long := strings.Repeat("x", 9<<10)
	for name, src := range map[string]string{
		"the file has more than 256 KiB":        strings.Repeat("# padding\n", 30_000) + orders,
		"is not valid UTF-8":                    "name: orders\npurpose: \xff\n",
		"purpose has more than 8192 characters": strings.Replace(orders, "before 06:00", long, 1),
		"more than 100":                         orders + strings.Repeat("  - {name: a, dataflow: {template: gs://a-b/c}}\n", 100),
		"nested too deep":                       "name: " + strings.Repeat("[", 30) + strings.Repeat("]", 30),
		"has 201 entries, more than 200":        strings.Replace(orders, "        batch: 500\n", manyParameters(197), 1),
		"expression":                            strings.Replace(orders, "${event.uri}", "${"+strings.Repeat("1+", 1500)+"1}", 1),
	} {
		t.Run(name, func(t *testing.T) {
			p, problems := pipeline.Parse("f", []byte(src))
			if p != nil || !strings.Contains(problems.Error(), name) {
				t.Errorf("problems lack %q: %v", name, problems)
			}
		})
	}
}

func manyParameters(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("        p" + strings.Repeat("x", i%100) + strings.Repeat("y", i/100) + ": a\n")
	}
	return b.String()
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/bad/*.yaml")
	for _, path := range files {
		src, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(src))
	}
	f.Add(orders)
	f.Fuzz(func(t *testing.T, src string) {
		p, problems := pipeline.Parse("f", []byte(src))
		if (p == nil) != problems.HasErrors() {
			t.Errorf("pipeline %v with problems %v", p, problems)
		}
		lines := strings.Count(src, "\n") + 1
		for _, problem := range problems {
			if problem.Line < 0 || problem.Line > lines || problem.Line > 0 && problem.Col < 1 || strings.Contains(problem.Error(), "\n") {
				t.Errorf("problem %q is out of a file of %d lines", problem.Error(), lines)
			}
		}
		if p != nil {
			pipeline.NewSet([]*pipeline.Pipeline{p})
		}
	})
}
