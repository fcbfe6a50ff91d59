package policy

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/pipeline"
)

// planned is a plan of the given resources, as JSON, of a deployment without pipelines.
func planned(t *testing.T, resources ...string) *Plan {
	t.Helper()
	p, err := Read(strings.NewReader(`{"format_version":"1.2","resource_changes":[` + strings.Join(resources, ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func resource(kind, address, after string) string {
	return `{"address":"` + address + `","mode":"managed","type":"` + kind + `","change":{"actions":["create"],"after":` + after + `,"after_unknown":{}}}`
}

func TestWhatBreaksARule(t *testing.T) {
	digest := "acme/worker@sha256:" + strings.Repeat("0", 64)
	for _, tc := range []struct {
		name, rule string
		resource   string
		kept       bool
	}{
		{"a binding of everybody", "nobody-unknown", resource("google_storage_bucket_iam_binding", "b", `{"role":"roles/storage.objectViewer","members":["user:a@example.com","allUsers"]}`), false},
		{"a bucket that is called so", "nobody-unknown", resource(typeTopic, "b", `{"name":"allUsers","labels":{}}`), true},

		{"a service behind a load balancer", "no-public-ingress", resource(typeService, "s", `{"ingress":"INGRESS_TRAFFIC_ALL"}`), false},
		{"a firewall that lets the internet in", "no-public-ingress", resource(typeFirewall, "f", `{"direction":"INGRESS","source_ranges":["0.0.0.0/0"],"allow":[{"protocol":"tcp"}]}`), false},
		{"a firewall that keeps the internet out", "no-public-ingress", resource(typeFirewall, "f", `{"direction":"INGRESS","source_ranges":["0.0.0.0/0"],"allow":[],"deny":[{"protocol":"all"}]}`), true},

		{"an account's key", "no-keys", resource("google_service_account_key", "k", `{"service_account_id":"a"}`), false},
		{"a secret's value", "no-keys", resource("google_secret_manager_secret_version", "v", `{"secret_data":"x"}`), false},
		{"a secret's value that is never stored", "no-keys", resource("google_secret_manager_secret_version", "v", `{"secret_data":null,"secret_data_wo_version":1}`), true},
		{"a private key in a value", "no-keys", resource(typePool, "p", `{"template":[{"containers":[{"image":"`+digest+`","env":[{"name":"A","value":"-----BEGIN PRIVATE KEY-----"}]}]}]}`), false},
		{"the API key of a pool", "no-keys", resource(typePool, "p", `{"template":[{"containers":[{"image":"`+digest+`","env":[{"name":"TEMPORAL_API_KEY","value":"x"}]}]}]}`), false},

		{"a job's image by tag", "images-by-digest", resource(typeJob, "j", `{"template":[{"template":[{"containers":[{"image":"acme/job:1"}]}]}]}`), false},
		{"a second container by tag", "images-by-digest", resource(typePool, "p", `{"template":[{"containers":[{"image":"`+digest+`"},{"image":"acme/proxy"}]}]}`), false},
		{"an image by digest", "images-by-digest", resource(typePool, "p", `{"template":[{"containers":[{"image":"`+digest+`"}]}]}`), true},

		{"the whole project's accounts by a binding", "no-impersonation-by-project", resource("google_project_iam_binding", "b", `{"role":"roles/iam.serviceAccountUser","members":[]}`), false},
		{"the whole project's policy", "no-impersonation-by-project", resource("google_project_iam_policy", "b", `{"policy_data":"{}"}`), false},
		{"changing accounts", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"roles/iam.serviceAccountAdmin","member":"serviceAccount:penstock-prod-planner@p.iam.gserviceaccount.com"}`), false},
		{"changing roles", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"roles/iam.roleAdmin","member":"user:a@example.com"}`), false},
		{"changing accounts, as who deploys", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"roles/iam.serviceAccountAdmin","member":"serviceAccount:penstock-prod-deployer@p.iam.gserviceaccount.com"}`), true},
		{"acting as accounts, as who deploys", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"roles/iam.serviceAccountUser","member":"serviceAccount:penstock-prod-deployer@p.iam.gserviceaccount.com"}`), false},
		{"a role of one's own that makes tokens", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"projects/p/roles/own","member":"user:a@example.com"}`) + "," + resource(typeCustomRole, "r", `{"role_id":"own","permissions":["iam.serviceAccounts.getAccessToken"]}`), false},
		{"a role of one's own that acts as accounts", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"projects/p/roles/own","member":"user:a@example.com"}`) + "," + resource(typeCustomRole, "r", `{"role_id":"own","permissions":["iam.serviceAccounts.actAs"]}`), false},
		{"a role of one's own that does neither", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"projects/p/roles/own","member":"user:a@example.com"}`) + "," + resource(typeCustomRole, "r", `{"role_id":"own","permissions":["dataflow.jobs.get"]}`), true},
		{"a role that nobody here knows", "no-impersonation-by-project", resource(typeProjectGrant, "b", `{"role":"organizations/1/roles/own","member":"user:a@example.com"}`), false},
		{"GitHub's runs for pull requests", "federation-conditions", resource("google_iam_workload_identity_pool_provider", "f", `{"attribute_condition":"assertion.repository == 'a/b' && assertion.ref == 'refs/heads/main'","oidc":[{"issuer_uri":"https://token.actions.githubusercontent.com"}]}`), false},
		{"GitHub's runs on a branch", "federation-conditions", resource("google_iam_workload_identity_pool_provider", "f", `{"attribute_condition":"assertion.repository == 'a/b' && assertion.ref == 'refs/heads/main' && assertion.event_name != 'pull_request_target'","oidc":[{"issuer_uri":"https://token.actions.githubusercontent.com"}]}`), true},
		{"one account", "no-impersonation-by-project", resource(typeAccountGrant, "b", `{"role":"roles/iam.serviceAccountUser"}`), true},

		{"a build that reads every bucket", "builds-read-sources", resource(typeProjectGrant, "g", `{"role":"roles/storage.objectViewer","member":"serviceAccount:b@p.iam.gserviceaccount.com"}`), false},
		{"a build that does not read its source", "builds-read-sources", resource(typeFunction, "f", `{"build_config":[{"service_account":"projects/p/serviceAccounts/b@p.iam.gserviceaccount.com"}]}`), false},

		{"a pool that runs as the default account", "own-accounts", resource(typePool, "p", `{"template":[{"service_account":"123-compute@developer.gserviceaccount.com"}]}`), false},

		{"a function's own trigger that does not try again", "retry-on", resource(typeFunction, "f", `{"event_trigger":[{"retry_policy":"RETRY_POLICY_DO_NOT_RETRY"}]}`), false},
		{"a function's own trigger that does", "retry-on", resource(typeFunction, "f", `{"event_trigger":[{"retry_policy":"RETRY_POLICY_RETRY"}]}`), true},
		{"a push without back-off", "retry-on", resource(typeSubscription, "s", `{"push_config":[{}]}`), false},

		{"five attempts", "patience", resource(typeSubscription, "s", `{"ack_deadline_seconds":60,"message_retention_duration":"604800s","expiration_policy":[{"ttl":""}],"retry_policy":[{"maximum_backoff":"600s"}],"dead_letter_policy":[{"max_delivery_attempts":5}],"push_config":[{}]}`), false},
		{"as many attempts as Pub/Sub likes", "patience", resource(typeSubscription, "s", `{"ack_deadline_seconds":60,"message_retention_duration":"604800s","expiration_policy":[{"ttl":""}],"retry_policy":[{"maximum_backoff":"600s"}],"dead_letter_policy":[{"max_delivery_attempts":null}],"push_config":[{}]}`), false},
		{"a hundred attempts over hours", "patience", resource(typeSubscription, "s", `{"ack_deadline_seconds":60,"message_retention_duration":"604800s","expiration_policy":[{"ttl":""}],"retry_policy":[{"maximum_backoff":"600s"}],"dead_letter_policy":[{"max_delivery_attempts":100}],"push_config":[{}]}`), true},

		{"a function without dead letters", "dead-letter-path", resource(typeFunction, "f", `{"service_config":[{"environment_variables":{}}]}`), false},
		{"a push that names no topic", "pushes-authenticated", resource(typeSubscription, "s", `{"push_config":[{"push_endpoint":"https://f.run.app/","oidc_token":[{"service_account_email":"a","audience":"b"}]}]}`), false},
		{"an unwrapped push", "pushes-authenticated", resource(typeSubscription, "s", `{"push_config":[{"no_wrapper":[{"write_metadata":true}],"oidc_token":[{"service_account_email":"a","audience":"b"}]}]}`), false},

		{"a bucket that goes with all in it", "deletion-protection", resource(typeBucket, "b", `{"force_destroy":true,"deletion_policy":"PREVENT","versioning":[{"enabled":true}]}`), false},
		{"a bucket whose claims could not expire", "deletion-protection", resource(typeBucket, "b", `{"deletion_policy":"PREVENT","versioning":[{"enabled":true}],"retention_policy":[{"retention_period":"1"}]}`), false},
		{"a secret that may go", "deletion-protection", resource(typeSecret, "s", `{"deletion_protection":false}`), false},

		{"a topic of dead letters that may go", "deletion-protection", resource(typeTopic, "t", `{"project":"p","name":"dead","deletion_policy":"DELETE"}`) + "," + resource(typeSubscription, "s", `{"dead_letter_policy":[{"dead_letter_topic":"projects/p/topics/dead"}]}`), false},
		{"a topic of dead letters that stays", "deletion-protection", resource(typeTopic, "t", `{"project":"p","name":"dead","deletion_policy":"PREVENT"}`) + "," + resource(typeSubscription, "s", `{"dead_letter_policy":[{"dead_letter_topic":"projects/p/topics/dead"}]}`), true},
		{"a topic of notifications, which are made again", "deletion-protection", resource(typeTopic, "t", `{"project":"p","name":"n","deletion_policy":"DELETE"}`), true},
		{"images that may go", "deletion-protection", resource(typeRepository, "r", `{"repository_id":"images","deletion_policy":"DELETE"}`), false},
		{"images that stay", "deletion-protection", resource(typeRepository, "r", `{"repository_id":"images","deletion_policy":"PREVENT"}`), true},
		{"images that are built again", "deletion-protection", resource(typeRepository, "r", `{"repository_id":"functions","deletion_policy":null}`) + "," + resource(typeFunction, "f", `{"build_config":[{"docker_repository":"projects/p/locations/l/repositories/functions"}]}`), true},

		{"Eventarc's subscription, which nobody forwards from", "dead-letter-grants", resource(typeEventarc, "module.t."+typeEventarc+`.this[\"a\"]`, `{}`), false},
		{"Eventarc's subscription, by another's grant", "dead-letter-grants", resource(typeEventarc, "module.t."+typeEventarc+`.this[\"a\"]`, `{}`) + "," + resource(typeSubGrant, "module.t."+typeSubGrant+`.eventarc[\"b\"]`, `{"role":"roles/pubsub.subscriber","member":"serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com"}`), false},
		{"Eventarc's subscription, which Pub/Sub forwards from", "dead-letter-grants", resource(typeEventarc, "module.t."+typeEventarc+`.this[\"a\"]`, `{}`) + "," + resource(typeSubGrant, "module.t."+typeSubGrant+`.eventarc[\"a\"]`, `{"role":"roles/pubsub.subscriber","member":"serviceAccount:service-1@gcp-sa-pubsub.iam.gserviceaccount.com"}`), true},

		{"an alert's own labels", "labels", resource("google_monitoring_notification_channel", "c", `{"labels":{"email_address":"x"},"user_labels":{"penstock_deployment":"prod","managed_by":"terraform"}}`), true},
		{"an alert without labels", "labels", resource("google_monitoring_alert_policy", "a", `{"user_labels":null}`), false},
		{"what has no labels", "labels", resource(typeAccount, "a", `{"account_id":"x"}`), true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			found := Check(planned(t, tc.resource))
			broken := slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == tc.rule })
			if broken == tc.kept {
				t.Errorf("rule %s broken: %v, want %v; all: %v", tc.rule, broken, !tc.kept, found)
			}
		})
	}
}

func TestJobStatusOfTheFilesLocations(t *testing.T) {
	files, problems := pipeline.Parse("a.yaml", []byte(`
name: a
purpose: Test.
owner: me@example.com
on:
  - storage: {bucket: landing}
steps:
  - name: one
    dataflow: {template: "gs://templates/one.json"}
  - name: two
    dataflow: {template: "gs://templates/two.json", location: europe-west4}
`))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	trigger := func(location string) string {
		return resource(typeEventarc, location, `{"location":"`+location+`","matching_criteria":[
			{"attribute":"type","value":"google.cloud.dataflow.job.v1beta3.statusChanged"}],
			"destination":[{"cloud_run_service":[{"service":"status"}]}]}`)
	}
	function := resource(typeFunction, "f", `{"name":"status","build_config":[{"entry_point":"JobStatus"}]}`)
	for name, tc := range map[string]struct {
		triggers []string
		want     string
	}{
		"one each":       {[]string{trigger("us-central1"), trigger("europe-west4")}, ""},
		"one is missing": {[]string{trigger("us-central1")}, "europe-west4, which 0 triggers"},
		"one twice":      {[]string{trigger("us-central1"), trigger("us-central1"), trigger("europe-west4")}, "us-central1, which 2 triggers"},
		"one too many":   {[]string{trigger("us-central1"), trigger("europe-west4"), trigger("asia-east1")}, "asia-east1, where none run"},
	} {
		t.Run(name, func(t *testing.T) {
			p := planned(t, append(tc.triggers, function)...)
			p.Pipelines, p.JobLocation = []*pipeline.Pipeline{files}, "us-central1"
			var got []string
			for _, v := range Check(p) {
				if v.Rule == "status-everywhere" {
					got = append(got, v.Message)
				}
			}
			if tc.want == "" && len(got) > 0 || tc.want != "" && !strings.Contains(strings.Join(got, "\n"), tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestARotatorMayRotateAndNoMore(t *testing.T) {
	const member = `"member":"serviceAccount:rotator@p.iam.gserviceaccount.com"`
	service := resource(typeService, "rotator", `{"template":[{"service_account":"rotator@p.iam.gserviceaccount.com","containers":[{"env":[
		{"name":"PENSTOCK_ROTATION_SECRETS","value":"[{\"secret\":\"projects/p/secrets/key\"},{\"secret\":\"projects/p/secrets/cloud-key\"}]"}]}]}]}`)
	role := func(permissions string) string {
		return resource(typeCustomRole, "role", `{"role_id":"rotator","permissions":[`+permissions+`]}`)
	}
	grant := func(secret, role string) string {
		return resource(typeSecretGrant, secret, `{"secret_id":"`+secret+`","role":"`+role+`",`+member+`}`)
	}
	const four, custom = `"secretmanager.versions.list","secretmanager.versions.access","secretmanager.versions.add","secretmanager.versions.disable"`, "projects/p/roles/rotator"
	for name, tc := range map[string]struct {
		resources []string
		want      string
	}{
		"four permissions on both secrets":   {[]string{role(four), grant("key", custom), grant("cloud-key", custom)}, ""},
		"a role of Google's, which destroys": {[]string{role(four), grant("key", "roles/secretmanager.secretVersionManager"), grant("cloud-key", custom)}, "secretVersionManager is more than"},
		"destroying besides":                 {[]string{role(four + `,"secretmanager.versions.destroy"`), grant("key", custom), grant("cloud-key", custom)}, "versions.destroy"},
		"a permission that is missing":       {[]string{role(`"secretmanager.versions.list"`), grant("key", custom), grant("cloud-key", custom)}, "a rotator needs"},
		"one of its secrets alone":           {[]string{role(four), grant("key", custom)}, "may not rotate cloud-key"},
		"a secret that it does not rotate":   {[]string{role(four), grant("key", custom), grant("cloud-key", custom), grant("password", custom)}, "does not rotate password"},
		"every secret of the project":        {[]string{role(four), grant("key", custom), grant("cloud-key", custom), resource(typeProjectGrant, "all", `{"role":"`+custom+`",`+member+`}`)}, "on the whole project"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, v := range Check(planned(t, append(tc.resources, service)...)) {
				if v.Rule == "rotator-least" {
					got = append(got, v.Message)
				}
			}
			if tc.want == "" && len(got) > 0 || !strings.Contains(strings.Join(got, "\n"), tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhoeverDeploysMayMakeAll(t *testing.T) {
	const deployer = "penstock-prod-deployer@p.iam.gserviceaccount.com"
	grant := func(role string) string {
		return resource(typeProjectGrant, "module.ci."+typeProjectGrant+".x", `{"project":"p","role":"`+role+`","member":"serviceAccount:`+deployer+`"}`)
	}
	role := func(permissions string) string {
		return resource(typeCustomRole, "module.ci.role", `{"role_id":"own","permissions":[`+permissions+`]}`)
	}
	admin := resource(typeProjectGrant, "module.ci."+typeProjectGrant+".grants", `{"project":"p","role":"roles/resourcemanager.projectIamAdmin","member":"serviceAccount:`+deployer+`","condition":[{"expression":"modifiedGrantsByRole hasOnly(['roles/bigquery.jobUser'])"}]}`)
	signs := resource(typeAccountGrant, "module.ci.signer", `{"service_account_id":"projects/p/serviceAccounts/`+deployer+`","role":"roles/iam.serviceAccountOpenIdTokenCreator","member":"serviceAccount:`+deployer+`"}`)
	dataset := resource("google_bigquery_dataset_iam_member", "dataset", `{"project":"p","role":"roles/bigquery.dataViewer"}`)
	const four = `"bigquery.datasets.get","bigquery.datasets.getIamPolicy","bigquery.datasets.setIamPolicy","bigquery.datasets.update"`
	for name, tc := range map[string]struct {
		resources []string
		want      string
	}{
		"a role that it may grant":              {[]string{signs, resource(typeProjectGrant, "g", `{"project":"p","role":"roles/bigquery.jobUser"}`)}, ""},
		"a role that it may not grant":          {[]string{signs, resource(typeProjectGrant, "g", `{"project":"p","role":"roles/bigquery.admin"}`)}, "may not grant roles/bigquery.admin"},
		"a dataset's policy":                    {[]string{signs, dataset, grant("projects/p/roles/own"), role(four)}, ""},
		"a dataset's policy, without right":     {[]string{signs, dataset}, "has no bigquery.datasets.get"},
		"a dataset that it may not change":      {[]string{signs, dataset, grant("projects/p/roles/own"), role(`"bigquery.datasets.get","bigquery.datasets.getIamPolicy","bigquery.datasets.setIamPolicy"`)}, "has no bigquery.datasets.update"},
		"another project's dataset":             {[]string{signs, resource("google_bigquery_dataset_iam_member", "dataset", `{"project":"q","role":"roles/bigquery.dataViewer"}`)}, ""},
		"a bucket":                              {[]string{signs, grant("roles/storage.admin"), resource(typeBucket, "b", `{"project":"p"}`)}, ""},
		"a bucket, without right":               {[]string{signs, resource(typeBucket, "b", `{"project":"p"}`)}, "has no roles/storage.admin"},
		"secrets whose versions it cannot list": {[]string{signs, resource(typeSecret, "s", `{"project":"p"}`), grant("projects/p/roles/own"), role(`"secretmanager.secrets.create","secretmanager.secrets.delete","secretmanager.secrets.get","secretmanager.secrets.getIamPolicy","secretmanager.secrets.setIamPolicy","secretmanager.secrets.update"`)}, "has no secretmanager.versions.list"},
		"what nobody has thought of":            {[]string{signs, resource("google_redis_instance", "r", `{"project":"p"}`)}, "what right it takes to make a google_redis_instance"},
		"an account that cannot sign":           {nil, "may make no token of itself"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, v := range Check(planned(t, append(tc.resources, admin)...)) {
				if v.Rule == "deployer-suffices" {
					got = append(got, v.Message)
				}
			}
			if tc.want == "" && len(got) > 0 || !strings.Contains(strings.Join(got, "\n"), tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAPipelineHasNoStorageOnTheProject(t *testing.T) {
	file, problems := pipeline.Parse("a.yaml", []byte(`
name: a
purpose: Test.
owner: me@example.com
on:
  - storage: {bucket: landing}
steps:
  - name: one
    dataflow: {template: "gs://templates/one.json", environment: {serviceAccountEmail: orders@acme-data.iam.gserviceaccount.com}}
`))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	grant := func(role, member string) string {
		return resource(typeProjectGrant, "g", `{"role":"`+role+`","member":"serviceAccount:`+member+`"}`)
	}
	const orders = "orders@acme-data.iam.gserviceaccount.com"
	for name, tc := range map[string]struct {
		resources []string
		want      string
	}{
		"a role of one's own":                {[]string{grant("projects/p/roles/job", orders), resource(typeCustomRole, "r", `{"role_id":"job","permissions":["dataflow.workItems.lease"]}`)}, ""},
		"such a role that reads objects":     {[]string{grant("projects/p/roles/job", orders), resource(typeCustomRole, "r", `{"role_id":"job","permissions":["dataflow.workItems.lease","storage.objects.get"]}`)}, "storage.objects.get on the whole project"},
		"queries":                            {[]string{grant("roles/bigquery.jobUser", orders)}, ""},
		"Dataflow's role for workers":        {[]string{grant("roles/dataflow.worker", orders)}, "has roles/dataflow.worker"},
		"every bucket":                       {[]string{grant("roles/storage.objectUser", orders)}, "has roles/storage.objectUser"},
		"every bucket, of no pipeline's":     {[]string{grant("roles/storage.objectUser", "other@acme-data.iam.gserviceaccount.com")}, ""},
		"a role that is made somewhere else": {[]string{grant("projects/p/roles/unknown", orders)}, "has projects/p/roles/unknown"},
	} {
		t.Run(name, func(t *testing.T) {
			p := planned(t, tc.resources...)
			p.Pipelines = []*pipeline.Pipeline{file}
			var got []string
			for _, v := range Check(p) {
				if v.Rule == "pipelines-least" {
					got = append(got, v.Message)
				}
			}
			if tc.want == "" && len(got) > 0 || !strings.Contains(strings.Join(got, "\n"), tc.want) {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestWhatFilesAreTriggeredByArrives(t *testing.T) {
	file, problems := pipeline.Parse("a.yaml", []byte(`
name: a
purpose: Test.
owner: me@example.com
on:
  - storage: {bucket: landing, object: "orders/{day}.csv", kinds: [finalized, deleted]}
  - pubsub: {topic: ready}
  - event: {type: com.example.done}
workflow: {type: W, taskQueue: q}
`))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	notification := func(prefix, kinds string) string {
		return resource("google_storage_notification", "n", `{"bucket":"landing","topic":"projects/p/topics/n","object_name_prefix":`+prefix+`,"event_types":[`+kinds+`]}`)
	}
	push := func(topic string) string {
		return resource(typeSubscription, "s", `{"topic":"projects/p/topics/`+topic+`","push_config":[{}]}`)
	}
	trigger := func(kind, more string) string {
		return resource(typeEventarc, "t", `{"matching_criteria":[{"attribute":"type","value":"`+kind+`"}`+more+`]}`)
	}
	both, done := `"OBJECT_FINALIZE","OBJECT_DELETE"`, trigger("com.example.done", "")
	for name, tc := range map[string]struct {
		resources []string
		missing   []string
	}{
		"by subscription":                       {[]string{notification("null", both), push("n"), push("ready"), done}, nil},
		"below the pattern's literal beginning": {[]string{notification(`"orders/"`, both), push("n"), push("ready"), done}, nil},
		"below another prefix":                  {[]string{notification(`"orders/eu"`, both), push("n"), push("ready"), done}, []string{"finalized", "deleted"}},
		"of one change":                         {[]string{notification("null", `"OBJECT_FINALIZE"`), push("n"), push("ready"), done}, []string{"deleted"}},
		"to a topic that nobody reads":          {[]string{notification("null", both), push("ready"), done}, []string{"finalized", "deleted"}},
		"without the topic and the event":       {[]string{notification("null", both), push("n")}, []string{"ready", "com.example.done"}},
		"by Eventarc": {[]string{
			trigger("google.cloud.storage.object.v1.finalized", `,{"attribute":"bucket","value":"landing"}`),
			trigger("google.cloud.storage.object.v1.deleted", `,{"attribute":"bucket","value":"another"}`),
			resource(typeEventarc, "t", `{"transport":[{"pubsub":[{"topic":"projects/p/topics/ready"}]}]}`), done,
		}, []string{"deleted"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := planned(t, tc.resources...)
			p.Pipelines = []*pipeline.Pipeline{file}
			var got []string
			for _, v := range Check(p) {
				if v.Rule == "sources-delivered" {
					got = append(got, v.Message)
				}
			}
			if len(got) != len(tc.missing) {
				t.Fatalf("missing %q, want %q", got, tc.missing)
			}
			for i, want := range tc.missing {
				if !strings.Contains(got[i], want) {
					t.Errorf("missing %q, want %q", got[i], want)
				}
			}
		})
	}
}

func TestATopicThatAFileIsTriggeredByStays(t *testing.T) {
	file, problems := pipeline.Parse("a.yaml", []byte("name: a\npurpose: Test.\nowner: me@example.com\non: [{pubsub: {topic: ready}}]\nworkflow: {type: W, taskQueue: q}\n"))
	if problems.HasErrors() {
		t.Fatal(problems)
	}
	for policy, kept := range map[string]bool{"PREVENT": true, "DELETE": false} {
		p := planned(t, resource(typeTopic, "t", `{"project":"p","name":"ready","deletion_policy":"`+policy+`"}`))
		p.Pipelines = []*pipeline.Pipeline{file}
		if broken := slices.ContainsFunc(Check(p), func(v Violation) bool { return v.Rule == "deletion-protection" }); broken == kept {
			t.Errorf("deletion_policy %s: broken %v, want %v", policy, broken, !kept)
		}
	}
}

func TestReadKnowsWhatIsUnknown(t *testing.T) {
	p := planned(t,
		`{"address":"s","mode":"managed","type":"google_pubsub_subscription","change":{"actions":["create"],
			"after":{"name":"s","push_config":[{"oidc_token":[{"service_account_email":"a"}]}]},
			"after_unknown":{"id":true,"push_config":[{"push_endpoint":true,"oidc_token":[{"audience":true}]}]}}}`,
		`{"address":"gone","mode":"managed","type":"google_pubsub_topic","change":{"actions":["delete"],"after":null}}`,
		`{"address":"data.x","mode":"data","type":"google_project","change":{"actions":["read"],"after":{}}}`,
	)
	if len(p.Resources) != 1 {
		t.Fatalf("read %d resources, want the one that is made", len(p.Resources))
	}
	s := p.Resources[0]
	if !s.has("push_config.0.oidc_token.0.audience") || !s.has("push_config.0.push_endpoint") || s.text("push_config.0.push_endpoint") != "" {
		t.Errorf("what is known after the apply only is given, with no text: %v", s.Values)
	}
	if s.text("push_config.0.oidc_token.0.service_account_email") != "a" || s.has("push_config.1") || s.has("push_config.0.no_wrapper") {
		t.Errorf("what is known is as the plan has it: %v", s.Values)
	}
}

func TestReadRefusesWhatIsNoPlan(t *testing.T) {
	for name, in := range map[string]string{
		"no JSON":        "Plan: 3 to add",
		"another format": `{"format_version":"2.0","resource_changes":[]}`,
		"nothing in it":  `{"format_version":"1.2","resource_changes":[]}`,
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Read(strings.NewReader(in)); err == nil || !strings.Contains(err.Error(), "plan") {
				t.Errorf("got %v, want an error that says what to give", err)
			}
		})
	}
}

func TestEachRuleHasATwinInTheCode(t *testing.T) {
	var rules, twins []string
	for _, r := range Rules() {
		if slices.Contains(rules, r.Name) {
			t.Errorf("two rules are called %s", r.Name)
		}
		rules = append(rules, r.Name)
	}
	for _, s := range sourceTwins {
		twins = append(twins, s.rule)
	}
	slices.Sort(rules)
	slices.Sort(twins)
	if !slices.Equal(rules, twins) {
		t.Errorf("rules %v\ntwins %v", rules, twins)
	}

	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(filepath.Join("..", "..", "terraform"))); err != nil {
		t.Fatal(err)
	}
	if err := BreakSource(copied); err != nil {
		t.Error(err)
	}
	if err := BreakSource(copied); err == nil {
		t.Error("what is broken already can be broken again: the twins would not notice that the code has changed")
	}
}

func TestATwinThatIsNotCaughtIsTold(t *testing.T) {
	p := planned(t, resource(typeBucket, "b", `{"public_access_prevention":"inherited"}`))
	for _, proof := range Prove(p) {
		switch proof.Rule {
		case "no-public-objects":
			if proof.Idle || len(proof.Caught) != 1 {
				t.Errorf("the twin of %s: %+v", proof.Rule, proof)
			}
		case "images-by-digest":
			if !proof.Idle {
				t.Errorf("there is no image to break, and %+v", proof)
			}
		}
	}
	if got := p.Resources[0].text("public_access_prevention"); got != "inherited" {
		t.Errorf("the proof changed the plan itself, to %q", got)
	}
}
