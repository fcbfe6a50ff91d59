# The validations of the modules that are used by themselves.
mock_provider "google" {}

variables {
  project    = { id = "acme-data", number = "123456789012" }
  project_id = "acme-data"
  region     = "us-central1"
  name       = "penstock-prod"
  labels     = { penstock_deployment = "prod", managed_by = "terraform" }
  deployment = "prod"

  pool       = "penstock-prod"
  identities = {}

  state_bucket = "acme-state"
}

run "a_subnetwork_too_small" {
  command = plan

  module {
    source = "./modules/network"
  }

  variables {
    cidr = "10.0.0.0/28"
  }

  expect_failures = [var.cidr]
}

run "a_pool_of_google_s" {
  command = plan

  module {
    source = "./modules/federation"
  }

  variables {
    pool = "gcp-pool"
  }

  expect_failures = [var.pool]
}

run "an_identity_of_two_kinds" {
  command = plan

  module {
    source = "./modules/federation"
  }

  variables {
    identities = { a = { oidc = { issuer = "https://issuer.example.com" }, aws = { account = "123456789012" }, condition = "assertion.repository == 'acme/pipelines'" } }
  }

  expect_failures = [var.identities]
}

run "everybody_whom_an_issuer_knows" {
  command = plan

  module {
    source = "./modules/federation"
  }

  variables {
    identities = { a = { oidc = { issuer = "https://issuer.example.com" }, condition = "true" } }
  }

  expect_failures = [var.identities]
}

run "an_issuer_in_the_clear" {
  command = plan

  module {
    source = "./modules/federation"
  }

  variables {
    identities = { a = { oidc = { issuer = "http://issuer.example.com" }, condition = "assertion.repository == 'acme/pipelines'" } }
  }

  expect_failures = [var.identities]
}

run "an_aws_account_by_name" {
  command = plan

  module {
    source = "./modules/federation"
  }

  variables {
    identities = { a = { aws = { account = "acme" }, condition = "attribute.aws_role == 'loader'" } }
  }

  expect_failures = [var.identities]
}

run "a_repository_by_address" {
  command = plan

  module {
    source = "./modules/ci"
  }

  variables {
    source_repository = { name = "https://github.com/acme/pipelines" }
  }

  expect_failures = [var.source_repository]
}

run "a_substitution_of_google_s" {
  command = plan

  module {
    source = "./modules/ci"
  }

  variables {
    substitutions = { PROJECT_ID = "other" }
  }

  expect_failures = [var.substitutions]
}

run "a_github_repository_by_name_alone" {
  command = plan

  module {
    source = "./bootstrap"
  }

  variables {
    project_number = "123456789012"
    github         = "acme/pipelines"
    github_id      = "acme/pipelines"
  }

  expect_failures = [var.github_id]
}
