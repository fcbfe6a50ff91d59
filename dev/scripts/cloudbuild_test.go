package scripts

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"
)

// build is what of a build's file is used: https://cloud.google.com/build/docs/build-config-file-schema.
type build struct {
	Substitutions map[string]string `yaml:"substitutions"`
	Options       struct {
		Logging     string              `yaml:"logging"`
		MachineType string              `yaml:"machineType"`
		Env         []string            `yaml:"env"`
		Volumes     []map[string]string `yaml:"volumes"`
	} `yaml:"options"`
	Timeout string `yaml:"timeout"`
	Steps   []step `yaml:"steps"`
}

type step struct {
	ID         string   `yaml:"id"`
	Name       string   `yaml:"name"`
	Entrypoint string   `yaml:"entrypoint"`
	Args       []string `yaml:"args"`
	Env        []string `yaml:"env"`
	Timeout    string   `yaml:"timeout"`
}

func readBuild(t *testing.T) (build, string) {
	t.Helper()
	text, err := os.ReadFile("../../cloudbuild.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var b build
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&b); err != nil {
		t.Fatal(err)
	}
	return b, string(text)
}

func TestCloudBuild(t *testing.T) {
	t.Parallel()
	b, text := readBuild(t)
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	if b.Options.Logging != "CLOUD_LOGGING_ONLY" {
		t.Errorf("logging is %q, with which Cloud Build takes no account of one's own", b.Options.Logging)
	}
	whole, err := time.ParseDuration(b.Timeout)
	if err != nil {
		t.Errorf("timeout: %v", err)
	}
	var ids []string
	for _, s := range b.Steps {
		ids = append(ids, s.ID)
		pinned := regexp.MustCompile(`^[a-z0-9./-]+(@sha256:[0-9a-f]{64}|:v?[0-9]+\.[0-9]+\.[0-9]+(-[a-z]+)?)$`)
		if !pinned.MatchString(s.Name) {
			t.Errorf("step %s: the image %s has neither a digest nor a version", s.ID, s.Name)
		}
		if limit, err := time.ParseDuration(s.Timeout); err != nil || limit > whole {
			t.Errorf("step %s: timeout %q, of %s for all", s.ID, s.Timeout, b.Timeout)
		}
		switch {
		case strings.HasPrefix(s.Entrypoint, "scripts/"):
			if info, err := os.Stat(filepath.Join("../..", s.Entrypoint)); err != nil || info.Mode()&0o111 == 0 {
				t.Errorf("step %s: %s is no program: %v", s.ID, s.Entrypoint, err)
			}
		case s.Entrypoint == "make":
			if len(s.Args) != 1 || !strings.Contains(string(makefile), "\n"+s.Args[0]+": ") {
				t.Errorf("step %s: make has no target %q", s.ID, s.Args)
			}
		case s.Entrypoint == "cp": // puts a program where the others find it
			name := strings.ToUpper(s.ID) + "=/tools/" + s.ID
			if want := []string{"/bin/" + s.ID, "/tools/" + s.ID}; !slices.Equal(s.Args, want) || !slices.Contains(b.Options.Env, name) {
				t.Errorf("step %s: cp %q, which the scripts are not told of by %s", s.ID, s.Args, name)
			}
		default:
			t.Errorf("step %s: %s is neither a script nor make, so that no laptop can do it", s.ID, s.Entrypoint)
		}
		// What a pull request may do is decided in one place.
		if s.Entrypoint == "scripts/deploy" && !slices.Equal(s.Args[:4], []string{"--action", "${_ACTION}", "--deployment", "${_DEPLOYMENT}"}) {
			t.Errorf("step %s: it does not say which action, of which deployment: %q", s.ID, s.Args)
		}
	}
	if want := []string{"terraform", "shellcheck", "lint", "test", "test-terraform", "image", "functions", "apply", "setup", "smoke"}; !slices.Equal(ids, want) {
		t.Errorf("steps %q, want %q", ids, want)
	}
	if !slices.Contains(b.Options.Env, "BUILD_ID=$BUILD_ID") {
		t.Errorf("scripts/deploy is not told which build its steps are of, so no failed smoke test would go back: %q", b.Options.Env)
	}
	if b.Substitutions["_ACTION"] != "plan" {
		t.Errorf("without a word the action is %q; it must be plan, which changes nothing", b.Substitutions["_ACTION"])
	}
	for _, word := range []string{"secretEnv", "kmsKeyName", "GOOGLE_APPLICATION_CREDENTIALS", "PRIVATE KEY"} {
		if strings.Contains(text, word) {
			t.Errorf("it has %s: an account needs no keys here", word)
		}
	}
	for _, used := range regexp.MustCompile(`\$\{(_[A-Z_]+)\}`).FindAllStringSubmatch(text, -1) {
		if _, ok := b.Substitutions[used[1]]; !ok {
			t.Errorf("%s is used and has no default", used[1])
		}
	}
}

// TestTriggersGiveWhatTheBuildWants holds the triggers' substitutions, in Terraform, to the file's.
func TestTriggersGiveWhatTheBuildWants(t *testing.T) {
	t.Parallel()
	b, text := readBuild(t)
	code := ""
	for _, name := range []string{"modules/ci/main.tf", "bootstrap/main.tf"} {
		part, err := os.ReadFile(filepath.Join("../../terraform", name))
		if err != nil {
			t.Fatal(err)
		}
		code += string(part)
	}
	for _, name := range slices.Sorted(maps.Keys(b.Substitutions)) {
		if !regexp.MustCompile(`\b` + name + `\s*=`).MatchString(code) {
			t.Errorf("no trigger gives %s", name)
		}
		if !strings.Contains(text, "${"+name+"}") {
			t.Errorf("%s is declared and not used, which Cloud Build refuses", name)
		}
	}
}

// TestStepsHaveWhatTheyNeed runs deploy's last steps as their image has them, without Go.
func TestStepsHaveWhatTheyNeed(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.rotates(t)
	for _, s := range []string{"image", "functions"} {
		y.run(t, nil, "deploy", "--action", "apply", s).wantStatus(t, 0)
	}
	if err := os.Remove(filepath.Join(y.root, "programs/go")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"--yes", "apply"}, {"setup"}, {"smoke"}} {
		y.run(t, nil, "deploy", append([]string{"--action", "apply"}, args...)...).wantStatus(t, 0)
	}
	if got := y.read("current"); got != newBuild {
		t.Errorf("build %s is current", got)
	}
	if got := y.read("rotator"); got != rotatorImage {
		t.Errorf("the rotator runs %q", got)
	}
}
