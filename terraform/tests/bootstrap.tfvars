# What scripts/test-terraform plans terraform/bootstrap with.
project_id     = "acme-data"
project_number = "123456789012"
region         = "us-central1"
deployment     = "prod"
state_bucket   = "acme-data-terraform-state"
github         = "acme/pipelines"
repository     = "projects/acme-data/locations/us-central1/connections/github/repositories/acme-pipelines"
github_id      = "123456789"
