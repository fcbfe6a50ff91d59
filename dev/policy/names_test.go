package policy

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// read is the text of all files below a folder of the repository that have an extension.
func read(t *testing.T, extension string, folders ...string) string {
	t.Helper()
	var all strings.Builder
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join("..", "..", folder), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(name) != extension || strings.HasSuffix(name, "_test.go") {
				return err
			}
			text, err := os.ReadFile(name)
			all.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}

// found lists what a pattern's group matches, each once.
func found(pattern, text string) []string {
	var all []string
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
		all = append(all, m[1])
	}
	slices.Sort(all)
	return slices.Compact(all)
}

func TestTerraformSetsVariablesThatProgramsRead(t *testing.T) {
	code := read(t, ".go", "functions", "worker", "connect", "cmd", "service", "rotation")
	set := found(`\b(PENSTOCK_[A-Z_]+) *=`, read(t, ".tf", "terraform"))
	if len(set) < 10 {
		t.Fatalf("Terraform sets %v only", set)
	}
	for _, name := range set {
		if !strings.Contains(code, `"`+name+`"`) {
			t.Errorf("Terraform sets %s, which no program reads", name)
		}
	}
}

func TestMetricsAreOfFieldsThatAreLogged(t *testing.T) {
	metrics := read(t, ".tf", "terraform/modules/observability")
	logged := read(t, ".go", "functions", "worker", "cloudlog", "rotation")
	fields := slices.Concat(found(`EXTRACT\((?:labels|jsonPayload)\.(\w+)\)`, metrics), found(`(?:labels|jsonPayload)\.(penstock_\w+|finding|deployment|durationMs|longestWaitSeconds)`, metrics))
	if len(fields) < 8 {
		t.Fatalf("the metrics read %v only", fields)
	}
	for _, field := range fields {
		if !strings.Contains(logged, `"`+field+`"`) {
			t.Errorf("a metric reads %s, which nothing logs", field)
		}
	}
	values := found(`finding=(?:one_of\()?\\"([a-z-]+)\\"`, strings.NewReplacer(`${local.found}`, "finding=", `${local.rotation_found}`, "finding=").Replace(metrics))
	if len(values) < 6 {
		t.Fatalf("the alerts are about %v only", values)
	}
	for _, value := range values {
		if !strings.Contains(logged, `"`+value+`"`) {
			t.Errorf("an alert is about %s, which nothing finds", value)
		}
	}
}
