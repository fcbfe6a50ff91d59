package scripts

import (
	"slices"
	"strings"
	"testing"
)

const (
	planned = "terraform -chdir=ROOT/terraform/bootstrap plan -no-color -input=false -out=ROOT/.penstock/deploy/prod/bootstrap-plan -var=project_id=acme-data -var=project_number=123456789012 -var=region=us-central1 -var=deployment=prod -var=state_bucket=acme-data-terraform-state -var=branch=main"
	applied = "terraform -chdir=ROOT/terraform/bootstrap apply -no-color ROOT/.penstock/deploy/prod/bootstrap-plan"
)

func agents() []string {
	return []string{
		"gcloud storage service-agent --project=acme-data",
		"gcloud beta services identity create --service=pubsub.googleapis.com --project=acme-data",
		"gcloud beta services identity create --service=secretmanager.googleapis.com --project=acme-data",
		"gcloud beta services identity create --service=eventarc.googleapis.com --project=acme-data",
	}
}

func TestBootstrapAnEmptyOrganization(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	r := y.run(t, nil, "bootstrap", "--yes", "--create", "folders/42", "--billing", "01AB", "--github", "acme/pipelines", "--repository", "projects/p/r", "--canary", "gs://b/*.csv", "acme-data")
	r.wantStatus(t, 0)
	got := r.changes()
	if i := slices.IndexFunc(got, func(c string) bool { return strings.HasPrefix(c, "gcloud services enable ") }); i >= 0 {
		got[i] = "gcloud services enable …"
	}
	want := append([]string{"gcloud projects create acme-data --folder=42", "gcloud billing projects link acme-data --billing-account=01AB", "gcloud services enable …"}, agents()...)
	wantCalls(t, got, append(want,
		"gcloud storage buckets create gs://acme-data-terraform-state --project=acme-data --location=us-central1 --uniform-bucket-level-access --public-access-prevention --soft-delete-duration=30d",
		"gcloud storage buckets update gs://acme-data-terraform-state --versioning",
		applied)...)
	if want := planned + " -var=github=acme/pipelines -var=repository=projects/p/r -var=canary=gs://b/*.csv"; !slices.Contains(r.calls, want) {
		t.Errorf("it does not call\n  %s\nbut\n  %s", want, strings.Join(r.calls, "\n  "))
	}
	r.wantSaid(t, "export PENSTOCK_STATE_BUCKET=acme-data-terraform-state", "penstock-prod-deployer@acme-data.iam.gserviceaccount.com")
}

func TestASecondBootstrapChangesNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	args := []string{"--yes", "--create", "folders/42", "--billing", "01AB", "acme-data"}
	y.run(t, nil, "bootstrap", args...).wantStatus(t, 0)
	r := y.run(t, nil, "bootstrap", args...)
	r.wantStatus(t, 0)
	// Google's own commands for service agents, and Terraform, do nothing where nothing is to do.
	wantCalls(t, r.changes(), append(agents(), applied)...)
	r.wantSaid(t, "project acme-data is there", "APIs are on", "is there, versioned and never public", "billing account 01AB is linked")
}

func TestABootstrapThatForgetsAnOptionDeletesNothing(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	args := []string{"--yes", "--create", "folders/42", "acme-data"}
	y.run(t, nil, "bootstrap", append([]string{"--github", "acme/pipelines"}, args...)...).wantStatus(t, 0)
	r := y.run(t, nil, "bootstrap", args...)
	r.wantStatus(t, 1)
	r.wantSaid(t, "the plan deletes module.federation[0]: give the options")
	wantCalls(t, r.changes(), agents()...)
}

func TestABootstrapThatNobodyAgreesTo(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	r := y.run(t, nil, "bootstrap", "--create", "folders/42", "acme-data")
	r.wantStatus(t, 1)
	r.wantSaid(t, "--yes applies without")
	if slices.Contains(r.calls, applied) {
		t.Error("it is applied though nobody agreed")
	}
}

func TestADryBootstrapOnlyAsks(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	r := y.run(t, nil, "bootstrap", "--dry-run", "--create", "organizations/7", "--billing", "01AB", "acme-data")
	r.wantStatus(t, 0)
	wantCalls(t, r.changes())
	r.wantSaid(t, "  gcloud projects create acme-data --organization=7\n", "  gcloud storage buckets create gs://acme-data-terraform-state ", "  gcloud services enable ", "  terraform -chdir=ROOT/terraform/bootstrap apply ")
}

func TestBootstrapMendsABucketThatCouldBecomePublic(t *testing.T) {
	t.Parallel()
	for name, settings := range map[string]string{"inherited": "True inherited True", "not versioned": "True enforced", "access by object": "False enforced True"} {
		y := newYard(t, "bootstrap")
		y.write(t, "project", "")
		y.write(t, "bucket", settings)
		r := y.run(t, nil, "bootstrap", "--yes", "acme-data")
		r.wantStatus(t, 0)
		if want := "gcloud storage buckets update gs://acme-data-terraform-state --uniform-bucket-level-access --public-access-prevention --versioning"; !slices.Contains(r.calls, want) {
			t.Errorf("%s: it does not call %s", name, want)
		}
	}
}

func TestBootstrapEndsWhereAStepFails(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	r := y.run(t, nil, "bootstrap", "acme-data")
	r.wantStatus(t, 1)
	r.wantSaid(t, "there is no project acme-data, or you may not see it: --create makes it")
	wantCalls(t, r.changes())
	y.write(t, "project", "")
	r = y.run(t, []string{"FAILS=enable"}, "bootstrap", "acme-data")
	r.wantStatus(t, 1)
	r.wantSaid(t, "this failed: gcloud services enable")
	if len(r.changes()) != 1 {
		t.Errorf("after the failure it goes on:\n  %s", strings.Join(r.changes(), "\n  "))
	}
}

func TestWrongUseOfBootstrap(t *testing.T) {
	t.Parallel()
	y := newYard(t, "bootstrap")
	for _, args := range [][]string{{}, {"123456789012"}, {"--region", "us-central1-a", "acme-data"}, {"--github", "acme", "acme-data"}, {"--create", "42", "acme-data"}, {"a-project", "another"}} {
		if r := y.run(t, nil, "bootstrap", args...); r.status != 2 || len(r.calls) > 0 {
			t.Errorf("%q: status %d, calls %q", args, r.status, r.calls)
		}
	}
}
