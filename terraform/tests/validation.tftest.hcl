# Every mistake that can be told before anything is made is told, by the variable that it is in. One run for each validation and precondition.
mock_provider "google" {}

variables {
  project    = { id = "acme-data", number = "123456789012" }
  region     = "us-central1"
  deployment = "prod"
  pipelines  = "tests/pipelines/workflow"
  functions  = { archive = "tests/functions.zip" }
  temporal   = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1" }
  builds     = { b1 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" } }

  # What these runs are not about.
  enable_services = false
  observability   = null
}

run "a_project_by_number" {
  command = plan

  variables {
    project = { id = "123456789012", number = "123456789012" }
  }

  expect_failures = [var.project]
}

run "a_project_without_its_number" {
  command = plan

  variables {
    project = { id = "acme-data", number = "acme-data" }
  }

  expect_failures = [var.project]
}

run "a_zone_for_a_region" {
  command = plan

  variables {
    region = "us-central1-a"
  }

  expect_failures = [var.region]
}

run "a_deployment_with_a_dash" {
  command = plan

  variables {
    deployment = "prod-eu"
  }

  expect_failures = [var.deployment]
}

run "a_label_in_capitals" {
  command = plan

  variables {
    labels = { Team = "Data" }
  }

  expect_failures = [var.labels]
}

run "a_label_that_is_set_here" {
  command = plan

  variables {
    labels = { penstock_deployment = "other" }
  }

  expect_failures = [var.labels]
}

run "a_folder_without_files" {
  command = plan

  variables {
    pipelines = "tests/empty"
  }

  expect_failures = [var.pipelines]
}

run "jobs_in_a_multi_region" {
  command = plan

  variables {
    job_location = "eu"
  }

  expect_failures = [var.job_location]
}

run "an_archive_that_is_not_there" {
  command = plan

  variables {
    functions = { archive = "tests/none.zip" }
  }

  expect_failures = [var.functions]
}

run "another_language" {
  command = plan

  variables {
    functions = { archive = "tests/functions.zip", runtime = "python313" }
  }

  expect_failures = [var.functions]
}

run "fewer_at_most_than_at_least" {
  command = plan

  variables {
    functions = { archive = "tests/functions.zip", min_instances = 3, max_instances = 2 }
  }

  expect_failures = [var.functions]
}

run "one_event_at_a_time" {
  command = plan

  variables {
    functions = { archive = "tests/functions.zip", concurrency = 1 }
  }

  expect_failures = [var.functions]
}

run "half_a_cpu" {
  command = plan

  variables {
    functions = { archive = "tests/functions.zip", cpu = "0.5" }
  }

  expect_failures = [var.functions]
}

run "ten_seconds_for_an_event" {
  command = plan

  variables {
    functions = { archive = "tests/functions.zip", timeout = 10 }
  }

  expect_failures = [var.functions]
}

run "a_level_that_is_none" {
  command = plan

  variables {
    functions = { archive = "tests/functions.zip", log_level = "loud" }
  }

  expect_failures = [var.functions]
}

run "a_delivery_that_is_none" {
  command = plan

  variables {
    delivery = "pull"
  }

  expect_failures = [var.delivery]
}

run "a_thousand_attempts" {
  command = plan

  variables {
    retry = { attempts = 1000 }
  }

  expect_failures = [var.retry]
}

run "waits_of_an_hour" {
  command = plan

  variables {
    retry = { maximum_backoff = 3600 }
  }

  expect_failures = [var.retry]
}

run "a_deadline_before_the_function_s" {
  command = plan

  variables {
    retry     = { ack_deadline = 60 }
    functions = { archive = "tests/functions.zip", timeout = 120 }
  }

  expect_failures = [var.retry]
}

run "events_kept_for_a_year" {
  command = plan

  variables {
    retry = { retention = 31536000 }
  }

  expect_failures = [var.retry]
}

run "another_project_s_topic_as_a_source" {
  command = plan

  variables {
    sources = { topics = { "projects/elsewhere/topics/ready" = { create = true } } }
  }

  expect_failures = [var.sources]
}

run "an_event_with_a_long_name" {
  command = plan

  variables {
    events = { a-name-of-more-than-twenty = { type = "com.example.done" } }
  }

  expect_failures = [var.events]
}

run "a_filter_for_the_type" {
  command = plan

  variables {
    events = { done = { type = "com.example.done", filters = { type = "com.example.done" } } }
  }

  expect_failures = [var.events]
}

run "an_address_with_a_scheme" {
  command = plan

  variables {
    temporal = { address = "https://temporal.example.com", namespace = "default" }
  }

  expect_failures = [var.temporal]
}

run "no_namespace" {
  command = plan

  variables {
    temporal = { address = "temporal.example.com:7233", namespace = "" }
  }

  expect_failures = [var.temporal]
}

run "a_password" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", authentication = "password" }
  }

  expect_failures = [var.temporal]
}

run "temporal_cloud_without_credentials" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", authentication = "none" }
  }

  expect_failures = [var.temporal]
}

run "rotation_of_a_certificate" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", authentication = "mtls", rotation = { first = "2027-01-04T09:00:00Z" }, rotators = ["group:data-platform@example.com"] }
  }

  expect_failures = [var.temporal]
}

run "rotation_in_days" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", rotation = { first = "2027-01-04T09:00:00Z", period = "90d" }, rotators = ["group:data-platform@example.com"] }
  }

  expect_failures = [var.temporal]
}

run "a_rotation_that_nobody_is_told_of" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", rotation = { first = "2027-01-04T09:00:00Z" } }
  }

  expect_failures = [var.temporal]
}

run "a_rotator_by_tag" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", rotation = { first = "2027-01-04T09:00:00Z", rotator = { image = "us-docker.pkg.dev/acme/rotator:latest", owner = "a", cloud_owner = "b" } } }
  }

  expect_failures = [var.temporal]
}

run "a_key_that_expires_soon_after_its_rotation_is_due" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", rotation = { first = "2027-01-04T09:00:00Z", period = "5184001s", rotator = { image = "us-docker.pkg.dev/acme/rotator@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef", owner = "a", cloud_owner = "b" } } }
  }

  expect_failures = [var.temporal]
}

run "a_key_that_is_deleted_while_it_may_be_in_use" {
  command = plan

  variables {
    temporal = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1", rotation = { first = "2027-01-04T09:00:00Z", rotator = { image = "us-docker.pkg.dev/acme/rotator@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef", owner = "a", cloud_owner = "b", retire = "30m" } } }
  }

  expect_failures = [var.temporal]
}

run "a_scaling_that_is_none" {
  command = plan

  variables {
    worker = { scaling = "automatic" }
  }

  expect_failures = [var.worker]
}

run "a_fixed_pool_of_none" {
  command = plan

  variables {
    worker = { instances = 0 }
  }

  expect_failures = [var.worker]
}

run "serverless_that_nobody_scales" {
  command = plan

  variables {
    worker = { scaling = "serverless" }
  }

  expect_failures = [var.worker]
}

run "orphans_deleted" {
  command = plan

  variables {
    worker = { orphans = "delete" }
  }

  expect_failures = [var.worker]
}

run "overdue_after_two" {
  command = plan

  variables {
    worker = { overdue = "2" }
  }

  expect_failures = [var.worker]
}

run "a_build_in_capitals" {
  command = plan

  variables {
    builds = { V1 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" } }
  }

  expect_failures = [var.builds]
}

run "an_image_by_tag" {
  command = plan

  variables {
    builds = { b1 = { image = "us-docker.pkg.dev/acme/worker:latest" } }
  }

  expect_failures = [var.builds]
}

run "no_build" {
  command = plan

  variables {
    builds = {}
  }

  expect_failures = [var.builds]
}

run "two_builds_in_one_pool" {
  command = plan

  variables {
    builds = { b1 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" }, b2 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" } }
  }

  expect_failures = [var.builds]
}

run "a_serverless_build_that_nobody_scales" {
  command = plan

  variables {
    builds = {
      b1 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef", serverless = true }
      b2 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" }
    }
  }

  expect_failures = [var.builds]
}

run "egress_of_some" {
  command = plan

  variables {
    network = { network = "n", subnetwork = "s", egress = "SOME" }
  }

  expect_failures = [var.network]
}

run "a_dataset_without_its_project" {
  command = plan

  variables {
    access = { orders = { read_data = ["sales"] } }
  }

  expect_failures = [var.access]
}

run "a_topic_by_id" {
  command = plan

  variables {
    access = { orders = { topics = ["ready"] } }
  }

  expect_failures = [var.access]
}

run "a_repository_by_host" {
  command = plan

  variables {
    template_repositories = ["us-docker.pkg.dev/acme/templates"]
  }

  expect_failures = [var.template_repositories]
}

run "everybody_as_operator" {
  command = plan

  variables {
    operators = ["allUsers"]
  }

  expect_failures = [var.operators]
}

run "everybody_as_deployer" {
  command = plan

  variables {
    deployers = ["allAuthenticatedUsers"]
  }

  expect_failures = [var.deployers]
}

run "an_objective_that_is_perfect" {
  command = plan

  variables {
    observability = { slo = 0.99999 }
  }

  expect_failures = [var.observability]
}

run "two_files_of_one_name" {
  command = plan

  variables {
    pipelines = "tests/pipelines/same_name"
  }

  expect_failures = [terraform_data.pipelines]
}

run "jobs_as_the_default_account" {
  command = plan

  variables {
    pipelines = "tests/pipelines/default_account"
  }

  expect_failures = [terraform_data.pipelines]
}

run "an_account_that_is_no_pipeline_s" {
  command = plan

  variables {
    pipelines = "tests/pipelines/bad_account"
  }

  expect_failures = [terraform_data.pipelines]
}

run "two_accounts_in_one_pipeline" {
  command = plan

  variables {
    pipelines = "tests/pipelines/two_accounts"
  }

  expect_failures = [terraform_data.pipelines]
}

run "one_account_for_two_pipelines" {
  command = plan

  variables {
    pipelines = "tests/pipelines/shared"
  }

  expect_failures = [terraform_data.pipelines]
}

run "temporary_files_that_go_anywhere" {
  command = plan

  variables {
    pipelines = "tests/pipelines/no_temporary"
  }

  expect_failures = [terraform_data.pipelines]
}

run "access_of_a_pipeline_that_is_not_there" {
  command = plan

  variables {
    access = { invoices = { read = ["landing"] } }
  }

  expect_failures = [terraform_data.pipelines]
}

run "a_source_that_nothing_is_triggered_by" {
  command = plan

  variables {
    sources = { buckets = { other = { create = true } } }
  }

  expect_failures = [terraform_data.pipelines]
}

run "eventarc_for_another_project_s_topic" {
  command = plan

  variables {
    delivery  = "eventarc"
    pipelines = "tests/pipelines/foreign_topic"
  }

  expect_failures = [terraform_data.pipelines]
}

run "an_event_that_nothing_delivers" {
  command = plan

  variables {
    pipelines = "tests/pipelines/generic"
  }

  expect_failures = [terraform_data.pipelines]
}
