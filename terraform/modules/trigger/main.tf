# One entry point: the function, and all that delivers events to it.
resource "google_cloudfunctions2_function" "this" {
  project     = var.project.id
  location    = var.region
  name        = var.name
  description = "Penstock ${var.deployment}: ${var.entry_point}"
  labels      = var.labels

  build_config {
    runtime           = var.build.runtime
    entry_point       = var.entry_point
    service_account   = var.build.account
    docker_repository = var.build.repository

    source {
      storage_source {
        bucket = var.source_archive.bucket
        object = var.source_archive.object
      }
    }
  }

  service_config {
    service_account_email            = var.runtime.account
    min_instance_count               = var.runtime.min_instances
    max_instance_count               = var.runtime.max_instances
    max_instance_request_concurrency = var.runtime.concurrency
    available_cpu                    = var.runtime.cpu
    available_memory                 = var.runtime.memory
    timeout_seconds                  = var.runtime.timeout
    ingress_settings                 = "ALLOW_INTERNAL_ONLY"
    all_traffic_on_latest_revision   = true
    environment_variables            = merge(var.environment, { PENSTOCK_DEAD_LETTER_TOPIC = var.dead_letter_topic, LOG_EXECUTION_ID = "true" })
    direct_vpc_egress                = var.network == null ? null : "VPC_EGRESS_${var.network.egress}"

    dynamic "direct_vpc_network_interface" {
      for_each = var.network[*]

      content {
        network    = direct_vpc_network_interface.value.network
        subnetwork = direct_vpc_network_interface.value.subnetwork
        tags       = direct_vpc_network_interface.value.tags
      }
    }

    # A file, not a variable: what is mounted is read anew, so that rotated credentials are in force without a deployment.
    dynamic "secret_volumes" {
      for_each = var.secrets

      content {
        project_id = var.project.id
        secret     = secret_volumes.value.id
        mount_path = secret_volumes.value.mount_path

        versions {
          version = "latest"
          path    = secret_volumes.value.file
        }
      }
    }
  }
}

# Whoever delivers may call the function, and nobody else. A function's service is a Cloud Run service of the same name.
resource "google_cloud_run_v2_service_iam_member" "invoker" {
  project  = var.project.id
  location = var.region
  name     = google_cloudfunctions2_function.this.name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${var.push}"
}
