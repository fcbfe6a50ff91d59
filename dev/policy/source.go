package policy

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// sourceTwin breaks a rule in the Terraform code itself.
type sourceTwin struct {
	rule     string
	file     string // below the folder of the root module
	old, new string // old is there exactly once
}

// sourceTwins has one for each rule. Together they still plan: each breaks its own rule only,
// but for nobody-unknown, whose twin calls the functions too.
var sourceTwins = []sourceTwin{
	{"nobody-unknown", "modules/dead_letters/main.tf", `member  = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"`, `member = "allUsers"`},
	{"no-public-ingress", "modules/trigger/main.tf", `"ALLOW_INTERNAL_ONLY"`, `"ALLOW_ALL"`},
	{"no-public-objects", "modules/bucket/main.tf", `"enforced"`, `"inherited"`},
	{"uniform-access", "modules/bucket/main.tf", `uniform_bucket_level_access = true`, `uniform_bucket_level_access = false`},
	{"no-keys", "modules/temporal_connection/outputs.tf", `TEMPORAL_NAMESPACE = var.connection.namespace`, "TEMPORAL_NAMESPACE = var.connection.namespace\n      TEMPORAL_API_KEY   = \"a key\""},
	{"images-by-digest", "modules/worker/serverless.tf", `image = each.value.image`, `image = split("@", each.value.image)[0]`},
	{"no-impersonation-by-project", "modules/ci/roles.tf", `    "roles/iam.securityReviewer",`, `    "roles/iam.serviceAccountTokenCreator",`},
	{"no-open-grants", "modules/ci/roles.tf", `modifiedGrantsByRole`, `grants`},
	{"deployer-suffices", "modules/ci/roles.tf", `    "roles/bigquery.jobUser",` + "\n", ""},
	{"builds-read-sources", "accounts.tf", `buckets/gcf-v2-sources-`, `buckets/sources-`},
	{"own-accounts", "modules/trigger/main.tf", `= var.runtime.account`, `= null`},
	{"only-deliveries-call", "modules/trigger/main.tf", `member   = "serviceAccount:${var.push}"`, `member = "serviceAccount:${var.runtime.account}"`},
	{"worker-least", "accounts.tf", `role    = "projects/${var.project.id}/roles/${google_project_iam_custom_role.worker.role_id}"`, `role = "roles/dataflow.admin"`},
	{"pipelines-least", "accounts.tf", `    "monitoring.timeSeries.create",`, `    "monitoring.timeSeries.create",` + "\n" + `    "storage.objects.get",`},
	{"acts-as-pipelines", "modules/pipeline/main.tf", `"roles/iam.serviceAccountUser"`, `"roles/iam.serviceAccountViewer"`},
	{"scaler-complete", "accounts.tf", `["run.workerpools.get", "run.workerpools.update"]`, `["run.workerpools.get"]`},
	{"rotator-least", "accounts.tf", `"secretmanager.versions.disable"`, `"secretmanager.versions.destroy"`},
	{"federation-conditions", "modules/federation/main.tf", `= each.value.condition`, `= ""`},
	{"sources-delivered", "triggers.tf", `kinds = distinct(flatten([for s in local.storage : s.kinds if s.bucket == b]))`, `kinds = ["finalized"]`},
	{"retry-on", "modules/trigger/eventarc.tf", `event_data_content_type = "application/json"`, "event_data_content_type = \"application/json\"\n  retry_policy {\n    max_attempts = 1\n  }"},
	{"patience", "modules/trigger/subscriptions.tf", `ttl = "" # an idle source`, `ttl = "86400s" # an idle source`},
	{"dead-letter-path", "modules/dead_letters/main.tf", `message_retention_duration = "2678400s"`, `message_retention_duration = "600s"`},
	{"dead-letter-grants", "modules/trigger/subscriptions.tf", `role         = "roles/pubsub.subscriber"`, `role = "roles/pubsub.viewer"`},
	{"pushes-authenticated", "modules/trigger/subscriptions.tf", `audience              = google_cloudfunctions2_function.this.service_config[0].uri`, ``},
	{"whole-notifications", "modules/trigger/subscriptions.tf", `"JSON_API_V1"`, `"NONE"`},
	{"status-everywhere", "pipelines.tf", `job_locations = distinct(flatten([for p in local.pipeline : p.steps[*].location]))`, `job_locations = [local.job_location]`},
	{"deletion-protection", "modules/bucket/main.tf", `? "PREVENT" : "DELETE"`, `? "DELETE" : "DELETE"`},
	{"labels", "modules/trigger/subscriptions.tf", "  topic   = local.topics[each.key]\n  labels  = var.labels\n", "  topic   = local.topics[each.key]\n"},
}

// BreakSource breaks every rule in the Terraform code of a copied folder. It fails where
// the code has not what a twin replaces, exactly once: then the twin is to be brought up
// to date.
func BreakSource(dir string) error {
	for _, t := range sourceTwins {
		name := filepath.Join(dir, filepath.FromSlash(t.file))
		code, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("break %s: %w", t.rule, err)
		}
		if n := strings.Count(string(code), t.old); n != 1 {
			return fmt.Errorf("break %s: %s has %q %d times, not once; bring the twin in dev/policy/source.go up to date", t.rule, t.file, t.old, n)
		}
		if err := os.WriteFile(name, []byte(strings.Replace(string(code), t.old, t.new, 1)), 0o600); err != nil {
			return fmt.Errorf("break %s: %w", t.rule, err)
		}
	}
	return nil
}
