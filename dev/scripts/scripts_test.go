// Package scripts tests the scripts that deploy, with programs in the place of gcloud, Terraform and the others
// that write down what they are called with.
package scripts

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// gojq is built once for all tests.
var gojq string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "penstock-scripts")
		if err != nil {
			panic(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		gojq = filepath.Join(dir, "gojq")
		build := exec.CommandContext(context.Background(), "go", "build", "-C", "../tools", "-o", gojq, "github.com/itchyny/gojq/cmd/gojq")
		build.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			panic("build gojq: " + err.Error() + ": " + string(out))
		}
		return m.Run()
	}())
}

// yard is a copy of what the scripts need of this repository, with stubs for what they call. The stubs keep what a world
// would: what is pushed, applied, current.
type yard struct {
	root, world string
}

const (
	newDigest = "1111111111112222222222223333333333334444444444445555555555556666"
	newBuild  = "111111111111"
	oldBuild  = "0ld"

	rotatorDigest = "7777777777778888888888889999999999990000000000001111111111112222"
)

// newYard has a deployment of which build oldBuild is current.
func newYard(t *testing.T, scripts ...string) *yard {
	t.Helper()
	y := &yard{root: t.TempDir()}
	y.world = filepath.Join(y.root, "world")
	for _, dir := range []string{"world", "scripts", "programs", ".penstock/bin", "deploy/prod/pipelines", "terraform/bootstrap"} {
		if err := os.MkdirAll(filepath.Join(y.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range append(scripts, "jq") {
		text, err := os.ReadFile(filepath.Join("../../scripts", name))
		if err != nil {
			t.Fatal(err)
		}
		y.program(t, filepath.Join("scripts", name), string(text))
	}
	if err := os.Symlink(gojq, filepath.Join(y.root, ".penstock/bin/gojq")); err != nil {
		t.Fatal(err)
	}
	stubs, err := os.ReadDir("testdata/stubs")
	if err != nil {
		t.Fatal(err)
	}
	for _, stub := range stubs {
		text, err := os.ReadFile(filepath.Join("testdata/stubs", stub.Name()))
		if err != nil {
			t.Fatal(err)
		}
		where := "programs"
		switch stub.Name() {
		case "penstock", "crane":
			where = ".penstock/bin"
		case "build-image", "stage-functions", "smoke":
			where = "scripts"
			if slices.Contains(scripts, stub.Name()) {
				continue
			}
		}
		y.program(t, filepath.Join(where, stub.Name()), "#!/usr/bin/env bash\nset -euo pipefail\necho \""+stub.Name()+" $*\" >>\"$WORLD/calls\"\nfails() { [ \"${FAILS:-}\" = \"$1\" ]; }\n"+string(text))
	}
	y.write(t, "digest", newDigest)
	y.write(t, "rotator-digest", rotatorDigest)
	y.write(t, "state.json", `{"resources": []}`)
	y.write(t, "temporal.json", "{}")
	y.write(t, "eventarc.json", "{}")
	y.write(t, "live.json", `{"builds": {"0ld": {"image": "registry/worker@sha256:0ld"}}}`)
	y.write(t, "current", oldBuild+"\n")
	y.write(t, "applied", `{"builds": {"0ld": {"image": "registry/worker@sha256:0ld"}}}`)
	y.outputs(t, "fixed")
	return y
}

func (y *yard) program(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(y.root, name), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (y *yard) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(y.world, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (y *yard) read(name string) string {
	text, _ := os.ReadFile(filepath.Join(y.world, name)) // what is not there is empty
	return strings.TrimSpace(string(text))
}

// outputs has the last apply have been of a worker of that form.
func (y *yard) outputs(t *testing.T, scaling string) {
	t.Helper()
	y.folder(t, scaling)
	pool, compute := "penstock-prod-worker", "null"
	if scaling == "serverless" {
		pool, compute = "penstock-prod-worker-0ld", `{"0ld": {"worker_pool": "penstock-prod-worker-0ld"}}`
	}
	y.write(t, "pools.json", `{"0ld": "`+pool+`"}`)
	y.write(t, "outputs.json", `{"penstock": {"value": {"deployment": "prod", "environment": {"GOOGLE_CLOUD_PROJECT": "acme-data", "TEMPORAL_ADDRESS": "temporal:7233"},
		"secrets": ["penstock-prod-temporal-api-key"], "worker": {"scaling": "`+scaling+`", "deployment_name": "penstock-prod", "pools": {"0ld": "`+pool+`"}, "compute": `+compute+`}}}}`)
}

// folder has the Terraform folder ask for a worker of that form.
func (y *yard) folder(t *testing.T, scaling string) {
	t.Helper()
	y.write(t, "worker.json", `{"deployment_name": "penstock-prod", "scaling": "`+scaling+`"}`)
}

// result is what a script did.
type result struct {
	status int
	output string   // standard output and error
	calls  []string // of stubs, in their order, without what only asks
}

// run runs a script. env are further variables, NAME=VALUE.
func (y *yard) run(t *testing.T, env []string, script string, args ...string) result {
	t.Helper()
	_ = os.Remove(filepath.Join(y.world, "calls"))
	cmd := exec.CommandContext(t.Context(), filepath.Join(y.root, "scripts", script), args...)
	cmd.Dir = y.root
	cmd.Env = append([]string{
		"PATH=" + filepath.Join(y.root, "programs") + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + y.root, "TMPDIR=" + t.TempDir(),
		"WORLD=" + y.world, "ROOT=" + y.root,
		"PENSTOCK_DEPLOYMENT=prod", "PENSTOCK_STATE_BUCKET=acme-state", "PENSTOCK_IMAGES=registry/images",
	}, env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	r := result{}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.status = exit.ExitCode()
	case err != nil:
		t.Fatal(err)
	}
	r.output = strings.ReplaceAll(out.String(), y.root, "ROOT")
	for call := range strings.Lines(strings.ReplaceAll(y.read("calls"), y.root, "ROOT")) {
		r.calls = append(r.calls, strings.TrimSpace(call))
	}
	return r
}

// changes are the calls that change something outside of the working tree.
func (r result) changes() []string {
	var changes []string
	for _, call := range r.calls {
		if call == "penstock setup --check" {
			continue
		}
		for _, prefix := range []string{
			"crane push", "cosign sign", "cosign attest", "terraform -chdir=ROOT/deploy/prod apply", "terraform -chdir=ROOT/terraform/bootstrap apply",
			"penstock builds add", "penstock setup", "penstock rollback", "smoke",
			"gcloud projects create", "gcloud billing projects link", "gcloud services enable", "gcloud storage service-agent", "gcloud beta services identity create",
			"gcloud pubsub subscriptions update", "gcloud pubsub subscriptions add-iam-policy-binding",
			"gcloud storage buckets create", "gcloud storage buckets update",
		} {
			if strings.HasPrefix(call, prefix) {
				changes = append(changes, call)
			}
		}
	}
	return changes
}

func (r result) wantStatus(t *testing.T, want int) {
	t.Helper()
	if r.status != want {
		t.Fatalf("exit status %d, want %d; it said:\n%s", r.status, want, r.output)
	}
}

func (r result) wantSaid(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(r.output, text) {
			t.Errorf("it does not say %q, but:\n%s", text, r.output)
		}
	}
}

func wantCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("it called\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}
