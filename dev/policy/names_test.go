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

// A plan does not tell in which order it is carried out, and without Google Cloud nobody notices that something is missing yet.
func TestWhatIsNeededIsThereBefore(t *testing.T) {
	for _, tc := range []struct {
		file, block string
		before      []string
	}{
		{"accounts.tf", `resource "google_storage_bucket_iam_member" "templates"`, []string{"module.source_bucket"}},
		{"pipelines.tf", `module "pipeline"`, []string{"google_project_service.this", "google_pubsub_topic.source", "module.source_bucket"}},
		{"triggers.tf", `module "trigger"`, []string{"google_project_iam_member.build", "google_project_iam_member.build_source", "module.source_bucket"}},
		{"examples/complete/main.tf", `module "ci"`, []string{"google_project_service.before"}},
		{"examples/complete/main.tf", `module "network"`, []string{"google_project_service.before"}},
	} {
		t.Run(tc.file+" "+tc.block, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("..", "..", "terraform", filepath.FromSlash(tc.file)))
			if err != nil {
				t.Fatal(err)
			}
			_, block, found := strings.Cut(string(text), "\n"+tc.block+" {\n")
			block, _, ended := strings.Cut(block, "\n}\n")
			if !found || !ended {
				t.Fatal("there is no such block")
			}
			_, list, _ := strings.Cut(block, "\n  depends_on = [")
			list, _, _ = strings.Cut(list, "]")
			waits := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' })
			for _, want := range tc.before {
				if !slices.Contains(waits, want) {
					t.Errorf("it waits for %v, not for %s", waits, want)
				}
			}
		})
	}
}

func TestAPIsThatAreNeededAreOn(t *testing.T) {
	on := found(`"([a-z]+)\.googleapis\.com",`, read(t, ".tf", "terraform"))
	for _, want := range []string{"cloudresourcemanager", "sts"} { // grants on the project, and federation
		if !slices.Contains(on, want) {
			t.Errorf("%s is not switched on: add it to terraform/main.tf", want)
		}
	}
}
