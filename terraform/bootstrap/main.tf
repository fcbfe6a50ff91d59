# Who may deploy, and where images lie: what is there before the first deployment. It has a state of its own, so that no deployment changes
# it by the way. scripts/bootstrap applies it, as a person.
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

moved {
  from = google_service_account_iam_member.signer
  to   = module.ci.google_service_account_iam_member.signer
}

# A GitHub workflow of the one branch of the one repository is the deployer. Pull requests, which anybody may open, are not; what
# pull_request_target starts runs for them with the branch's own name. A name can be registered again by somebody else, an ID cannot.
module "federation" {
  source = "../modules/federation"
  count  = var.github == null ? 0 : 1

  project = local.project
  pool    = "penstock-${var.deployment}-ci"

  identities = {
    github = {
      oidc    = { issuer = "https://token.actions.githubusercontent.com" }
      mapping = { "attribute.repository" = "assertion.repository", "attribute.repository_id" = "assertion.repository_id" }
      condition = join(" && ", concat(var.github_id == null ? [] : ["assertion.repository_id == '${var.github_id}'"], [
        "assertion.repository == '${var.github}'",
        "assertion.ref == 'refs/heads/${var.branch}'",
        "assertion.event_name != 'pull_request_target'",
      ]))
    }
  }

  impersonate = {
    deploy = {
      account   = module.ci.deployer.name
      attribute = var.github_id == null ? "repository" : "repository_id"
      value     = var.github_id == null ? var.github : var.github_id
    }
  }
}
