package policy

import (
	"regexp"
	"slices"
	"strings"
)

const (
	typeFunction     = "google_cloudfunctions2_function"
	typeService      = "google_cloud_run_v2_service"
	typeJob          = "google_cloud_run_v2_job"
	typePool         = "google_cloud_run_v2_worker_pool"
	typeBucket       = "google_storage_bucket"
	typeFirewall     = "google_compute_firewall"
	typeSubscription = "google_pubsub_subscription"
	typeTopic        = "google_pubsub_topic"
	typeRepository   = "google_artifact_registry_repository"
	typeEventarc     = "google_eventarc_trigger"
	typeSecret       = "google_secret_manager_secret"
	typeAccount      = "google_service_account"
	typeCustomRole   = "google_project_iam_custom_role"
	typeProjectGrant = "google_project_iam_member"
	typeAccountGrant = "google_service_account_iam_member"
	typeServiceGrant = "google_cloud_run_v2_service_iam_member"
	typePoolGrant    = "google_cloud_run_v2_worker_pool_iam_member"
	typeTopicGrant   = "google_pubsub_topic_iam_member"
	typeSubGrant     = "google_pubsub_subscription_iam_member"
	typeSecretGrant  = "google_secret_manager_secret_iam_member"
)

var (
	digestRE = regexp.MustCompile(`@sha256:[0-9a-f]{64}$`)
	keyRE    = regexp.MustCompile(`PRIVATE KEY-----|"private_key"|^eyJ[A-Za-z0-9_-]{20,}\.`)
)

// exposure is about who outside may reach what.
var exposure = []Rule{
	{
		Name: "nobody-unknown", Says: "grants nothing to allUsers or allAuthenticatedUsers",
		check: func(p *Plan, bad report) {
			for _, r := range p.Resources {
				if !strings.Contains(r.Type, "_iam_") {
					continue
				}
				for _, s := range texts(r.Values) {
					if strings.Contains(s, "allUsers") || strings.Contains(s, "allAuthenticatedUsers") {
						bad(r.Address, "%s has %s: grant it to the accounts that need it", s, r.text("role"))
					}
				}
			}
		},
		twin: breaks(set("member", "allAuthenticatedUsers"), typeTopicGrant),
	},
	{
		Name: "no-public-ingress", Says: "takes no call from the internet",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeFunction) {
				if got := r.text("service_config.0.ingress_settings"); got != "ALLOW_INTERNAL_ONLY" {
					bad(r.Address, "its ingress is %q: set ALLOW_INTERNAL_ONLY, which lets Pub/Sub and Eventarc in", got)
				}
			}
			for _, r := range p.of(typeService) {
				if got := r.text("ingress"); got != "INGRESS_TRAFFIC_INTERNAL_ONLY" {
					bad(r.Address, "its ingress is %q: set INGRESS_TRAFFIC_INTERNAL_ONLY", got)
				}
			}
			for _, r := range p.of(typeFirewall) {
				if len(r.list("allow")) > 0 && r.text("direction") != "EGRESS" && slices.Contains(texts(r.get("source_ranges")), "0.0.0.0/0") {
					bad(r.Address, "it lets the internet in: name the ranges that need it")
				}
			}
		},
		twin: breaks(set("service_config.0.ingress_settings", "ALLOW_ALL"), typeFunction),
	},
	{
		Name: "no-public-objects", Says: "enforces public access prevention on every bucket",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeBucket) {
				if r.text("public_access_prevention") != "enforced" {
					bad(r.Address, "public access prevention is not enforced: set public_access_prevention")
				}
			}
		},
		twin: breaks(set("public_access_prevention", "inherited"), typeBucket),
	},
	{
		Name: "uniform-access", Says: "has uniform bucket-level access on every bucket",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeBucket) {
				if r.get("uniform_bucket_level_access") != true {
					bad(r.Address, "objects could be shared one by one: set uniform_bucket_level_access")
				}
			}
		},
		twin: breaks(set("uniform_bucket_level_access", false), typeBucket),
	},
	{
		Name: "no-keys", Says: "has no long-lived key, and no credential in plan or state",
		check: func(p *Plan, bad report) {
			for _, r := range p.Resources {
				switch r.Type {
				case "google_service_account_key", "google_storage_hmac_key", "google_apikeys_key":
					bad(r.Address, "it is a long-lived key: let the caller impersonate the account, or federate its identity")
				case "google_secret_manager_secret_version":
					if r.has("secret_data") {
						bad(r.Address, "the secret's value lies in the plan and the state: add the version outside of Terraform")
					}
				}
				for _, s := range texts(r.Values) {
					if keyRE.MatchString(s) {
						bad(r.Address, "a value of it looks like a key or token: keep it in a secret whose version Terraform does not know")
					}
				}
			}
			for _, r := range p.of(typeFunction, typePool, typeService, typeJob) {
				if slices.Contains(environment(r), "TEMPORAL_API_KEY") {
					bad(r.Address, "the API key is a variable of the environment, which lies in the state and is not rotated: mount its secret")
				}
			}
		},
		twin: breaks(func(r *Resource) bool {
			env, ok := r.get("service_config.0.environment_variables").(map[string]any)
			if ok {
				env["TEMPORAL_API_KEY"] = "secret"
			}
			return ok
		}, typeFunction),
	},
	{
		Name: "images-by-digest", Says: "runs images that are named by digest",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typePool, typeService, typeJob) {
				for _, image := range images(r) {
					if !digestRE.MatchString(image) {
						bad(r.Address, "its image is %s: name it by digest, so that what was tested is what runs", image)
					}
				}
			}
		},
		twin: breaks(set("template.0.containers.0.image", "us-docker.pkg.dev/acme/penstock/worker:latest"), typePool),
	},
}

// environment lists the names of a program's variables.
func environment(r *Resource) []string {
	var names []string
	if vars, ok := r.get("service_config.0.environment_variables").(map[string]any); ok {
		for name := range vars {
			names = append(names, name)
		}
	}
	for _, c := range containers(r) {
		for _, e := range c.list("env") {
			if v, ok := e.(map[string]any); ok {
				name, _ := v["name"].(string)
				names = append(names, name)
			}
		}
	}
	return names
}

// variable is the value of one of them, if it is known.
func variable(r *Resource, name string) string {
	if vars, ok := r.get("service_config.0.environment_variables").(map[string]any); ok {
		s, _ := vars[name].(string)
		return s
	}
	for _, c := range containers(r) {
		for _, e := range c.list("env") {
			if v, ok := e.(map[string]any); ok && v["name"] == name {
				s, _ := v["value"].(string)
				return s
			}
		}
	}
	return ""
}

// containers lists the containers of a Cloud Run resource; those of a job lie deeper.
func containers(r *Resource) []*Resource {
	var found []*Resource
	for _, path := range []string{"template.0.containers", "template.0.template.0.containers"} {
		for _, c := range r.list(path) {
			if values, ok := c.(map[string]any); ok {
				found = append(found, &Resource{Address: r.Address, Type: r.Type, Values: values})
			}
		}
	}
	return found
}

func images(r *Resource) []string {
	var found []string
	for _, c := range containers(r) {
		found = append(found, c.text("image"))
	}
	return found
}
