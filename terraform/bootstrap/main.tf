# Who may deploy, and where images lie: what is there before the first deployment, and what no deployment may change, since the
# account that deploys could give itself more. scripts/bootstrap applies it, as a person.
locals {
  project = { id = var.project_id, number = var.project_number }
  labels  = merge(var.labels, { penstock_deployment = var.deployment, managed_by = "terraform" })
}

module "ci" {
  source = "../modules/ci"

  project           = local.project
  region            = var.region
  deployment        = var.deployment
  labels            = local.labels
  state_bucket      = var.state_bucket
  source_repository = var.repository == null ? null : { name = var.repository, branch = var.branch }
  substitutions     = var.canary == null ? {} : { _CANARY = var.canary }
}

# cosign signs as whoever it has a token of: the deployer makes one of itself, and of nobody else.
resource "google_service_account_iam_member" "signer" {
  service_account_id = module.ci.deployer.name
  role               = "roles/iam.serviceAccountOpenIdTokenCreator"
  member             = module.ci.deployer.member
}

# A GitHub workflow of the one branch of the one repository is the deployer. Pull requests, which anybody may open, are not.
module "federation" {
  source = "../modules/federation"
  count  = var.github == null ? 0 : 1

  project = local.project
  pool    = "penstock-${var.deployment}-ci"

  identities = {
    github = {
      oidc      = { issuer = "https://token.actions.githubusercontent.com" }
      mapping   = { "attribute.repository" = "assertion.repository" }
      condition = "assertion.repository == '${var.github}' && assertion.ref == 'refs/heads/${var.branch}'"
    }
  }

  impersonate = {
    deploy = { account = module.ci.deployer.name, attribute = "repository", value = var.github }
  }
}
