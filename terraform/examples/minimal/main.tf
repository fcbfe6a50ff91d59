# The least that runs: one pipeline, a Temporal Cloud namespace with an API key, a worker of two instances.
module "penstock" {
  source = "../.."

  project    = { id = var.project_id, number = var.project_number }
  region     = "us-central1"
  deployment = "prod"
  pipelines  = "${path.module}/pipelines"
  functions  = { archive = var.functions_archive }
  builds     = var.builds

  temporal = {
    address   = "us-central1.gcp.api.temporal.io:7233"
    namespace = "pipelines.acme1"
  }
}
