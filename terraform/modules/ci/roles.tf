# What the two accounts may do. The planner reads. The deployer is to be trusted like an owner of the project: a deployment makes accounts,
# roles and grants, and whoever may make them can give itself more by a detour (roles/iam.serviceAccountAdmin lets it act as any account,
# roles/iam.roleAdmin change a role that it has, roles/storage.admin read and write Terraform's state). That it is granted no account of the
# project, and may grant listed roles alone, keeps a mistake small and shows an intent in the audit log; it stops nobody. What stops others
# is who may become the deployer: the branch, and the approval of each deployment.
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

# It grants what a deployment grants, and nothing by accident.
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

# Secrets are made and granted by a deployment, which has no need to read them all. scripts/deploy asks whether one has a version.
resource "google_project_iam_custom_role" "secrets" {
  project     = var.project.id
  role_id     = "penstock_${var.deployment}_secrets"
  title       = "Penstock ${var.deployment}: secrets without their values"
  description = "Make, change and grant secrets, and list their versions; neither add nor read versions."

  permissions = [
    "secretmanager.secrets.create",
    "secretmanager.secrets.delete",
    "secretmanager.secrets.get",
    "secretmanager.secrets.getIamPolicy",
    "secretmanager.secrets.list",
    "secretmanager.secrets.setIamPolicy",
    "secretmanager.secrets.update",
    "secretmanager.versions.list",
  ]
}

resource "google_project_iam_member" "deployer_secrets" {
  project = var.project.id
  role    = "projects/${var.project.id}/roles/${google_project_iam_custom_role.secrets.role_id}"
  member  = google_service_account.deployer.member
}

# Whoever changes a dataset's policy changes the dataset, and whoever plans reads it; no role of Google's does that and no more.
resource "google_project_iam_custom_role" "datasets" {
  for_each = local.datasets

  project     = var.project.id
  role_id     = "penstock_${var.deployment}_datasets_${each.key}"
  title       = "Penstock ${var.deployment}: datasets' policies, for the ${each.key}"
  description = each.value.description
  permissions = each.value.permissions
}

resource "google_project_iam_member" "datasets" {
  for_each = local.datasets

  project = var.project.id
  role    = "projects/${var.project.id}/roles/${google_project_iam_custom_role.datasets[each.key].role_id}"
  member  = each.value.member
}

locals {
  datasets = {
    planner = {
      description = "Read who may reach a dataset."
      permissions = ["bigquery.datasets.get", "bigquery.datasets.getIamPolicy"]
      member      = google_service_account.planner.member
    }
    deployer = {
      description = "Say who may reach a dataset; neither make one nor read its tables."
      permissions = ["bigquery.datasets.get", "bigquery.datasets.getIamPolicy", "bigquery.datasets.setIamPolicy", "bigquery.datasets.update"]
      member      = google_service_account.deployer.member
    }
  }
}

# cosign signs as whoever it has a token of: the deployer makes one of itself.
resource "google_service_account_iam_member" "signer" {
  service_account_id = "projects/${var.project.id}/serviceAccounts/${google_service_account.deployer.email}"
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = google_service_account.deployer.member
}
