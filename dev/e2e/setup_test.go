package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/sdk/client"
)

// The JSON that setup, rollback and builds write, spelled out as a user's script reads it.
type (
	setupDone struct {
		Previous string `json:"previous"`
		Current  string `json:"current"`
		Steps    []struct {
			Name   string `json:"name"`
			Result string `json:"result"`
			Detail string `json:"detail"`
			Do     string `json:"do"`
		} `json:"steps"`
	}
	rolledBack struct {
		Scaling  string      `json:"scaling"`
		Previous string      `json:"previous"`
		Current  string      `json:"current"`
		Image    string      `json:"image"`
		Spread   bool        `json:"spread"`
		Builds   []buildWork `json:"builds"`
	}
	buildWork struct {
		Build  string `json:"build"`
		Status string `json:"status"`
		Pinned int    `json:"pinned"`
		Moving int    `json:"moving"`
	}
	liveBuilds struct {
		Builds []liveBuild `json:"builds"`
	}
	liveBuild struct {
		Build string `json:"build"`
		Image string `json:"image"`
	}
	prunedBuilds struct {
		Builds []prunedBuild `json:"builds"`
	}
	prunedBuild struct {
		Build   string `json:"build"`
		Removed bool   `json:"removed"`
		Reason  string `json:"reason"`
	}
)

// deployed is a deployment whose state lies in a bucket.
type deployed struct{ *upgrade }

// The bucket is the ledger's, which the stack has.
func (d deployed) environment() []string {
	return append(d.bench.environment(), "PENSTOCK_STATE=gs://penstock-ledger/state")
}

// run wants a command line to end with a code, and gives its two streams.
func (d deployed) run(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	code, stdout, stderr := cli(t, d.environment(), args...)
	if code != want {
		t.Fatalf("penstock %q ends with %d, want %d\n%s\n%s", args, code, want, stdout, stderr)
	}
	return stdout, stderr
}

func (d deployed) add(t *testing.T, build string) {
	t.Helper()
	d.run(t, 0, "builds", "add", build, "--image", imageOf(build))
}

func imageOf(build string) string { return fmt.Sprintf("registry.example/worker@sha256:%064x", build) }

// whileServed runs a command line that waits for a build, and starts the build's worker.
func (d deployed) whileServed(t *testing.T, build string, args ...string) string {
	t.Helper()
	var code int
	var stdout, stderr string
	var wg sync.WaitGroup
	wg.Go(func() { code, stdout, stderr = cli(t, d.environment(), args...) })
	d.serve(t, build)
	wg.Wait()
	if code != 0 {
		t.Fatalf("penstock %q ends with %d\n%s\n%s", args, code, stdout, stderr)
	}
	return stdout
}

// setup sets a build up that is being deployed, and wants the results of its steps.
func (d deployed) setup(t *testing.T, build string, want ...string) setupDone {
	t.Helper()
	args := []string{"setup", "--build", build, "--deployment-name", workerDeployment, "-o", "json"}
	var stdout string
	if d.workers[build] == nil {
		stdout = d.whileServed(t, build, args...)
	} else {
		stdout, _ = d.run(t, 0, args...)
	}
	var done setupDone
	decodeJSON(t, stdout, &done)
	var got []string
	for _, step := range done.Steps {
		got = append(got, step.Result)
	}
	if done.Current != build || !slices.Equal(got, want) {
		t.Errorf("setup of %s made %s current, by steps %v, want %v\n%s", build, done.Current, got, want, stdout)
	}
	d.wantCurrent(t, build)
	return done
}

func (d deployed) rollback(t *testing.T, args ...string) rolledBack {
	t.Helper()
	stdout, _ := d.run(t, 0, append([]string{"rollback", "--deployment-name", workerDeployment, "-o", "json"}, args...)...)
	var done rolledBack
	decodeJSON(t, stdout, &done)
	return done
}

// wantCurrent asks Temporal which build is current; empty: none is.
func (d deployed) wantCurrent(t *testing.T, want string) {
	t.Helper()
	a, err := d.Client.WorkerDeploymentClient().GetHandle(workerDeployment).Describe(t.Context(), client.WorkerDeploymentDescribeOptions{})
	current := ""
	if err == nil && a.Info.RoutingConfig.CurrentVersion != nil {
		current = a.Info.RoutingConfig.CurrentVersion.BuildID
	}
	if current != want {
		t.Errorf("build %q is current (%v), want %q", current, err, want)
	}
}

// A build is made current once it polls, a second one after it, and the first again,
// as whoever deploys does it.
func TestBuildsAreSetUpAndRolledBack(t *testing.T) {
	t.Parallel()
	d := deployed{newUpgrade(t, "auto-upgrade")}
	removeSearchAttributes(t, d.bench)

	if _, stderr := d.run(t, 1, "setup", "--build", thisBuild, "--deployment-name", workerDeployment); !strings.Contains(stderr, "penstock builds add this") {
		t.Errorf("setup of a build that is not alive says %s", stderr)
	}
	d.add(t, thisBuild)
	if _, stderr := d.run(t, 1, "setup", "--build", thisBuild, "--deployment-name", workerDeployment, "--timeout", "3s"); !strings.Contains(stderr, "no worker of build this has ever polled") {
		t.Errorf("setup of a build that does not poll says %s", stderr)
	}
	d.wantCurrent(t, "")
	list, err := d.Client.OperatorService().ListSearchAttributes(t.Context(), &operatorservice.ListSearchAttributesRequest{Namespace: d.Addresses.Namespace})
	if err != nil || list.GetCustomAttributes()["PenstockPipeline"] == 0 {
		t.Errorf("setup registered no search attributes: %v, %v", list.GetCustomAttributes(), err)
	}

	d.setup(t, thisBuild, "found", "found", "found", "found", "done")
	d.setup(t, thisBuild, "found", "found", "found", "found", "found")

	open := d.landAs(t, "one", "open")
	job := open.job(t, "only", 1)

	d.add(t, nextBuild)
	if done := d.setup(t, nextBuild, "found", "found", "found", "found", "done"); done.Previous != thisBuild {
		t.Errorf("before, %q was current, want %s", done.Previous, thisBuild)
	}
	eventually(t, "visibility knows the open run", func() bool {
		r := d.rollback(t, "--to", nextBuild) // which it is at: only looks
		return slices.ContainsFunc(r.Builds, func(b buildWork) bool { return b.Moving > 0 })
	})

	back := d.rollback(t)
	if back.Previous != nextBuild || back.Current != thisBuild || back.Image != imageOf(thisBuild) || back.Scaling != "fixed" || !back.Spread {
		t.Errorf("rolled back: %+v", back)
	}
	d.wantCurrent(t, thisBuild)
	for _, b := range back.Builds {
		if want := map[string]string{thisBuild: "current", nextBuild: "draining"}[b.Build]; b.Status != want && b.Status != "drained" {
			t.Errorf("after that, build %s is %s, want %s", b.Build, b.Status, want)
		}
	}
	job.done()
	wantOneJob(t, open, job)

	// Forward again would be to a build that nobody polls as.
	d.retire(t, nextBuild)
	_, stderr := d.run(t, 1, "rollback", "--deployment-name", workerDeployment, "--timeout", "3s")
	for _, want := range []string{"build next", "nothing has been changed", "scripts/deploy --build next"} {
		if !strings.Contains(stderr, want) {
			t.Errorf("rollback to a build that nobody polls as says %s, want %q", stderr, want)
		}
	}
	if _, stderr = d.run(t, 1, "rollback", "--deployment-name", workerDeployment, "--to", "gone"); !strings.Contains(stderr, "build gone is gone") {
		t.Errorf("rollback to a build that is gone says %s", stderr)
	}
	d.wantCurrent(t, thisBuild)
	d.whileServed(t, nextBuild, "rollback", "--deployment-name", workerDeployment)
	d.wantCurrent(t, nextBuild)

	t.Run("nor does another namespace take the deployment's ID", func(t *testing.T) {
		env := append(d.environment(), "TEMPORAL_NAMESPACE=temporal-system") // the last of a name counts
		code, _, stderr := cli(t, env, "setup", "--build", nextBuild, "--deployment-name", workerDeployment)
		if code != 1 || !strings.Contains(stderr, "namespace "+d.Addresses.Namespace) || !strings.Contains(stderr, "namespace temporal-system") {
			t.Errorf("setup in another namespace ends with %d: %s", code, stderr)
		}
	})
	t.Run("and what no run needs is removed", d.prune)
	t.Run("while two add builds at once", d.addAtOnce)
}

// prune removes what nobody can need, and neither what is current nor what one may go
// back to. (Temporal takes minutes to say that a build is drained.)
func (d deployed) prune(t *testing.T) {
	d.add(t, "never")
	var pruned prunedBuilds
	for _, args := range [][]string{nil, {"never", nextBuild}} {
		stdout, _ := d.run(t, 0, append([]string{"builds", "prune", "--deployment-name", workerDeployment, "-o", "json"}, args...)...)
		decodeJSON(t, stdout, &pruned)
		for _, b := range pruned.Builds {
			if want := args != nil && b.Build == "never"; b.Removed != want {
				t.Errorf("prune %q says of build %s: removed %t, %s", args, b.Build, b.Removed, b.Reason)
			}
		}
	}
	var live liveBuilds
	stdout, _ := d.run(t, 0, "builds", "list", "-o", "json")
	decodeJSON(t, stdout, &live)
	if len(live.Builds) != 2 || slices.ContainsFunc(live.Builds, func(b liveBuild) bool { return b.Build == "never" }) {
		t.Errorf("live builds %+v, want the current one and the one before", live.Builds)
	}
	d.wantCurrent(t, nextBuild)
}

func (d deployed) addAtOnce(t *testing.T) {
	const each = 4
	var wg sync.WaitGroup
	for i := range 2 * each {
		wg.Go(func() {
			build := fmt.Sprintf("at-once-%d", i)
			if code, _, stderr := cli(t, d.environment(), "builds", "add", build, "--image", imageOf(build)); code != 0 {
				t.Errorf("add %s: %s", build, stderr)
			}
		})
	}
	wg.Wait()
	var live liveBuilds
	stdout, _ := d.run(t, 0, "builds", "list", "-o", "json")
	decodeJSON(t, stdout, &live)
	n := 0
	for _, b := range live.Builds {
		if strings.HasPrefix(b.Build, "at-once-") && b.Image == imageOf(b.Build) {
			n++
		}
	}
	if n != 2*each {
		t.Errorf("%d of %d builds are there: %+v", n, 2*each, live.Builds)
	}
}
