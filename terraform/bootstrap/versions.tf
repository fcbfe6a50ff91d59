terraform {
  required_version = ">= 1.11"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 7.45, < 8"
    }
  }

  backend "gcs" {} # where it lies is said by scripts/bootstrap
}

provider "google" {
  project = var.project_id
  region  = var.region
}
