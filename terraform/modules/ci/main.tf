# Who builds and deploys, and when. Two accounts: a pull request's plan reads, a deployment writes.
locals {
  name = "penstock-${var.deployment}"
}

resource "google_service_account" "planner" {
  project      = var.project.id
  account_id   = "${local.name}-planner"
  display_name = "Penstock ${var.deployment}: plans pull requests"
}

resource "google_service_account" "deployer" {
  project      = var.project.id
  account_id   = "${local.name}-deployer"
  display_name = "Penstock ${var.deployment}: deploys"
}

resource "google_artifact_registry_repository" "images" {
  project         = var.project.id
  location        = var.region
  repository_id   = "${local.name}-images"
  format          = "DOCKER"
  description     = "The worker's images, by digest"
  labels          = var.labels
  deletion_policy = "PREVENT" # what a rollback needs

  docker_config {
    immutable_tags = true
  }

  vulnerability_scanning_config {
    enablement_config = "INHERITED"
  }
}

resource "google_artifact_registry_repository_iam_member" "deployer" {
  project    = var.project.id
  location   = google_artifact_registry_repository.images.location
  repository = google_artifact_registry_repository.images.repository_id
  role       = "roles/artifactregistry.writer"
  member     = google_service_account.deployer.member
}

resource "google_storage_bucket_iam_member" "state" {
  for_each = {
    planner  = { role = "roles/storage.objectViewer", member = google_service_account.planner.member }
    deployer = { role = "roles/storage.objectUser", member = google_service_account.deployer.member }
  }

  bucket = var.state_bucket
  role   = each.value.role
  member = each.value.member
}

resource "google_cloudbuild_trigger" "plan" {
  count = var.source_repository == null ? 0 : 1

  project            = var.project.id
  location           = var.region
  name               = "${local.name}-plan"
  description        = "Check a pull request, and say what it would change"
  filename           = var.build_file
  service_account    = google_service_account.planner.id
  include_build_logs = "INCLUDE_BUILD_LOGS_WITH_STATUS"
  substitutions      = merge(local.substitutions, { _ACTION = "plan" })
  tags               = [local.name]

  repository_event_config {
    repository = var.source_repository.name

    pull_request {
      branch          = "^${var.source_repository.branch}$"
      comment_control = "COMMENTS_ENABLED_FOR_EXTERNAL_CONTRIBUTORS_ONLY"
    }
  }
}

resource "google_cloudbuild_trigger" "apply" {
  count = var.source_repository == null ? 0 : 1

  project            = var.project.id
  location           = var.region
  name               = "${local.name}-apply"
  description        = "Build and deploy what was merged"
  filename           = var.build_file
  service_account    = google_service_account.deployer.id
  include_build_logs = "INCLUDE_BUILD_LOGS_WITH_STATUS"
  substitutions      = merge(local.substitutions, { _ACTION = "apply" })
  tags               = [local.name]

  repository_event_config {
    repository = var.source_repository.name

    push {
      branch = "^${var.source_repository.branch}$"
    }
  }

  approval_config {
    approval_required = var.approval
  }
}

locals {
  images = "${var.region}-docker.pkg.dev/${var.project.id}/${google_artifact_registry_repository.images.repository_id}"

  substitutions = merge(var.substitutions, {
    _DEPLOYMENT   = var.deployment
    _IMAGES       = local.images
    _REGION       = var.region
    _STATE_BUCKET = var.state_bucket
  })
}
