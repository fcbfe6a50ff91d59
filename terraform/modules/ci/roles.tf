# What the two accounts may do. Neither may act as any account of the project: the root module lets the deployer act as those that it
# deploys, one by one.
locals {
  planner_roles = [
    "roles/iam.securityReviewer",
    "roles/logging.logWriter",
    "roles/viewer",
  ]

  deployer_roles = [
    "roles/artifactregistry.admin",
    "roles/cloudbuild.builds.editor",
    "roles/cloudfunctions.admin",
    "roles/compute.networkAdmin",
    "roles/compute.securityAdmin",
    "roles/eventarc.admin",
    "roles/iam.roleAdmin",
    "roles/iam.serviceAccountAdmin",
    "roles/iam.workloadIdentityPoolAdmin",
    "roles/logging.configWriter",
    "roles/logging.logWriter",
    "roles/monitoring.editor",
    "roles/pubsub.admin",
    "roles/run.admin",
    "roles/serviceusage.serviceUsageAdmin",
    "roles/storage.admin",
  ]

  # The roles that the root module grants on the project: the only ones that a deployment may grant there.
  granted_roles = [
    "projects/${var.project.id}/roles/penstock_${var.deployment}_job",
    "projects/${var.project.id}/roles/penstock_${var.deployment}_worker",
    "roles/bigquery.jobUser",
    "roles/bigquery.readSessionUser",
    "roles/eventarc.eventReceiver",
    "roles/logging.logWriter",
    "roles/pubsub.publisher",
    "roles/storage.objectViewer",
  ]
}

resource "google_project_iam_member" "planner" {
  for_each = toset(local.planner_roles)

  project = var.project.id
  role    = each.value
  member  = google_service_account.planner.member
}

resource "google_project_iam_member" "deployer" {
  for_each = toset(local.deployer_roles)

  project = var.project.id
  role    = each.value
  member  = google_service_account.deployer.member
}

# Who may grant roles could grant itself all of them, but for this condition.
resource "google_project_iam_member" "deployer_grants" {
  project = var.project.id
  role    = "roles/resourcemanager.projectIamAdmin"
  member  = google_service_account.deployer.member

  condition {
    title       = "only the roles of a deployment"
    description = "The roles that Penstock's Terraform grants on the project"
    expression  = "api.getAttribute('iam.googleapis.com/modifiedGrantsByRole', []).hasOnly([${join(", ", [for r in local.granted_roles : "'${r}'"])}])"
  }
}

# Secrets are made and granted by a deployment, which has no need to read them all.
resource "google_project_iam_custom_role" "secrets" {
  project     = var.project.id
  role_id     = "penstock_${var.deployment}_secrets"
  title       = "Penstock ${var.deployment}: secrets without their values"
  description = "Make, change and grant secrets; neither add nor read versions."

  permissions = [
    "secretmanager.secrets.create",
    "secretmanager.secrets.delete",
    "secretmanager.secrets.get",
    "secretmanager.secrets.getIamPolicy",
    "secretmanager.secrets.list",
    "secretmanager.secrets.setIamPolicy",
    "secretmanager.secrets.update",
  ]
}

resource "google_project_iam_member" "deployer_secrets" {
  project = var.project.id
  role    = "projects/${var.project.id}/roles/${google_project_iam_custom_role.secrets.role_id}"
  member  = google_service_account.deployer.member
}
