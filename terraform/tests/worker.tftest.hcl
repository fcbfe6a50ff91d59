# The two forms of the worker.
mock_provider "google" {}

variables {
  project_id      = "acme-data"
  region          = "us-central1"
  name            = "penstock-prod-worker"
  labels          = { penstock_deployment = "prod", managed_by = "terraform" }
  instances       = 3
  resources       = { cpu = "1", memory = "1Gi" }
  environment     = { PENSTOCK_DEPLOYMENT = "prod" }
  deployment_name = "penstock-prod"
  runner          = { email = "worker@acme-data.iam.gserviceaccount.com", id = "projects/acme-data/serviceAccounts/worker@acme-data.iam.gserviceaccount.com" }
  secrets         = { api-key = { id = "key", mount_path = "/etc/secrets/temporal-api-key", file = "value" } }
  network         = { network = "n", subnetwork = "s", egress = "PRIVATE_RANGES_ONLY" }
  builds          = { b2 = { image = "acme/worker@sha256:2222" } }
}

run "fixed" {
  command = plan

  module {
    source = "./modules/worker"
  }

  variables {
    scaling = "fixed"
  }

  assert {
    condition     = google_cloud_run_v2_worker_pool.fixed["penstock-prod-worker"].scaling[0].manual_instance_count == 3 && length(google_cloud_run_v2_worker_pool.build) == 0
    error_message = "One pool of as many instances as are asked for."
  }
  assert {
    condition = { for e in google_cloud_run_v2_worker_pool.fixed["penstock-prod-worker"].template[0].containers[0].env : e.name => e.value } == {
      PENSTOCK_DEPLOYMENT      = "prod"
      PENSTOCK_VERSIONING      = "auto-upgrade"
      TEMPORAL_DEPLOYMENT_NAME = "penstock-prod"
      TEMPORAL_WORKER_BUILD_ID = "b2"
    }
    error_message = "Runs move to the newest build."
  }
  assert {
    condition     = google_cloud_run_v2_worker_pool.fixed["penstock-prod-worker"].template[0].vpc_access[0].network_interfaces[0].subnetwork == "s" && google_cloud_run_v2_worker_pool.fixed["penstock-prod-worker"].template[0].volumes[0].secret[0].items[0].version == "latest"
    error_message = "It calls out by the network, and sees the newest version of its secret."
  }
  assert {
    condition     = output.compute == null
    error_message = "Nobody else resizes it."
  }
}

run "serverless" {
  command = plan

  module {
    source = "./modules/worker"
  }

  variables {
    scaling = "serverless"
    builds  = { b1 = { image = "acme/worker@sha256:1111" }, b2 = { image = "acme/worker@sha256:2222" } }
    invoker = {
      email     = "invoker@acme-data.iam.gserviceaccount.com"
      id        = "projects/acme-data/serviceAccounts/invoker@acme-data.iam.gserviceaccount.com"
      role      = "projects/acme-data/roles/scaler"
      callers   = ["serviceAccount:controller@temporal.iam.gserviceaccount.com"]
      max_count = 10
    }
  }

  assert {
    condition     = { for id, p in google_cloud_run_v2_worker_pool.build : id => "${p.name} ${p.template[0].containers[0].image}" } == { b1 = "penstock-prod-worker-b1 acme/worker@sha256:1111", b2 = "penstock-prod-worker-b2 acme/worker@sha256:2222" }
    error_message = "Each build has a pool of its own, which keeps its image."
  }
  assert {
    condition     = { for e in google_cloud_run_v2_worker_pool.build["b1"].template[0].containers[0].env : e.name => e.value }["PENSTOCK_VERSIONING"] == "pinned" && { for e in google_cloud_run_v2_worker_pool.build["b1"].template[0].containers[0].env : e.name => e.value }["TEMPORAL_WORKER_BUILD_ID"] == "b1"
    error_message = "Runs end on the build that they began on."
  }
  assert {
    condition     = alltrue([for p in google_cloud_run_v2_worker_pool.build : p.scaling[0].manual_instance_count == 0])
    error_message = "Nothing runs until Temporal asks for it."
  }
  assert {
    condition     = alltrue([for g in google_cloud_run_v2_worker_pool_iam_member.invoker : g.role == "projects/acme-data/roles/scaler" && g.member == "serviceAccount:invoker@acme-data.iam.gserviceaccount.com"]) && length(google_cloud_run_v2_worker_pool_iam_member.invoker) == 2
    error_message = "The invoker resizes each pool."
  }
  assert {
    condition     = google_service_account_iam_member.invoker_acts_as_runner[0].service_account_id == "projects/acme-data/serviceAccounts/worker@acme-data.iam.gserviceaccount.com"
    error_message = "The invoker acts as the account that the pools run as."
  }
  assert {
    condition     = output.compute["b1"] == { project = "acme-data", region = "us-central1", worker_pool = "penstock-prod-worker-b1", service_account = "invoker@acme-data.iam.gserviceaccount.com", max_count = 10 }
    error_message = "What Temporal is told: ${jsonencode(output.compute)}"
  }
}

# Runs are pinned to b1 from when the worker was serverless; b2 is fixed.
run "fixed_after_serverless" {
  command = plan

  module {
    source = "./modules/worker"
  }

  variables {
    scaling = "fixed"
    builds  = { b1 = { image = "acme/worker@sha256:1111", serverless = true }, b2 = { image = "acme/worker@sha256:2222" } }
    invoker = {
      email     = "invoker@acme-data.iam.gserviceaccount.com"
      id        = "projects/acme-data/serviceAccounts/invoker@acme-data.iam.gserviceaccount.com"
      role      = "projects/acme-data/roles/scaler"
      callers   = ["serviceAccount:controller@temporal.iam.gserviceaccount.com"]
      max_count = 10
    }
  }

  assert {
    condition     = output.pools == { b1 = "penstock-prod-worker-b1", b2 = "penstock-prod-worker" } && keys(output.compute) == ["b1"]
    error_message = "The old build keeps its pool beside the new one's: ${jsonencode(output.pools)}"
  }
  assert {
    condition = (
      { for e in google_cloud_run_v2_worker_pool.build["b1"].template[0].containers[0].env : e.name => e.value }["PENSTOCK_VERSIONING"] == "pinned" &&
      { for e in google_cloud_run_v2_worker_pool.fixed["penstock-prod-worker"].template[0].containers[0].env : e.name => e.value }["PENSTOCK_VERSIONING"] == "auto-upgrade"
    )
    error_message = "Each goes on as it was."
  }
  assert {
    condition     = length(google_cloud_run_v2_worker_pool_iam_member.invoker) == 1 && length(google_service_account_iam_member.invoker_acts_as_runner) == 1 && length(google_service_account_iam_member.temporal_acts_as_invoker) == 1
    error_message = "Temporal resizes the old pool still."
  }
}
