provider "google" {
  project = var.project_id
  region  = "us-central1"
}

# The bucket is given when it is initialised: terraform init -backend-config=bucket=NAME
terraform {
  backend "gcs" {
    prefix = "penstock/prod"
  }
}
