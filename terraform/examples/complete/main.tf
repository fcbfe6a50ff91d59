# Everything that can be set: serverless workers, a network with a known address, continuous deployment, callers from outside Google
# Cloud, budgets and alerts.
locals {
  project    = { id = var.project_id, number = var.project_number }
  region     = "us-central1"
  deployment = "prod"
  labels     = { team = "data-platform", cost-centre = "4711" }

  # What modules beside Penstock's root get: the labels that it gives its own.
  all_labels = merge(local.labels, { penstock_deployment = local.deployment, managed_by = "terraform" })
}

# What the modules beside Penstock's root need: it switches on the others, and takes from these two modules what they make.
resource "google_project_service" "before" {
  for_each = toset([
    "artifactregistry.googleapis.com",
    "cloudbuild.googleapis.com",
    "cloudresourcemanager.googleapis.com",
    "compute.googleapis.com",
    "iam.googleapis.com",
  ])

  project            = var.project_id
  service            = each.value
  disable_on_destroy = false
}

module "penstock" {
  source = "../.."

  project      = local.project
  region       = local.region
  deployment   = local.deployment
  labels       = local.labels
  pipelines    = "${path.module}/pipelines"
  job_location = "us-east1"
  builds       = var.builds

  functions = {
    archive       = var.functions_archive
    min_instances = 1
    max_instances = 50
  }

  temporal = {
    address   = "us-central1.gcp.api.temporal.io:7233"
    namespace = "pipelines.acme1"
    rotation = {
      first = "2027-01-04T09:00:00Z"
      rotator = {
        image       = var.rotator_image
        owner       = "0123456789abcdef0123456789abcdef" # of the functions' and the worker's key
        cloud_owner = "fedcba9876543210fedcba9876543210" # of the key that makes keys
      }
    }
    controllers = ["serviceAccount:worker-controller@temporal-acme1.iam.gserviceaccount.com"]
  }

  worker = {
    scaling       = "serverless"
    max_instances = 20
    orphans       = "report"
    overdue       = "36h"
  }

  network = module.network.egress

  sources = {
    buckets = { acme-landing = { create = true } }
    topics  = { returns-ready = { create = true } }
  }

  events = {
    campaigns = {
      type = "google.cloud.audit.log.v1.written"
      filters = {
        serviceName = "bigquery.googleapis.com"
        methodName  = "google.cloud.bigquery.v2.DatasetService.InsertDataset"
      }
    }
  }

  access = {
    clicks = { subscriptions = ["projects/acme-data/subscriptions/clicks"] }
    orders = { read_data = ["acme-data.customers"] }
  }
  template_repositories = ["projects/acme-data/locations/us-central1/repositories/templates"]

  operators = ["group:data-platform@example.com"]
  deployers = [module.ci.deployer.member]

  observability = {
    emails = ["data-platform@example.com"]
    slo    = 0.999
    budget = { billing_account = "01ABCD-234567-89EFAB", amount = 500 }
  }
}

module "network" {
  source = "../../modules/network"

  project_id = var.project_id
  region     = local.region
  name       = "penstock-prod"
  cidr       = "10.80.0.0/24"
  internet   = true # Temporal Cloud lets this one address in
  labels     = local.all_labels

  depends_on = [google_project_service.before]
}

# Instead of scripts/bootstrap, which makes the same under the same names, with a state of its own: whoever ran that leaves this module out,
# and names its deployer. What else it does is then to be done by hand, such as Google's service agents: docs/deploy.md has the commands.
module "ci" {
  source = "../../modules/ci"

  project      = local.project
  region       = local.region
  deployment   = local.deployment
  labels       = local.all_labels
  state_bucket = "acme-data-terraform-state"

  source_repository = { name = "projects/acme-data/locations/us-central1/connections/github/repositories/acme-pipelines" }

  depends_on = [google_project_service.before]
}

# Whoever comes from outside Google Cloud comes with a token of their own: GitHub's jobs deploy, a loader on AWS announces returns.
module "federation" {
  source = "../../modules/federation"

  project = local.project
  pool    = "penstock-prod"

  identities = {
    github = {
      oidc      = { issuer = "https://token.actions.githubusercontent.com" }
      mapping   = { "attribute.repository_id" = "assertion.repository_id" } # a name can be registered again by somebody else
      condition = "assertion.repository_id == '123456789' && assertion.ref == 'refs/heads/main' && assertion.event_name != 'pull_request_target'"
    }
    aws = {
      aws       = { account = "123456789012" }
      condition = "attribute.aws_role == 'loader'"
    }
  }

  impersonate = {
    deploy = { account = module.ci.deployer.name, attribute = "repository_id", value = "123456789" }
  }

  publish = {
    returns = { topic = "projects/${var.project_id}/topics/returns-ready", attribute = "aws_role", value = "loader" }
  }
  depends_on = [module.penstock] # which makes the topic
}
