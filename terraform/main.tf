# One deployment of Penstock: what delivers events to it, the functions that take them, the worker that runs pipelines, and who may do what.
# The pipelines files say what there is to deliver and to reach: see pipelines.tf and triggers.tf.

resource "google_project_service" "this" {
  for_each = var.enable_services ? toset([
    "artifactregistry.googleapis.com",
    "bigquery.googleapis.com",
    "billingbudgets.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudfunctions.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "dataflow.googleapis.com",
    "eventarc.googleapis.com",
    "iam.googleapis.com",
    "iamcredentials.googleapis.com",
    "logging.googleapis.com",
    "monitoring.googleapis.com",
    "pubsub.googleapis.com",
    "run.googleapis.com",
    "secretmanager.googleapis.com",
    "storage.googleapis.com",
    "sts.googleapis.com",
  ]) : []

  project            = var.project.id
  service            = each.value
  disable_on_destroy = false # others in the project may need it
}

module "dead_letters" {
  source = "./modules/dead_letters"

  project    = var.project
  name       = "${local.name}-dead-letters"
  labels     = local.labels
  protected  = var.protected
  publishers = { for name, a in google_service_account.function : name => a.member }
  operators  = var.operators

  depends_on = [google_project_service.this]
}

module "temporal_connection" {
  source = "./modules/temporal_connection"

  project    = var.project
  name       = "${local.name}-temporal"
  labels     = local.labels
  protected  = var.protected
  connection = var.temporal
  rotators   = var.temporal.rotators
  rotator    = local.rotator != null
  readers = merge(
    { for name, a in google_service_account.function : name => a.member },
    { worker = google_service_account.worker.member },
    { for m in var.deployers : "deployer ${m}" => m }, # `penstock setup` talks to Temporal
  )

  depends_on = [google_project_service.this]
}

module "rotation" {
  source = "./modules/rotation"
  count  = local.rotator == null ? 0 : 1

  project     = var.project
  region      = var.region
  name        = "${local.name}-rotator"
  labels      = local.labels
  account     = google_service_account.rotator[0].email
  role        = "projects/${var.project.id}/roles/${google_project_iam_custom_role.rotator[0].role_id}"
  push        = google_service_account.push.email
  image       = local.rotator.image
  environment = module.temporal_connection.environment
  key         = { secret = module.temporal_connection.secrets["api-key"].id, owner = local.rotator.owner }
  cloud_key   = { secret = module.temporal_connection.cloud_key, owner = local.rotator.cloud_owner }
  grace       = local.rotator.grace
  retire      = local.rotator.retire
  lifetime    = local.rotator.lifetime
  topic       = module.temporal_connection.rotation_topic
  network     = var.network

  dead_letter_topic = module.dead_letters.topic

  depends_on = [google_service_account_iam_member.push_tokens, google_service_account_iam_member.deployer]
}

# What outlives Temporal's retention: see docs/ledger.md. A retention policy would forbid what the ledger does when a claim expires.
module "ledger" {
  source = "./modules/bucket"

  project_id = var.project.id
  name       = "${var.project.id}-${local.name}-ledger"
  location   = var.region
  labels     = local.labels
  holds_data = true
  protected  = var.protected
  members = merge(
    { worker = { role = "roles/storage.objectUser", member = google_service_account.worker.member } },
    { for m in var.operators : m => { role = "roles/storage.objectViewer", member = m } },
  )

  depends_on = [google_project_service.this]
}

module "staging" {
  source = "./modules/bucket"

  project_id = var.project.id
  name       = "${var.project.id}-${local.name}-source"
  location   = var.region
  labels     = local.labels
  holds_data = false
  members    = { build = { role = "roles/storage.objectViewer", member = google_service_account.build.member } }

  depends_on = [google_project_service.this]
}

resource "google_storage_bucket_object" "functions" {
  bucket = module.staging.name
  name   = "functions-${filesha256(var.functions.archive)}.zip"
  source = var.functions.archive
}

resource "google_artifact_registry_repository" "functions" {
  project       = var.project.id
  location      = var.region
  repository_id = "${local.name}-functions"
  format        = "DOCKER"
  description   = "The functions' images, which Cloud Functions builds"
  labels        = local.labels

  # Of each function, what a rollback may want.
  cleanup_policies {
    id     = "keep-newest"
    action = "KEEP"

    most_recent_versions {
      keep_count = 5
    }
  }
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"

    condition {
      older_than = "2592000s"
    }
  }

  depends_on = [google_project_service.this]
}

module "worker" {
  source = "./modules/worker"

  project_id      = var.project.id
  region          = var.region
  name            = "${local.name}-worker"
  labels          = local.labels
  scaling         = var.worker.scaling
  instances       = var.worker.instances
  builds          = var.builds
  deployment_name = local.name
  resources       = { cpu = var.worker.cpu, memory = var.worker.memory }
  environment = merge(
    module.temporal_connection.environment,
    {
      GOOGLE_CLOUD_PROJECT = var.project.id
      PENSTOCK_DEPLOYMENT  = var.deployment
      PENSTOCK_LEDGER      = "gs://${module.ledger.name}/ledger"
      PENSTOCK_LOCATION    = local.job_location
    },
    { for k, v in {
      PENSTOCK_ORPHANS        = var.worker.orphans
      PENSTOCK_OVERDUE        = var.worker.overdue
      PENSTOCK_ORPHAN_RECHECK = var.worker.orphan_recheck
    } : k => v if v != null },
  )
  runner = {
    email = google_service_account.worker.email
    id    = local.deployed_accounts["worker"]
  }
  invoker = local.resized ? {
    email     = google_service_account.invoker[0].email
    id        = "${local.accounts}/${google_service_account.invoker[0].email}"
    role      = "projects/${var.project.id}/roles/${google_project_iam_custom_role.scaler[0].role_id}"
    callers   = var.temporal.controllers
    max_count = var.worker.max_instances
  } : null
  secrets = module.temporal_connection.secrets
  network = var.network

  depends_on = [google_project_iam_member.worker, google_service_account_iam_member.deployer]
}

module "observability" {
  source = "./modules/observability"
  count  = var.observability == null ? 0 : 1

  project       = var.project
  name          = local.name
  deployment    = var.deployment
  labels        = local.labels
  emails        = var.observability.emails
  channels      = var.observability.channels
  slo           = var.observability.slo
  budget        = var.observability.budget
  thresholds    = var.observability.thresholds
  functions     = [for name, f in local.entry_points : "${local.name}-${f.slug}"]
  subscriptions = flatten([for t in module.trigger : values(t.subscription_ids)])
  dead_letters  = "${local.name}-dead-letters"
  rotator       = local.rotator == null ? null : { name = "${local.name}-rotator", retire = local.rotator_retire }

  depends_on = [google_project_service.this, module.trigger]
}
