locals {
  name   = "penstock-${var.deployment}"
  labels = merge(var.labels, { penstock_deployment = var.deployment, managed_by = "terraform" })

  rotator = try(var.temporal.rotation.rotator, null)

  # Also beside a fixed worker, as long as runs are pinned to what was serverless before.
  resized = var.worker.scaling == "serverless" || anytrue([for b in var.builds : b.serverless])
}

# Who is who: each part has an account of its own, with the rights that it needs, on the resources that it needs them for. None has a key.
resource "google_service_account" "function" {
  for_each = local.entry_points

  project      = var.project.id
  account_id   = "${local.name}-${each.value.slug}"
  display_name = "Penstock ${var.deployment}: ${each.key}"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "push" {
  project      = var.project.id
  account_id   = "${local.name}-push"
  display_name = "Penstock ${var.deployment}: what deliveries come as"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "build" {
  project      = var.project.id
  account_id   = "${local.name}-build"
  display_name = "Penstock ${var.deployment}: builds the functions"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "worker" {
  project      = var.project.id
  account_id   = "${local.name}-worker"
  display_name = "Penstock ${var.deployment}: the worker"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "rotator" {
  count = local.rotator == null ? 0 : 1

  project      = var.project.id
  account_id   = "${local.name}-rotator"
  display_name = "Penstock ${var.deployment}: rotates Temporal API keys"

  depends_on = [google_project_service.this]
}

resource "google_service_account" "invoker" {
  count = local.resized ? 1 : 0

  project      = var.project.id
  account_id   = "${local.name}-invoker"
  display_name = "Penstock ${var.deployment}: what Temporal resizes the worker pools as"

  depends_on = [google_project_service.this]
}

# Pub/Sub signs the tokens of pushes as the push identity.
resource "google_service_account_iam_member" "push_tokens" {
  service_account_id = local.deployed_accounts["push"]
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

# Operators redrive dead letters with such a token. It opens nothing but the functions.
resource "google_service_account_iam_member" "operator_tokens" {
  for_each = toset(var.operators)

  service_account_id = local.deployed_accounts["push"]
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = each.value
}

# Eventarc's roles have no resource smaller than the project.
resource "google_project_iam_member" "eventarc" {
  count = anytrue([for f in local.entry_points : length(f.eventarc) > 0]) ? 1 : 0

  project = var.project.id
  role    = "roles/eventarc.eventReceiver"
  member  = google_service_account.push.member
}

# Eventarc makes topics of its own for buckets, whose names nobody knows before.
resource "google_project_iam_member" "storage_events" {
  count = var.delivery == "eventarc" && length(local.buckets) > 0 ? 1 : 0

  project = var.project.id
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:service-${var.project.number}@gs-project-accounts.iam.gserviceaccount.com"
}

# The build writes its log, reads the source and keeps the image.
resource "google_project_iam_member" "build" {
  project = var.project.id
  role    = "roles/logging.logWriter"
  member  = google_service_account.build.member
}

# Cloud Functions copies the archive to a bucket of its own, where the build reads it. It makes that bucket with the region's first function, so
# that the grant cannot be on it.
resource "google_project_iam_member" "build_source" {
  project = var.project.id
  role    = "roles/storage.objectViewer"
  member  = google_service_account.build.member

  condition {
    title       = "only the functions' sources"
    description = "The bucket that Cloud Functions copies sources to"
    expression  = "resource.name == '${local.functions_bucket}' || resource.name.startsWith('${local.functions_bucket}/')"
  }
}

resource "google_artifact_registry_repository_iam_member" "build" {
  project    = var.project.id
  location   = google_artifact_registry_repository.functions.location
  repository = google_artifact_registry_repository.functions.repository_id
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.build.member
}

# Exactly what the worker asks of Dataflow.
resource "google_project_iam_custom_role" "worker" {
  project     = var.project.id
  role_id     = "penstock_${var.deployment}_worker"
  title       = "Penstock ${var.deployment}: worker"
  description = "Launch, find, watch, cancel and drain Dataflow jobs."

  permissions = [
    "dataflow.jobs.cancel",
    "dataflow.jobs.create",
    "dataflow.jobs.get",
    "dataflow.jobs.list",
    "dataflow.jobs.updateContents",
    "dataflow.messages.list",
    "dataflow.metrics.get",
  ]

  depends_on = [google_project_service.this]
}

resource "google_project_iam_member" "worker" {
  project = var.project.id
  role    = "projects/${var.project.id}/roles/${google_project_iam_custom_role.worker.role_id}"
  member  = google_service_account.worker.member
}

resource "google_storage_bucket_iam_member" "templates" {
  for_each = toset(local.template_buckets)

  bucket = each.value
  role   = "roles/storage.objectViewer"
  member = google_service_account.worker.member

  depends_on = [module.source_bucket] # it may be made here
}

# roles/dataflow.worker without its storage: that role reads and makes objects in every bucket of the project, those of other pipelines,
# of the ledger and of Terraform's state among them. Storage is granted on buckets, by modules/pipeline.
# https://cloud.google.com/iam/docs/roles-permissions/dataflow#dataflow.worker has the list; Dataflow's documentation allows for a role of one's own.
resource "google_project_iam_custom_role" "job" {
  project     = var.project.id
  role_id     = "penstock_${var.deployment}_job"
  title       = "Penstock ${var.deployment}: job"
  description = "What the machines of a Dataflow job do, but for storage."

  permissions = [
    "autoscaling.sites.readRecommendations",
    "autoscaling.sites.writeMetrics",
    "autoscaling.sites.writeState",
    "compute.instanceGroupManagers.update",
    "compute.instances.delete",
    "compute.instances.setDiskAutoDelete",
    "dataflow.jobs.get",
    "dataflow.shuffle.read",
    "dataflow.shuffle.write",
    "dataflow.streamingWorkItems.ImportState",
    "dataflow.streamingWorkItems.commitWork",
    "dataflow.streamingWorkItems.getData",
    "dataflow.streamingWorkItems.getWork",
    "dataflow.streamingWorkItems.getWorkerMetadata",
    "dataflow.workItems.lease",
    "dataflow.workItems.sendMessage",
    "dataflow.workItems.update",
    "logging.logEntries.create",
    "monitoring.timeSeries.create",
  ]

  depends_on = [google_project_service.this]
}

# What Temporal's worker controller does to a pool, granted on each pool.
resource "google_project_iam_custom_role" "scaler" {
  count = local.resized ? 1 : 0

  project     = var.project.id
  role_id     = "penstock_${var.deployment}_scaler"
  title       = "Penstock ${var.deployment}: scaler"
  description = "Read a worker pool and set its number of instances."
  permissions = ["run.workerpools.get", "run.workerpools.update"]

  depends_on = [google_project_service.this]
}

# What the rotator does to its two secrets, granted on each. It destroys nothing: a version that was disabled by mistake can be enabled again.
resource "google_project_iam_custom_role" "rotator" {
  count = local.rotator == null ? 0 : 1

  project     = var.project.id
  role_id     = "penstock_${var.deployment}_rotator"
  title       = "Penstock ${var.deployment}: rotator"
  description = "List, read, add and disable versions of secrets."

  permissions = [
    "secretmanager.versions.access",
    "secretmanager.versions.add",
    "secretmanager.versions.disable",
    "secretmanager.versions.list",
  ]

  depends_on = [google_project_service.this]
}

# Whoever deploys makes things run as these accounts: on the accounts, not on the project.
resource "google_service_account_iam_member" "deployer" {
  for_each = {
    for pair in setproduct(var.deployers, concat([for name in keys(local.entry_points) : name], ["push", "build", "worker"], local.rotator == null ? [] : ["rotator"])) :
    "${pair[0]} ${pair[1]}" => { member = pair[0], account = pair[1] }
  }

  service_account_id = local.deployed_accounts[each.value.account]
  role               = "roles/iam.serviceAccountUser"
  member             = each.value.member
}

locals {
  # In seconds: for so long a notice is delivered again and again, as a rotation is not over before.
  rotator_retire = try(tonumber(regex("^([0-9]+)[mh]$", coalesce(local.rotator.retire, "1h"))[0]) * (endswith(coalesce(local.rotator.retire, "1h"), "h") ? 3600 : 60), 3600)

  # https://cloud.google.com/functions/docs/building
  functions_bucket = "projects/_/buckets/gcf-v2-sources-${var.project.number}-${var.region}"

  # Full names are written out, so that a plan says them and can be checked: Google's own are known after the apply only.
  accounts = "projects/${var.project.id}/serviceAccounts"

  deployed_accounts = merge(
    { for name, a in google_service_account.function : name => "${local.accounts}/${a.email}" },
    {
      push   = "${local.accounts}/${google_service_account.push.email}"
      build  = "${local.accounts}/${google_service_account.build.email}"
      worker = "${local.accounts}/${google_service_account.worker.email}"
    },
    { for a in google_service_account.rotator : "rotator" => "${local.accounts}/${a.email}" },
  )
}
