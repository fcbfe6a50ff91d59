# A pool for each build, named after it: a run ends on the build that it began on, so a pool stays until its build is drained,
# also when the worker has become fixed meanwhile.
resource "google_cloud_run_v2_worker_pool" "build" {
  for_each = local.pinned

  project             = var.project_id
  location            = var.region
  name                = "${var.name}-${each.key}"
  description         = "Penstock's worker, build ${each.key}"
  labels              = var.labels
  deletion_protection = false # it holds nothing

  scaling {
    scaling_mode          = "MANUAL"
    manual_instance_count = 0
  }

  template {
    service_account = var.runner.email
    labels          = var.labels

    containers {
      image = each.value.image

      resources {
        limits = var.resources
      }

      dynamic "env" {
        for_each = local.environment[each.key]

        content {
          name  = env.key
          value = env.value
        }
      }

      # That it listens, not that it is healthy: a worker waits for a Temporal that is away, and is not to be restarted for it.
      startup_probe {
        failure_threshold = 30
        period_seconds    = 2
        timeout_seconds   = 1

        tcp_socket {
          port = 8080
        }
      }

      dynamic "volume_mounts" {
        for_each = var.secrets

        content {
          name       = volume_mounts.key
          mount_path = volume_mounts.value.mount_path
        }
      }
    }

    # A file, not a variable: what is mounted is read anew, so that rotated credentials are in force without a restart.
    dynamic "volumes" {
      for_each = var.secrets

      content {
        name = volumes.key

        secret {
          secret = volumes.value.id

          items {
            version = "latest"
            path    = volumes.value.file
          }
        }
      }
    }

    dynamic "vpc_access" {
      for_each = var.network[*]

      content {
        egress = vpc_access.value.egress

        network_interfaces {
          network    = vpc_access.value.network
          subnetwork = vpc_access.value.subnetwork
          tags       = vpc_access.value.tags
        }
      }
    }
  }

  lifecycle {
    # The count is Temporal's.
    ignore_changes = [scaling]
  }
}

# Temporal's worker controller acts as the invoker: it reads a pool and sets its count, which is an update of it. With the one and
# not the other, it would be found valid and never scale.
resource "google_cloud_run_v2_worker_pool_iam_member" "invoker" {
  for_each = google_cloud_run_v2_worker_pool.build

  project  = each.value.project
  location = each.value.location
  name     = each.value.name
  role     = var.invoker.role
  member   = "serviceAccount:${var.invoker.email}"
}

# An update of a pool needs the right to act as the account that the pool runs as.
resource "google_service_account_iam_member" "invoker_acts_as_runner" {
  count = length(local.pinned) > 0 ? 1 : 0

  service_account_id = var.runner.id
  role               = "roles/iam.serviceAccountUser"
  member             = "serviceAccount:${var.invoker.email}"
}

resource "google_service_account_iam_member" "temporal_acts_as_invoker" {
  for_each = toset(length(local.pinned) > 0 ? var.invoker.callers : [])

  service_account_id = var.invoker.id
  role               = "roles/iam.serviceAccountTokenCreator"
  member             = each.value
}
