package policy

import (
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// impersonation are the roles that let one act as an account, or give oneself that; on a project, as each of its accounts.
var impersonation = []string{
	"roles/iam.serviceAccountUser",
	"roles/iam.serviceAccountTokenCreator",
	"roles/iam.serviceAccountOpenIdTokenCreator",
	"roles/iam.workloadIdentityUser",
	"roles/iam.serviceAccountKeyAdmin",
	"roles/iam.serviceAccountAdmin",
	"roles/iam.roleAdmin",
	"roles/editor",
	"roles/owner",
	"roles/writer",
	"roles/admin",
}

// impersonating are the permissions that do so in a role of one's own.
var impersonating = []string{
	"iam.roles.update",
	"iam.serviceAccountKeys.create",
	"iam.serviceAccounts.actAs",
	"iam.serviceAccounts.getAccessToken",
	"iam.serviceAccounts.getOpenIdToken",
	"iam.serviceAccounts.implicitDelegation",
	"iam.serviceAccounts.setIamPolicy",
	"iam.serviceAccounts.signBlob",
	"iam.serviceAccounts.signJwt",
	"resourcemanager.projects.setIamPolicy",
}

// The one exception: whoever deploys makes accounts and roles, and is trusted like an owner, as docs/deploy.md says. It is known by
// the name that modules/ci gives it.
var (
	deployerRE  = regexp.MustCompile(`^serviceAccount:penstock-[a-z][a-z0-9]{1,11}-deployer@`)
	deployerMay = []string{"roles/iam.serviceAccountAdmin", "roles/iam.roleAdmin"}
)

// identities is about who may do what.
var identities = []Rule{
	{
		Name: "no-impersonation-by-project", Says: "lets nobody act as every account of the project, nor give itself that, but for the one that deploys",
		check: func(p *Plan, bad report) {
			for _, r := range p.of("google_project_iam_policy") {
				bad(r.Address, "it replaces every grant of the project, and says nothing that could be checked: use google_project_iam_member")
			}
			for _, r := range p.of(typeProjectGrant, "google_project_iam_binding") {
				role := r.text("role")
				own := findRole(p, role)
				switch {
				case slices.Contains(deployerMay, role) && deployerRE.MatchString(r.text("member")):
				case slices.Contains(impersonation, role):
					bad(r.Address, "%s is granted on the project: grant it on the accounts that are meant", role)
				case own != nil:
					for _, permission := range texts(own.get("permissions")) {
						if slices.Contains(impersonating, permission) {
							bad(own.Address, "it has %s and is granted on the project: grant that on the accounts that are meant", permission)
						}
					}
				case strings.Contains(role, "/roles/"):
					bad(r.Address, "%s is not made here, so that nobody sees what it allows: make it here", role)
				}
			}
		},
		twin: breaks(set("role", "roles/iam.serviceAccountTokenCreator"), typeProjectGrant),
	},
	{
		Name: "no-open-grants", Says: "leaves the granting of roles on the project to those who may grant listed ones only",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeProjectGrant, "google_project_iam_binding") {
				if role := r.text("role"); (role == "roles/resourcemanager.projectIamAdmin" || role == "roles/iam.securityAdmin") && !strings.Contains(r.text("condition.0.expression"), "modifiedGrantsByRole") {
					bad(r.Address, "%s without a condition on modifiedGrantsByRole is every role there is: list the roles that may be granted", role)
				}
			}
		},
		twin: breaks(func(r *Resource) bool {
			return r.text("role") == "roles/resourcemanager.projectIamAdmin" && set("condition", []any{})(r)
		}, typeProjectGrant),
	},
	{
		Name: "deployer-suffices", Says: "lets whoever deploys it make all that is in it, and sign its images",
		check: checkDeployer,
		twin: breaks(func(r *Resource) bool {
			listed := r.text("condition.0.expression")
			return strings.Contains(listed, "'roles/bigquery.jobUser'") && set("condition.0.expression", strings.ReplaceAll(listed, "'roles/bigquery.jobUser'", "'roles/bigquery.user'"))(r)
		}, typeProjectGrant),
	},
	{
		Name: "builds-read-sources", Says: "lets the build of each function read the source where Cloud Functions copies it, and nothing else by the project",
		check: checkBuilds,
		twin: breaks(func(r *Resource) bool {
			return strings.Contains(r.text("condition.0.expression"), copiedSources) && set("condition", []any{})(r)
		}, typeProjectGrant),
	},
	{
		Name: "own-accounts", Says: "runs each function, pool and service as an account of its own",
		check: func(p *Plan, bad report) {
			seen := map[string]string{}
			for _, r := range p.of(typeFunction, typePool, typeService) {
				account := r.text("service_config.0.service_account_email")
				if r.Type != typeFunction {
					account = r.text("template.0.service_account")
				}
				switch other := seen[account]; {
				case account == "" || strings.HasSuffix(account, "-compute@developer.gserviceaccount.com") || strings.HasSuffix(account, "@appspot.gserviceaccount.com"):
					bad(r.Address, "it runs as the project's default account: give it one of its own")
				case other != "" && (r.Type != typePool || !strings.Contains(other, typePool)): // builds of one worker share theirs
					bad(r.Address, "it runs as the account of %s: give it one of its own", other)
				}
				seen[account] = r.Address
			}
		},
		twin: breaks(set("service_config.0.service_account_email", nil), typeFunction),
	},
	{
		Name: "only-deliveries-call", Says: "lets nobody call the functions but the identity of its deliveries",
		check: func(p *Plan, bad report) {
			callers := map[string]bool{}
			for _, r := range p.of(typeSubscription) {
				callers["serviceAccount:"+r.text("push_config.0.oidc_token.0.service_account_email")] = true
			}
			for _, r := range p.of(typeEventarc) {
				callers["serviceAccount:"+r.text("service_account")] = true
			}
			called := map[string]bool{}
			for _, r := range p.of(typeServiceGrant, "google_cloudfunctions2_function_iam_member") {
				if role := r.text("role"); role != "roles/run.invoker" && role != "roles/cloudfunctions.invoker" {
					continue
				}
				called[r.text("name")] = true
				if member := r.text("member"); !callers[member] {
					bad(r.Address, "%s may call the function, and delivers nothing: remove the grant", member)
				}
			}
			for _, r := range p.of(typeFunction) {
				if !called[r.text("name")] {
					bad(r.Address, "nothing may call it, so its deliveries fail: grant the push identity roles/run.invoker")
				}
			}
		},
		twin: breaks(set("member", "serviceAccount:someone@acme.iam.gserviceaccount.com"), typeServiceGrant),
	},
	{
		Name: "worker-least", Says: "gives the worker no role on the project but one of its own making",
		check: func(p *Plan, bad report) {
			for _, member := range runners(p) {
				own := false
				for _, r := range p.of(typeProjectGrant) {
					if r.text("member") != member {
						continue
					}
					role := findRole(p, r.text("role"))
					if role == nil {
						bad(r.Address, "the worker has %s on the whole project: list the permissions that it needs in a role", r.text("role"))
						continue
					}
					own = true
					for _, permission := range texts(role.get("permissions")) {
						if !strings.HasPrefix(permission, "dataflow.") {
							bad(role.Address, "%s is nothing that the worker does to Dataflow: grant it on a resource", permission)
						}
					}
				}
				if !own {
					bad(member, "the worker has no role to launch jobs with: grant it a custom one")
				}
			}
		},
		twin: func(p *Plan) bool {
			members := runners(p)
			return breaks(func(r *Resource) bool {
				return slices.Contains(members, r.text("member")) && set("role", "roles/dataflow.admin")(r)
			}, typeProjectGrant)(p)
		},
	},
	{
		Name: "pipelines-least", Says: "gives pipelines' accounts no storage on the project, where only what no smaller resource has is theirs",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeProjectGrant) {
				account, ok := strings.CutPrefix(r.text("member"), "serviceAccount:")
				if !ok || !slices.Contains(pipelineAccounts(p), account) {
					continue
				}
				role := findRole(p, r.text("role"))
				switch {
				case role != nil:
					for _, permission := range texts(role.get("permissions")) {
						if service, _, _ := strings.Cut(permission, "."); !slices.Contains(jobServices, service) {
							bad(role.Address, "%s on the whole project is more than a job of one pipeline needs: grant it on the resources that the file names", permission)
						}
					}
				case !slices.Contains(jobRoles, r.text("role")):
					bad(r.Address, "%s has %s on the whole project, other pipelines' data among it: grant it on the resources that the file names", account, r.text("role"))
				}
			}
		},
		twin: func(p *Plan) bool {
			accounts := pipelineAccounts(p)
			return breaks(func(r *Resource) bool {
				return slices.Contains(accounts, strings.TrimPrefix(r.text("member"), "serviceAccount:")) && set("role", "roles/dataflow.worker")(r)
			}, typeProjectGrant)(p)
		},
	},
	{
		Name: "acts-as-pipelines", Says: "lets the worker act as each pipeline's account, and as no other",
		check: func(p *Plan, bad report) {
			accounts := pipelineAccounts(p)
			for _, member := range runners(p) {
				may := map[string]bool{}
				for _, r := range p.of(typeAccountGrant) {
					if r.text("member") != member || !slices.Contains(impersonation, r.text("role")) {
						continue
					}
					account := r.text("service_account_id")
					account = account[strings.LastIndexByte(account, '/')+1:]
					if !slices.Contains(accounts, account) {
						bad(r.Address, "the worker may act as %s, which no pipeline runs as: remove the grant", account)
					}
					if r.text("role") == "roles/iam.serviceAccountUser" {
						may[account] = true
					}
				}
				for _, account := range accounts {
					if !may[account] {
						bad(member, "the worker may not act as %s, so the jobs of its pipeline cannot be launched: grant it roles/iam.serviceAccountUser there", account)
					}
				}
			}
		},
		twin: func(p *Plan) bool {
			members := runners(p)
			return remove(func(r *Resource) bool {
				return r.Type == typeAccountGrant && slices.Contains(members, r.text("member"))
			})(p)
		},
	},
	{
		Name: "scaler-complete", Says: "lets Temporal resize serverless pools: get and update on each, act as their runner, and no more",
		check: checkScaler,
		twin: breaks(func(r *Resource) bool {
			return slices.Contains(texts(r.get("permissions")), "run.workerpools.update") && set("permissions", []any{"run.workerpools.get"})(r)
		}, typeCustomRole),
	},
	{
		Name: "rotator-least", Says: "lets a rotator of keys list, read, add and disable versions of its secrets, and do nothing else to anything",
		check: checkRotator,
		twin: func(p *Plan) bool {
			members := rotators(p)
			return breaks(func(r *Resource) bool {
				return slices.Contains(members, r.text("member")) && set("role", "roles/secretmanager.secretVersionManager")(r)
			}, typeSecretGrant)(p)
		},
	},
	{
		Name: "federation-conditions", Says: "lets in federated identities that meet a condition only",
		check: func(p *Plan, bad report) {
			for _, r := range p.of("google_iam_workload_identity_pool_provider") {
				if c := r.text("attribute_condition"); !strings.Contains(c, "assertion.") && !strings.Contains(c, "attribute.") {
					bad(r.Address, "everybody that its issuer knows is let in: set attribute_condition")
				}
				// https://docs.github.com/actions/reference/openid-connect-reference: the ref is the base branch's in a run for anybody's pull request.
				if r.text("oidc.0.issuer_uri") == "https://token.actions.githubusercontent.com" {
					if c := r.text("attribute_condition"); !strings.Contains(c, "assertion.ref ") || !strings.Contains(c, "assertion.event_name ") {
						bad(r.Address, "pull requests of others may be let in: compare assertion.ref, and let assertion.event_name not be pull_request_target")
					}
				}
			}
		},
		twin: breaks(set("attribute_condition", "true"), "google_iam_workload_identity_pool_provider"),
	},
}

// makers are the rights that a deployment takes, by how the types of its resources begin; the first that fits counts. It is a role that the
// deployer has on the project, or the permissions of a role of its own; nothing where there is no such right.
var makers = []maker{
	{"google_artifact_registry_", []string{"roles/artifactregistry.admin"}},
	// The provider changes a dataset's policy by changing the dataset.
	{"google_bigquery_dataset_iam_", []string{"bigquery.datasets.get", "bigquery.datasets.getIamPolicy", "bigquery.datasets.setIamPolicy", "bigquery.datasets.update"}},
	{"google_billing_", nil}, // on a billing account, by hand: docs/deploy.md
	{"google_cloud_run_", []string{"roles/run.admin"}},
	{"google_cloudfunctions2_", []string{"roles/cloudfunctions.admin"}},
	{"google_compute_firewall", []string{"roles/compute.securityAdmin"}},
	{"google_compute_", []string{"roles/compute.networkAdmin"}},
	{"google_eventarc_", []string{"roles/eventarc.admin"}},
	{"google_iam_workload_identity_", []string{"roles/iam.workloadIdentityPoolAdmin"}},
	{"google_logging_", []string{"roles/logging.configWriter"}},
	{"google_monitoring_", []string{"roles/monitoring.editor"}},
	{typeCustomRole, []string{"roles/iam.roleAdmin"}},
	{typeProjectGrant, []string{"roles/resourcemanager.projectIamAdmin"}},
	{"google_project_service", []string{"roles/serviceusage.serviceUsageAdmin"}},
	{"google_pubsub_", []string{"roles/pubsub.admin"}},
	// scripts/deploy asks whether a secret has a version.
	{"google_secret_manager_", []string{"secretmanager.secrets.create", "secretmanager.secrets.delete", "secretmanager.secrets.get", "secretmanager.secrets.getIamPolicy", "secretmanager.secrets.setIamPolicy", "secretmanager.secrets.update", "secretmanager.versions.list"}},
	{"google_service_account", []string{"roles/iam.serviceAccountAdmin"}},
	{"google_storage_", []string{"roles/storage.admin"}},
	{"terraform_data", nil},
}

type maker struct {
	resources string
	rights    []string
}

// checkDeployer sees that the account that may grant roles on the project may grant those of the plan, make its resources, and sign.
func checkDeployer(p *Plan, bad report) {
	for _, admin := range p.of(typeProjectGrant) {
		listed, member := admin.text("condition.0.expression"), admin.text("member")
		if admin.text("role") != "roles/resourcemanager.projectIamAdmin" || listed == "" {
			continue
		}
		may := map[string]bool{}
		for _, r := range p.of(typeProjectGrant) {
			if r.text("member") != member {
				continue
			}
			may[r.text("role")] = true
			if role := findRole(p, r.text("role")); role != nil {
				for _, permission := range texts(role.get("permissions")) {
					may[permission] = true
				}
			}
		}
		// Beside it are the deployer's own rights, which a person makes.
		own := admin.Address[:strings.Index(admin.Address, admin.Type)]
		for _, r := range p.Resources {
			if own != "" && strings.HasPrefix(r.Address, own) {
				continue
			}
			if project := r.text("project"); project != "" && project != admin.text("project") {
				continue // another project's, granted there by hand: docs/deploy.md
			}
			if role := r.text("role"); r.Type == typeProjectGrant && !strings.Contains(listed, "'"+role+"'") {
				bad(r.Address, "%s may not grant %s, so that it cannot deploy this: add the role to its condition", member, role)
			}
			at := slices.IndexFunc(makers, func(m maker) bool { return strings.HasPrefix(r.Type, m.resources) })
			if at < 0 {
				bad(r.Address, "nobody has said what right it takes to make a %s: add it to makers in dev/policy, and the right to modules/ci", r.Type)
				continue
			}
			for _, right := range makers[at].rights {
				if !may[right] {
					bad(r.Address, "%s has no %s, so that it cannot deploy this: grant it that in modules/ci", member, right)
				}
			}
		}
		if !slices.ContainsFunc(p.of(typeAccountGrant), func(r *Resource) bool {
			return r.text("member") == member && r.text("role") == "roles/iam.serviceAccountOpenIdTokenCreator" && strings.HasSuffix(r.text("service_account_id"), "/"+strings.TrimPrefix(member, "serviceAccount:"))
		}) {
			bad(admin.Address, "%s may make no token of itself, so that it cannot sign: grant it roles/iam.serviceAccountOpenIdTokenCreator on itself", member)
		}
	}
}

// What jobs have no smaller resource for than the project: Google's roles, and the services of a role of one's own.
// roles/dataflow.worker is not among them, since it reads and makes objects in every bucket.
var (
	jobRoles    = []string{"roles/bigquery.jobUser", "roles/bigquery.readSessionUser"}
	jobServices = []string{"autoscaling", "compute", "dataflow", "logging", "monitoring"}
)

// copiedSources begins the name of the bucket that Cloud Functions copies an archive to before it is built.
const copiedSources = "projects/_/buckets/gcf-v2-sources-"

// checkBuilds sees that a build reads the copy of its source. It does so by its own account, and the copy is in a bucket that is not
// there before the first function: https://github.com/hashicorp/terraform-provider-google/issues/20571 is what happens else.
func checkBuilds(p *Plan, bad report) {
	reads := map[string]bool{}
	for _, r := range p.of(typeProjectGrant) {
		if r.text("role") != "roles/storage.objectViewer" {
			continue
		}
		if strings.Contains(r.text("condition.0.expression"), copiedSources) {
			reads[r.text("member")] = true
		} else {
			bad(r.Address, "%s may read every bucket of the project: grant it on the buckets that are meant, or add a condition on resource.name", r.text("member"))
		}
	}
	for _, r := range p.of(typeFunction) {
		account := r.text("build_config.0.service_account")
		if member := "serviceAccount:" + account[strings.LastIndexByte(account, '/')+1:]; account != "" && !reads[member] {
			bad(r.Address, "its build may not read the copy of its source and is refused: grant %s roles/storage.objectViewer on the project, with a condition that resource.name starts with %s", member, copiedSources)
		}
	}
}

// runners lists the members that worker pools run as.
func runners(p *Plan) []string {
	var members []string
	for _, r := range p.of(typePool) {
		if member := "serviceAccount:" + r.text("template.0.service_account"); !slices.Contains(members, member) {
			members = append(members, member)
		}
	}
	return members
}

// rotators lists the members that services run as which rotate keys.
func rotators(p *Plan) []string {
	var members []string
	for _, r := range p.of(typeService) {
		if variable(r, "PENSTOCK_ROTATION_SECRETS") != "" {
			members = append(members, "serviceAccount:"+r.text("template.0.service_account"))
		}
	}
	return members
}

// findRole finds the custom role of the plan that a grant names, or nil.
func findRole(p *Plan, name string) *Resource {
	for _, r := range p.of(typeCustomRole) {
		if strings.HasSuffix(name, "/roles/"+r.text("role_id")) {
			return r
		}
	}
	return nil
}

// pipelineAccounts lists the accounts that the files name.
func pipelineAccounts(p *Plan) []string {
	var accounts []string
	for _, of := range p.Pipelines {
		for _, step := range of.Steps {
			if account, _ := step.Dataflow.Environment["serviceAccountEmail"].(string); account != "" && !slices.Contains(accounts, account) {
				accounts = append(accounts, account)
			}
		}
	}
	return accounts
}

func checkScaler(p *Plan, bad report) {
	for _, pool := range p.of(typePool) {
		if variable(pool, "PENSTOCK_VERSIONING") != "pinned" {
			continue // a fixed pool is nobody's to resize
		}
		var invoker string
		for _, r := range p.of(typePoolGrant) {
			if r.text("name") != pool.text("name") {
				continue
			}
			role := findRole(p, r.text("role"))
			if role == nil {
				bad(r.Address, "%s is more than reading and resizing: grant a role of run.workerpools.get and run.workerpools.update", r.text("role"))
				continue
			}
			permissions := texts(role.get("permissions"))
			slices.Sort(permissions)
			if !slices.Equal(permissions, []string{"run.workerpools.get", "run.workerpools.update"}) {
				bad(role.Address, "it has %s: it needs run.workerpools.get and run.workerpools.update, and no more; with get alone a pool is found valid and never scales", strings.Join(permissions, ", "))
			}
			invoker = r.text("member")
		}
		if invoker == "" {
			bad(pool.Address, "nobody may resize it: grant the invoker the scaler's role on it")
			continue
		}
		if !slices.ContainsFunc(p.of(typeAccountGrant), func(r *Resource) bool {
			return r.text("member") == invoker && r.text("role") == "roles/iam.serviceAccountUser" && strings.HasSuffix(r.text("service_account_id"), "/"+pool.text("template.0.service_account"))
		}) {
			bad(pool.Address, "%s may not act as the account that the pool runs as, so each resize is refused: grant it roles/iam.serviceAccountUser there", invoker)
		}
		if !slices.ContainsFunc(p.of(typeAccountGrant), func(r *Resource) bool {
			return r.text("role") == "roles/iam.serviceAccountTokenCreator" && strings.HasSuffix("serviceAccount:"+r.text("service_account_id"), "/"+strings.TrimPrefix(invoker, "serviceAccount:"))
		}) {
			bad(pool.Address, "Temporal may not act as %s: grant its identities roles/iam.serviceAccountTokenCreator there", invoker)
		}
	}
}

func checkRotator(p *Plan, bad report) {
	needed := []string{"secretmanager.versions.access", "secretmanager.versions.add", "secretmanager.versions.disable", "secretmanager.versions.list"}
	for _, service := range p.of(typeService) {
		of := variable(service, "PENSTOCK_ROTATION_SECRETS")
		if of == "" {
			continue
		}
		member := "serviceAccount:" + service.text("template.0.service_account")
		for _, r := range p.of(typeProjectGrant) {
			if r.text("member") == member {
				bad(r.Address, "the rotator has %s on the whole project: grant it its role on the secrets that it rotates", r.text("role"))
			}
		}
		var secrets []struct {
			Secret string `json:"secret"`
		}
		if err := json.Unmarshal([]byte(of), &secrets); err != nil {
			bad(service.Address, "PENSTOCK_ROTATION_SECRETS is no list of secrets (%v)", err)
		}
		rotated := map[string]bool{}
		for _, s := range secrets {
			rotated[s.Secret[strings.LastIndexByte(s.Secret, '/')+1:]] = false
		}
		for _, r := range p.of(typeSecretGrant) {
			if r.text("member") != member {
				continue
			}
			secret := r.text("secret_id")
			if _, ok := rotated[secret]; !ok {
				bad(r.Address, "the rotator does not rotate %s: remove the grant", secret)
				continue
			}
			role := findRole(p, r.text("role"))
			if role == nil {
				bad(r.Address, "%s is more than a rotator needs: list its permissions in a role", r.text("role"))
				continue
			}
			permissions := texts(role.get("permissions"))
			slices.Sort(permissions)
			if !slices.Equal(permissions, needed) {
				bad(role.Address, "it has %s: a rotator needs %s, and no more", strings.Join(permissions, ", "), strings.Join(needed, ", "))
			}
			rotated[secret] = true
		}
		for _, secret := range slices.Sorted(maps.Keys(rotated)) {
			if !rotated[secret] {
				bad(service.Address, "it may not rotate %s: grant %s its role there", secret, member)
			}
		}
	}
}
