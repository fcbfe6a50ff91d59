package scripts

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const (
	newImage = "registry/images/worker@sha256:" + newDigest
	kept     = "ROOT/.penstock/deploy/prod"
	folder   = "terraform -chdir=ROOT/deploy/prod "
	archive  = "-var=functions_archive=" + kept + "/functions-0123.zip"
	putBack  = folder + "apply -no-color -auto-approve -target=module.penstock.module.worker -var-file=" + kept + "/builds.tfvars.json " + archive
)

func TestADeploymentDoesOneThingAfterTheOther(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, nil, "deploy", "--yes", "--canary", "gs://acme-landing/canary/*.csv")
	r.wantStatus(t, 0)
	wantCalls(t, slices.DeleteFunc(r.calls, func(c string) bool { return strings.HasPrefix(c, "go ") || strings.Contains(c, " init ") }),
		"build-image worker",
		"crane digest "+newImage,
		"crane push ROOT/.penstock/image/oci registry/images/worker:"+newBuild,
		"cosign verify --certificate-identity-regexp . --certificate-oidc-issuer-regexp . "+newImage,
		"cosign sign --yes "+newImage,
		"cosign verify-attestation --type spdxjson --certificate-identity-regexp . --certificate-oidc-issuer-regexp . "+newImage,
		"cosign attest --yes --type spdxjson --predicate ROOT/.penstock/image/sbom.spdx.json "+newImage,
		"penstock lint ROOT/deploy/prod/pipelines",
		"stage-functions -pipelines ROOT/deploy/prod/pipelines -zip "+kept+"/functions",
		folder+"output -json",
		folder+"state pull", // what the pool runs
		"penstock builds list --tfvars",
		folder+"plan -no-color -detailed-exitcode -out="+kept+"/plan -var-file="+kept+"/builds.tfvars.json "+archive,
		folder+"show -json "+kept+"/plan", // whether it would do harm
		"penstock setup --check",
		"penstock builds add "+newBuild+" --image "+newImage, // before there is a pool of it
		folder+"apply -no-color "+kept+"/plan",
		folder+"output -json", // which subscriptions Eventarc has made
		folder+"output -json",
		folder+"state pull",
		"gcloud secrets versions access latest --secret=penstock-prod-temporal-api-key --project=acme-data",
		"penstock setup --build "+newBuild+" --deployment-name penstock-prod --scaling fixed -o json",
		folder+"output -json",
		folder+"state pull",
		"smoke --pipelines ROOT/deploy/prod/pipelines gs://acme-landing/canary/*.csv",
	)
	if got := y.read("connections"); got != "connected to temporal:7233 of acme-data with the-key" {
		t.Errorf("setup %s", got)
	}
	if got := y.read("applied"); strings.Contains(got, oldBuild) || !strings.Contains(got, newImage) {
		t.Errorf("applied for a fixed worker, which has one build: %s", got)
	}
}

func TestASecondRunChangesNothing(t *testing.T) {
	t.Parallel()
	for _, scaling := range []string{"fixed", "serverless"} {
		y := newYard(t, "deploy")
		y.outputs(t, scaling)
		y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
		live, applied := y.read("live.json"), y.read("applied")
		r := y.run(t, nil, "deploy") // there is nothing to be asked about
		r.wantStatus(t, 0)
		for _, call := range r.changes() {
			// These two see for themselves that there is nothing to do.
			if !strings.HasPrefix(call, "penstock builds add "+newBuild) && !strings.HasPrefix(call, "penstock setup --build "+newBuild) {
				t.Errorf("%s: the second run calls %s", scaling, call)
			}
		}
		if y.read("live.json") != live || y.read("applied") != applied || y.read("current") != newBuild {
			t.Errorf("%s: after the second run: live %s, applied %s, current %s", scaling, y.read("live.json"), y.read("applied"), y.read("current"))
		}
	}
}

func TestAFailedStepLeavesTheOldBuildCurrent(t *testing.T) {
	t.Parallel()
	add, apply := "penstock builds add "+newBuild+" --image "+newImage, folder+"apply -no-color "+kept+"/plan"
	pushed := []string{"crane push ROOT/.penstock/image/oci registry/images/worker:" + newBuild}
	signed := append(slices.Clone(pushed), "cosign sign --yes "+newImage, "cosign attest --yes --type spdxjson --predicate ROOT/.penstock/image/sbom.spdx.json "+newImage)
	setup := "penstock setup --build " + newBuild + " --deployment-name penstock-prod --scaling fixed -o json"
	canary := "smoke --pipelines ROOT/deploy/prod/pipelines gs://acme-landing/canary/*.csv"
	for _, tc := range []struct {
		fails   string
		changes []string
		said    string
	}{
		{"image of worker", nil, "the image of the worker cannot be built"},
		{"push", pushed, "gcloud auth configure-docker registry"},
		{"sign", append(slices.Clone(pushed), "cosign sign --yes "+newImage), "cosign did not sign"},
		{"lint", signed, "do not lint"},
		{"functions", signed, "the functions cannot be staged"},
		{"plan", signed, "nothing has been changed"},
		{"add", append(slices.Clone(signed), add), "nothing has been applied"},
		{"apply", append(slices.Clone(signed), add, apply, putBack), "The build that was current is so still"},
		{"setup", append(slices.Clone(signed), add, apply, setup, putBack), "deploy: setup: worker: failed: no worker polls"},
		{"smoke", append(slices.Clone(signed), add, apply, setup, canary, putBack, "penstock rollback --to 0ld --deployment-name penstock-prod"), "Build 0ld is current again"},
	} {
		t.Run(tc.fails, func(t *testing.T) {
			t.Parallel()
			y := newYard(t, "deploy")
			r := y.run(t, []string{"FAILS=" + tc.fails}, "deploy", "--yes", "--canary", "gs://acme-landing/canary/*.csv")
			r.wantStatus(t, 1)
			r.wantSaid(t, tc.said)
			wantCalls(t, r.changes(), tc.changes...)
			if got := y.read("current"); got != oldBuild {
				t.Errorf("build %s is current", got)
			}
			// Nobody works while the current build is in no pool.
			if got := y.read("applied"); !strings.Contains(got, oldBuild) || strings.Contains(got, newBuild) {
				t.Errorf("the pool runs %s", got)
			}
		})
	}
}

func TestAnInterruptedSetupPutsTheOldBuildBack(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, []string{"FAILS=interrupted"}, "deploy", "--yes")
	r.wantStatus(t, 130)
	if y.read("current") != oldBuild || strings.Contains(y.read("applied"), newBuild) {
		t.Errorf("current %s, in the pool %s", y.read("current"), y.read("applied"))
	}
}

// Whoever tries the smoke test again, on another day, has made no build current that there could be anything to go back from.
func TestASmokeTestAloneRollsNothingBack(t *testing.T) {
	t.Parallel()
	for _, scaling := range []string{"fixed", "serverless"} {
		y := newYard(t, "deploy")
		y.outputs(t, scaling)
		y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
		r := y.run(t, []string{"FAILS=smoke"}, "deploy", "--yes", "--canary", "gs://acme-landing/canary/*.csv", "smoke")
		r.wantStatus(t, 1)
		r.wantSaid(t, "Nothing is rolled back")
		wantCalls(t, r.changes(), "smoke --pipelines ROOT/deploy/prod/pipelines gs://acme-landing/canary/*.csv")
		// Nor has one that setup finds current.
		r = y.run(t, []string{"FAILS=smoke"}, "deploy", "--yes", "--canary", "gs://acme-landing/canary/*.csv")
		r.wantStatus(t, 1)
		r.wantSaid(t, "Nothing is rolled back")
		if y.read("current") != newBuild || !strings.Contains(y.read("applied"), newBuild) {
			t.Errorf("%s: current %s, applied %s", scaling, y.read("current"), y.read("applied"))
		}
	}
}

func TestTheStepsOfOneBuildOfCIAreOneRun(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	deploy := func(build, fails string, steps ...string) result {
		return y.run(t, []string{"FAILS=" + fails, "BUILD_ID=" + build}, "deploy", append([]string{"--yes", "--canary", "gs://acme-landing/canary/*.csv"}, steps...)...)
	}
	deploy("1", "", "image", "functions", "apply").wantStatus(t, 0)
	deploy("1", "", "setup").wantStatus(t, 0)
	deploy("2", "smoke", "smoke").wantSaid(t, "Nothing is rolled back")
	if got := y.read("current"); got != newBuild {
		t.Errorf("after another build's smoke test, build %s is current", got)
	}
	deploy("1", "smoke", "smoke").wantSaid(t, "Build 0ld is current again")
	if y.read("current") != oldBuild || strings.Contains(y.read("applied"), newBuild) {
		t.Errorf("current %s, in the pool %s", y.read("current"), y.read("applied"))
	}
}

func TestASmokeTestThatIsAskedForInAWrongWayRollsNothingBack(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, []string{"FAILS=usage"}, "deploy", "--yes", "--canary", "gs://acme-landing/{date}/*.csv")
	r.wantStatus(t, 1)
	r.wantSaid(t, "the smoke test was not made")
	if y.read("current") != newBuild || !strings.Contains(y.read("applied"), newBuild) {
		t.Errorf("current %s, in the pool %s", y.read("current"), y.read("applied"))
	}
}

// What apply noted of the pool before is of no use once the new build is current.
func TestASetupThatIsTriedAgainPutsNothingBack(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	r := y.run(t, []string{"FAILS=setup"}, "deploy", "--yes", "setup")
	r.wantStatus(t, 1)
	if y.read("current") != newBuild || !strings.Contains(y.read("applied"), newBuild) {
		t.Errorf("current %s, in the pool %s: nobody works", y.read("current"), y.read("applied"))
	}
}

// What was put back is the build that the next attempt has to put back, too, whatever the outputs of the last whole apply say.
func TestAnotherBuildThatFailsPutsTheCurrentOneBack(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	for _, digest := range []string{newDigest, strings.Repeat("3", 64)} {
		r := y.run(t, []string{"FAILS=setup"}, "deploy", "--yes", "--image", "registry/images/worker@sha256:"+digest)
		r.wantStatus(t, 1)
		if got, want := y.pools(t), (map[string]string{oldBuild: "penstock-prod-worker"}); !maps.Equal(got, want) || y.read("current") != oldBuild {
			t.Errorf("the pools are %v, want %v; current %s", got, want, y.read("current"))
		}
	}
}

// The next attempt finds the new build in the pool, and cannot know which was there before.
func TestAFailedSetupSaysThatThePoolRunsWhatIsNotCurrent(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.run(t, nil, "deploy", "--yes", "image", "functions", "apply").wantStatus(t, 0)
	r := y.run(t, []string{"FAILS=setup"}, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "scripts/deploy --build BUILD")
}

func TestAFailedServerlessStepLeavesThePoolsAlone(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"setup", "smoke"} {
		y := newYard(t, "deploy")
		y.outputs(t, "serverless")
		r := y.run(t, []string{"FAILS=" + step}, "deploy", "--yes", "--canary", "gs://acme-landing/canary/*.csv")
		r.wantStatus(t, 1)
		if got := y.read("current"); got != oldBuild {
			t.Errorf("%s failed: build %s is current", step, got)
		}
		if got := y.read("applied"); !strings.Contains(got, oldBuild) || !strings.Contains(got, newBuild) {
			t.Errorf("%s failed: there are pools of %s", step, got)
		}
	}
}

func TestAServerlessBuildIsRegisteredWithItsOwnPool(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.outputs(t, "serverless")
	r := y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 0)
	want := "penstock setup --build " + newBuild + " --deployment-name penstock-prod --scaling serverless --pool-project acme-data --region us-central1 --pool penstock-prod-worker-" + newBuild + " --invoker invoker@acme --max 10 -o json"
	if !slices.Contains(r.calls, want) {
		t.Errorf("it does not call\n  %s\nbut\n  %s", want, strings.Join(r.changes(), "\n  "))
	}
}

// A run ends on the build that it began on, and the current build is needed until another is.
func TestFromServerlessToFixedThePoolsStay(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		fails, said, current string
	}{
		{"", "an event came through", newBuild},
		{"setup", "has not been made current", oldBuild},
		{"smoke", "Build 0ld is current again", oldBuild},
	} {
		y := newYard(t, "deploy")
		y.outputs(t, "serverless")
		y.folder(t, "fixed")
		r := y.run(t, []string{"FAILS=" + tc.fails}, "deploy", "--yes", "--scaling", "fixed", "--canary", "gs://acme-landing/canary/*.csv")
		r.wantSaid(t, tc.said)
		if got := y.read("current"); got != tc.current {
			t.Errorf("%q fails: build %s is current", tc.fails, got)
		}
		// The serverless build was in no shared pool, so it is not put into one.
		pools := y.pools(t)
		if want := map[string]string{oldBuild: "penstock-prod-worker-0ld", newBuild: "penstock-prod-worker"}; !maps.Equal(pools, want) {
			t.Errorf("%q fails: the pools are %v, want %v", tc.fails, pools, want)
		}
		if setup := "penstock setup --build " + newBuild + " --deployment-name penstock-prod --scaling fixed -o json"; !slices.Contains(r.calls, setup) {
			t.Errorf("it does not call %s", setup)
		}
	}
}

func TestAfterServerlessAFixedPoolIsPutBackBesideTheOthers(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.outputs(t, "serverless")
	y.folder(t, "fixed")
	y.run(t, nil, "deploy", "--yes", "--scaling", "fixed").wantStatus(t, 0)
	other := strings.Repeat("3", 64)
	y.write(t, "digest", other)
	r := y.run(t, []string{"FAILS=setup"}, "deploy", "--yes", "--image", "registry/images/worker@sha256:"+other)
	r.wantStatus(t, 1)
	if got, want := y.pools(t), (map[string]string{oldBuild: "penstock-prod-worker-0ld", newBuild: "penstock-prod-worker"}); !maps.Equal(got, want) {
		t.Errorf("the pools are %v, want %v", got, want)
	}

	// Once it is drained, and off the list, its pool goes.
	y.write(t, "live.json", `{"builds": {"`+newBuild+`": {"image": "`+newImage+`"}}}`)
	y.run(t, nil, "deploy", "--yes", "--image", newImage).wantStatus(t, 0)
	if got, want := y.pools(t), (map[string]string{newBuild: "penstock-prod-worker"}); !maps.Equal(got, want) {
		t.Errorf("the pools are %v, want %v", got, want)
	}
}

// The image is the same from the same sources, whatever the form.
func TestFromServerlessToFixedTheSameImageIsAnotherBuild(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.outputs(t, "serverless")
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	y.folder(t, "fixed")
	for range 2 {
		y.run(t, nil, "deploy", "--yes", "--scaling", "fixed").wantStatus(t, 0)
		if got, want := y.pools(t), (map[string]string{oldBuild: "penstock-prod-worker-0ld", newBuild: "penstock-prod-worker-" + newBuild, newBuild + "-f": "penstock-prod-worker"}); !maps.Equal(got, want) {
			t.Errorf("the pools are %v, want %v", got, want)
		}
		if got := y.read("current"); got != newBuild+"-f" {
			t.Errorf("build %s is current", got)
		}
	}
}

func TestAPoolOfALiveBuildIsNeverDeleted(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		old  bool
		said string
	}{
		"the change of form is not named":               {nil, false, "not serverless while worker.scaling is fixed"},
		"nor known to an older folder":                  {nil, true, "exactly one build"},
		"one build alone, in an older folder":           {[]string{"--build", oldBuild}, true, "deletes the pools of live builds (0ld)"},
		"one build alone, in an older folder, a plan":   {[]string{"--build", oldBuild, "--action", "plan"}, true, "deletes the pools of live builds (0ld)"},
		"it is named, and not known to an older folder": {[]string{"--scaling", "fixed"}, true, "exactly one build"},
	} {
		y := newYard(t, "deploy")
		y.outputs(t, "serverless")
		y.folder(t, "fixed")
		if tc.old {
			y.write(t, "old-folder", "")
		}
		r := y.run(t, nil, "deploy", append([]string{"--yes"}, tc.args...)...)
		if r.status != 1 || !strings.Contains(r.output, tc.said) {
			t.Errorf("%s: status %d, it said\n%s", name, r.status, r.output)
		}
		if got, want := y.pools(t), (map[string]string{oldBuild: "penstock-prod-worker-0ld"}); !maps.Equal(got, want) || y.read("current") != oldBuild {
			t.Errorf("%s: the pools are %v, want %v; current %s", name, got, want, y.read("current"))
		}
	}
}

func TestFromFixedToServerlessItIsSaidThatThePoolIsGone(t *testing.T) {
	t.Parallel()
	for _, fails := range []string{"setup", "smoke"} {
		y := newYard(t, "deploy")
		y.folder(t, "serverless")
		r := y.run(t, []string{"FAILS=" + fails}, "deploy", "--yes", "--scaling", "serverless", "--canary", "gs://acme-landing/canary/*.csv")
		r.wantStatus(t, 1)
		r.wantSaid(t, "build 0ld had a fixed pool, which may be gone", "scripts/deploy --scaling fixed --build 0ld")
		if slices.ContainsFunc(r.calls, func(c string) bool { return strings.HasPrefix(c, "penstock rollback") }) {
			t.Errorf("%s fails: it waits for a worker that nobody starts", fails)
		}
	}
}

// pools are those that there are, by build.
func (y *yard) pools(t *testing.T) map[string]string {
	t.Helper()
	var pools map[string]string
	if err := json.Unmarshal([]byte(y.read("pools.json")), &pools); err != nil {
		t.Fatal(err)
	}
	return pools
}

// Functions that have begun to use another namespace would start what runs in the first.
func TestADeploymentThatLivesElsewhereIsToldBeforeTheApply(t *testing.T) {
	t.Parallel()
	for _, action := range []string{"apply", "plan"} {
		y := newYard(t, "deploy")
		y.write(t, "namespace", "other")
		r := y.run(t, nil, "deploy", "--yes", "--sign", "never", "--action", action)
		r.wantStatus(t, 1)
		r.wantSaid(t, "deployment prod lives in project acme-data, namespace pipelines, not in other", "Nothing has been changed")
		for _, call := range r.changes() {
			if !strings.HasPrefix(call, "crane push") {
				t.Errorf("%s: it calls %s", action, call)
			}
		}
	}
}

// A pull request's account may not write, so nothing may be tried that writes.
func TestAPlanChangesNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, nil, "deploy", "--action", "plan", "--yes", "--sign", "required", "--canary", "gs://acme-landing/canary/*.csv")
	r.wantStatus(t, 0)
	wantCalls(t, r.changes())
	if !slices.ContainsFunc(r.calls, func(c string) bool {
		return strings.HasPrefix(c, folder+"plan ") && strings.HasSuffix(c, " -lock=false")
	}) {
		t.Errorf("no plan without a lock, but:\n  %s", strings.Join(r.calls, "\n  "))
	}
	if !strings.Contains(y.read("../.penstock/deploy/prod/builds.tfvars.json"), newImage) {
		t.Error("the plan is not of the new build")
	}
}

func TestSteps(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, nil, "deploy", "apply", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "step image has not been done")
	for _, step := range []string{"image", "functions", "apply", "setup", "smoke"} {
		y.run(t, nil, "deploy", step, "--yes").wantStatus(t, 0)
	}
	if got := y.read("current"); got != newBuild {
		t.Errorf("after all steps one by one, build %s is current", got)
	}
}

func TestAFixedWorkerIsRolledBackByDeployingItsBuildAgain(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	r := y.run(t, nil, "deploy", "--yes", "--build", oldBuild)
	r.wantStatus(t, 0)
	if y.read("current") != oldBuild || !strings.Contains(y.read("applied"), oldBuild) {
		t.Errorf("current %s, applied %s", y.read("current"), y.read("applied"))
	}
	for _, call := range r.calls {
		if strings.HasPrefix(call, "build-image") || strings.HasPrefix(call, "crane push") {
			t.Errorf("it calls %s for a build that is there", call)
		}
	}
	r = y.run(t, nil, "deploy", "--yes", "--build", "gone")
	r.wantStatus(t, 1)
	r.wantSaid(t, "build gone is not alive")
}

// rotates has the deployment's folder ask for the rotator's image.
func (y *yard) rotates(t *testing.T) {
	t.Helper()
	y.write(t, "../deploy/prod/variables.tf", "variable \"rotator_image\" {\n  type = string\n}\n")
	y.write(t, "versions", "1")
	y.write(t, "state.json", `{"resources": [{"type": "google_secret_manager_secret", "module": "module.penstock.module.temporal_connection", "instances": [{"attributes": {"project": "acme-data", "secret_id": "penstock-prod-temporal-cloud-key"}}]}]}`)
}

const rotatorImage = "registry/images/rotator@sha256:" + rotatorDigest

func TestARotatorIsDeployedByDigestWhereTheFolderWantsOne(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.rotates(t)
	r := y.run(t, nil, "deploy", "--yes", "image", "functions", "apply")
	r.wantStatus(t, 0)
	image, rotator := "-var=rotator_image="+rotatorImage, slices.Index(r.calls, "build-image rotator")
	if rotator < 0 {
		t.Fatalf("no rotator is built, but it calls\n  %s", strings.Join(r.calls, "\n  "))
	}
	wantCalls(t, r.calls[rotator:rotator+7],
		"build-image rotator",
		"crane digest "+rotatorImage,
		"crane push ROOT/.penstock/image-rotator/oci registry/images/rotator:777777777777",
		"cosign verify --certificate-identity-regexp . --certificate-oidc-issuer-regexp . "+rotatorImage,
		"cosign sign --yes "+rotatorImage,
		"cosign verify-attestation --type spdxjson --certificate-identity-regexp . --certificate-oidc-issuer-regexp . "+rotatorImage,
		"cosign attest --yes --type spdxjson --predicate ROOT/.penstock/image-rotator/sbom.spdx.json "+rotatorImage,
	)
	if plan := folder + "plan -no-color -detailed-exitcode -out=" + kept + "/plan -var-file=" + kept + "/builds.tfvars.json " + archive + " " + image; !slices.Contains(r.calls, plan) {
		t.Errorf("the plan has no image of the rotator:\n  %s", strings.Join(r.calls, "\n  "))
	}
	if got := y.read("rotator"); got != rotatorImage {
		t.Errorf("the rotator runs %q", got)
	}

	// The worker goes back alone, and what puts it back gives the folder all of its variables.
	r = y.run(t, []string{"FAILS=setup"}, "deploy", "--yes")
	r.wantStatus(t, 1)
	for _, call := range r.calls {
		if strings.HasPrefix(call, folder+"apply") && strings.Contains(call, "-var-file") && !strings.HasSuffix(call, " "+image) {
			t.Errorf("Terraform would ask for rotator_image: %s", call)
		}
		if strings.HasPrefix(call, "crane push") || strings.HasPrefix(call, "cosign sign") {
			t.Errorf("the second run calls %s", call)
		}
	}
	y.run(t, nil, "deploy", "--yes", "--build", oldBuild).wantStatus(t, 0)
	if y.read("current") != oldBuild || y.read("rotator") != rotatorImage {
		t.Errorf("after going back: current %s, the rotator runs %q", y.read("current"), y.read("rotator"))
	}
}

func TestANewRotatorAloneIsAChange(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.rotates(t)
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	other := strings.Repeat("3", 64)
	y.write(t, "rotator-digest", other)
	if err := os.Remove(filepath.Join(y.world, "pushed-rotator")); err != nil {
		t.Fatal(err)
	}
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	if got := y.read("rotator"); got != "registry/images/rotator@sha256:"+other {
		t.Errorf("the rotator runs %q", got)
	}
}

func TestARotatorThatCannotBeBuiltStopsTheDeployment(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.rotates(t)
	r := y.run(t, []string{"FAILS=image of rotator"}, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "the image of the rotator cannot be built")
	if y.read("current") != oldBuild || strings.Contains(y.read("applied"), newBuild) {
		t.Errorf("current %s, in the pool %s", y.read("current"), y.read("applied"))
	}
}

// The rotator mounts its own key, which an older deployment has no secret for.
func TestARotatorThatIsAddedWaitsForItsOwnKey(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.rotates(t)
	y.write(t, "versions", "")
	r := y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "first apply with a rotator", "gcloud secrets versions add penstock-prod-temporal-cloud-key --project=acme-data --data-file=-")
	if got := y.read("rotator"); got != "" {
		t.Errorf("there is a rotator of %s before there is a key to mount", got)
	}
	y.write(t, "versions", "1")
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	r = y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 0)
	if strings.Contains(r.output, "first apply") {
		t.Errorf("it takes a later apply for the first:\n%s", r.output)
	}
}

func TestATemporalOfOnesOwnIsReachedByItsNameAndAuthority(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.write(t, "temporal.json", `{"environment": {"TEMPORAL_TLS_SERVER_NAME": "temporal.internal", "TEMPORAL_TLS_SERVER_CA_CERT_DATA": "-----BEGIN\nabc=\n-----END\n"},
		"secrets": ["penstock-prod-temporal-client-certificate", "penstock-prod-temporal-client-key"]}`)
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	if got := y.read("tls"); got != "server temporal.internal, signed by -----BEGIN\nabc=\n-----END" {
		t.Errorf("setup connects to %q", got)
	}
	if got := y.read("mtls"); got != "the-key, the-key" {
		t.Errorf("setup's certificate and key are %q", got)
	}

	// What the caller has set goes before, and is not joined by another that the client would refuse.
	y.write(t, "mine", "my authority")
	y.run(t, []string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH=" + filepath.Join(y.world, "mine")}, "deploy", "--yes", "setup").wantStatus(t, 0)
	if got := y.read("tls"); got != "server temporal.internal, signed by my authority" {
		t.Errorf("setup connects to %q", got)
	}
}

func TestASecretThatCannotBeReadEndsSetup(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{"api-key", "client-certificate", "client-key"} {
		y := newYard(t, "deploy")
		y.write(t, "temporal.json", `{"secrets": ["penstock-prod-temporal-`+secret+`"]}`)
		r := y.run(t, []string{"FAILS=access"}, "deploy", "--yes")
		r.wantStatus(t, 1)
		r.wantSaid(t, "cannot read the secret penstock-prod-temporal-"+secret)
		if y.read("current") != oldBuild || strings.Contains(y.read("applied"), newBuild) {
			t.Errorf("without its %s, current %s, in the pool %s", secret, y.read("current"), y.read("applied"))
		}
		if got := y.read("connections"); got != "" {
			t.Errorf("without its %s, setup %s", secret, got)
		}
	}
}

// eventarc has the next apply make two triggers, whose subscriptions are as Eventarc makes them.
func (y *yard) eventarc(t *testing.T) {
	t.Helper()
	y.write(t, "eventarc.json", `{"subscriptions": {"JobStatus": {"us-central1": "projects/acme-data/subscriptions/eventarc-us-sub-1"}, "EventTrigger": {"audit": "projects/acme-data/subscriptions/eventarc-us-sub-2"}},
		"delivery": {"attempts": 100, "minimum_backoff": 10, "maximum_backoff": 600, "ack_deadline": 90, "retention": 604800, "dead_letter_topic": "projects/acme-data/topics/dead", "forwarder": "serviceAccount:pubsub-agent"}}`)
	y.write(t, "subscriptions.json", `[
		{"name": "projects/acme-data/subscriptions/eventarc-us-sub-1", "ackDeadlineSeconds": 10, "messageRetentionDuration": "86400s", "expirationPolicy": {}, "retryPolicy": {"minimumBackoff": "10s", "maximumBackoff": "600s"}},
		{"name": "projects/acme-data/subscriptions/eventarc-us-sub-2", "ackDeadlineSeconds": 600, "messageRetentionDuration": "86400s", "expirationPolicy": {"ttl": "2678400s"}},
		{"name": "projects/acme-data/subscriptions/somebody-elses", "ackDeadlineSeconds": 10}]`)
}

func TestEventarcsSubscriptionsGetDeadLetters(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.eventarc(t)
	r := y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 0)
	const grant, update = "gcloud pubsub subscriptions add-iam-policy-binding projects/acme-data/subscriptions/", "gcloud pubsub subscriptions update projects/acme-data/subscriptions/"
	const dead = " --dead-letter-topic=projects/acme-data/topics/dead --max-delivery-attempts=100 --message-retention-duration=604800s"
	var got []string
	for _, call := range r.changes() {
		if strings.HasPrefix(call, "gcloud pubsub") {
			got = append(got, call)
		}
	}
	slices.SortStableFunc(got, func(a, b string) int { return strings.Compare(strings.Fields(a)[4], strings.Fields(b)[4]) })
	wantCalls(t, got,
		// First the right to forward, then whereto.
		grant+"eventarc-us-sub-1 --member=serviceAccount:pubsub-agent --role=roles/pubsub.subscriber",
		update+"eventarc-us-sub-1"+dead+" --ack-deadline=90",
		grant+"eventarc-us-sub-2 --member=serviceAccount:pubsub-agent --role=roles/pubsub.subscriber",
		update+"eventarc-us-sub-2"+dead+" --min-retry-delay=10s --max-retry-delay=600s --expiration-period=never",
	)

	r = y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 0)
	for _, call := range r.changes() {
		if strings.HasPrefix(call, "gcloud pubsub") {
			t.Errorf("the second run calls %s", call)
		}
	}
}

func TestWithoutDeadLettersNoBuildIsMadeCurrent(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.eventarc(t)
	r := y.run(t, []string{"FAILS=grant"}, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "add-iam-policy-binding projects/acme-data/subscriptions/", "PERMISSION_DENIED", "have not all been given dead letters")
	if strings.Contains(y.read("subscriptions.json"), "deadLetterTopic") {
		t.Error("a subscription has a dead-letter topic that nobody may forward to, so that all looks well")
	}
	if y.read("current") != oldBuild || strings.Contains(y.read("applied"), newBuild) {
		t.Errorf("current %s, in the pool %s", y.read("current"), y.read("applied"))
	}
	// What was left is done though there is nothing to apply any more.
	y.run(t, nil, "deploy", "--yes", "image", "functions", "apply").wantStatus(t, 0)
	if got := y.read("subscriptions.json"); strings.Count(got, "projects/acme-data/topics/dead") != 2 {
		t.Errorf("the subscriptions are %s", got)
	}

	y.write(t, "subscriptions.json", "[]")
	r = y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "Pub/Sub has no subscription projects/acme-data/subscriptions/eventarc-us-sub-")
}

func TestNobodyIsAskedInCI(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, nil, "deploy")
	r.wantStatus(t, 1)
	r.wantSaid(t, "--yes applies without")
	if y.read("current") != oldBuild || strings.Contains(y.read("applied"), newBuild) {
		t.Error("it was applied though nobody agreed")
	}
}

func TestWithoutCosignItIsSaidThatNothingIsSigned(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	r := y.run(t, nil, "deploy", "--sign", "never", "image")
	r.wantStatus(t, 0)
	r.wantSaid(t, "NOT SIGNED")
	wantCalls(t, r.changes(), "crane push ROOT/.penstock/image/oci registry/images/worker:"+newBuild)

	if err := os.Remove(filepath.Join(y.root, "programs/cosign")); err != nil {
		t.Fatal(err)
	}
	r = y.run(t, nil, "deploy", "image")
	r.wantStatus(t, 0)
	r.wantSaid(t, "NOT SIGNED: cosign is not installed")
	wantCalls(t, r.changes())
	r = y.run(t, []string{"FAILS=go"}, "deploy", "--sign", "required", "image")
	r.wantStatus(t, 1)
	r.wantSaid(t, "cosign is not installed and cannot be built")
}

func TestTheFirstApplyWaitsForCredentials(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	y.write(t, "outputs.json", "{}")
	y.write(t, "pools.json", "{}")
	y.write(t, "state.json", `{"resources": [{"type": "google_secret_manager_secret", "module": "module.penstock.module.temporal_connection", "instances": [{"attributes": {"project": "acme-data", "secret_id": "penstock-prod-temporal-api-key"}}]}]}`)
	r := y.run(t, nil, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, `gcloud secrets versions add penstock-prod-temporal-api-key --project=acme-data --data-file=-`)
	if strings.Contains(y.read("applied"), newBuild) {
		t.Error("functions and worker were made before there are credentials to mount")
	}
	y.write(t, "versions", "1")
	// That it cannot be asked is not that there is none.
	r = y.run(t, []string{"FAILS=versions"}, "deploy", "--yes")
	r.wantStatus(t, 1)
	r.wantSaid(t, "Permission 'secretmanager.versions.list' denied")
	if strings.Contains(r.output, "versions add") {
		t.Errorf("it takes a failed call for a secret without a version:\n%s", r.output)
	}
	y.run(t, nil, "deploy", "--yes").wantStatus(t, 0)
	if got := y.read("current"); got != newBuild {
		t.Errorf("build %s is current", got)
	}
}

func TestWrongUseOfDeploy(t *testing.T) {
	t.Parallel()
	y := newYard(t, "deploy")
	for name, tc := range map[string]struct {
		args []string
		said string
	}{
		"no such action":          {[]string{"--action", "destroy"}, "plan or apply"},
		"no such step":            {[]string{"destroy"}, "usage:"},
		"no such deployment":      {[]string{"--deployment", "Prod"}, "which deployment?"},
		"no folder":               {[]string{"--folder", "elsewhere"}, "there is no folder elsewhere"},
		"an image by tag":         {[]string{"--image", "registry/worker:latest"}, "name it by digest"},
		"a value that is missing": {[]string{"--canary"}, "--canary wants a value"},
		"two images":              {[]string{"--build", "a", "--image", "b"}, "leave out --image"},
	} {
		r := y.run(t, nil, "deploy", tc.args...)
		if r.status != 2 || !strings.Contains(r.output, tc.said) || len(r.calls) > 0 {
			t.Errorf("%s: status %d, calls %q, said %s", name, r.status, r.calls, r.output)
		}
	}
}
