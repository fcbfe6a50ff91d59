locals {
  serverless = var.scaling == "serverless"

  # Which have a pool of their own, and which shares one.
  pinned = { for id, build in var.builds : id => build if local.serverless || build.serverless }
  shared = { for id, build in var.builds : id => build if !contains(keys(local.pinned), id) }

  environment = {
    for id, build in var.builds : id => merge(var.environment, {
      PENSTOCK_VERSIONING      = contains(keys(local.pinned), id) ? "pinned" : "auto-upgrade"
      TEMPORAL_DEPLOYMENT_NAME = var.deployment_name
      TEMPORAL_WORKER_BUILD_ID = id
    })
  }
}

# One pool: a new build replaces the old one in it, and runs go on with the new one.
resource "google_cloud_run_v2_worker_pool" "fixed" {
  for_each = local.serverless ? {} : { (var.name) = one(keys(local.shared)) }

  project             = var.project_id
  location            = var.region
  name                = each.key
  description         = "Penstock's worker, build ${each.value}"
  labels              = var.labels
  deletion_protection = false # it holds nothing

  scaling {
    scaling_mode          = "MANUAL"
    manual_instance_count = var.instances
  }

  template {
    service_account = var.runner.email
    labels          = var.labels

    containers {
      image = var.builds[each.value].image

      resources {
        limits = var.resources
      }

      dynamic "env" {
        for_each = local.environment[each.value]

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
}
