# The rotator: told by Secret Manager that a key's rotation is due, it makes a new one, tries it, adds it as a version, and later disables
# the old version and deletes the old key.
locals {
  mount = "/etc/secrets/temporal-cloud-key"
}

resource "google_secret_manager_secret_iam_member" "rotator" {
  for_each = { cloud-key = var.cloud_key.secret, key = var.key.secret }

  project   = var.project.id
  secret_id = each.value
  role      = var.role
  member    = "serviceAccount:${var.account}"
}

resource "google_cloud_run_v2_service" "this" {
  project             = var.project.id
  location            = var.region
  name                = var.name
  description         = "Penstock's rotator of Temporal API keys"
  labels              = var.labels
  ingress             = "INGRESS_TRAFFIC_INTERNAL_ONLY"
  deletion_protection = false # it holds nothing

  template {
    service_account = var.account
    labels          = var.labels
    timeout         = "600s" # a pass may take minutes: a new key is not known everywhere at once

    scaling {
      min_instance_count = 0
      max_instance_count = 1
    }

    containers {
      image = var.image

      dynamic "env" {
        for_each = merge(
          { for k, v in var.environment : k => v if k != "PENSTOCK_TEMPORAL_API_KEY_FILE" },
          {
            PENSTOCK_ROTATION_CLOUD_KEY_FILE = "${local.mount}/value"
            PENSTOCK_ROTATION_SECRETS = jsonencode([
              { secret = "projects/${var.project.id}/secrets/${var.key.secret}", owner = var.key.owner, for = "namespace" },
              { secret = "projects/${var.project.id}/secrets/${var.cloud_key.secret}", owner = var.cloud_key.owner, for = "cloud" },
            ])
          },
          { for k, v in {
            PENSTOCK_ROTATION_GRACE    = var.grace
            PENSTOCK_ROTATION_LIFETIME = var.lifetime
            PENSTOCK_ROTATION_RETIRE   = var.retire
          } : k => v if v != null },
        )

        content {
          name  = env.key
          value = env.value
        }
      }

      startup_probe {
        http_get {
          path = "/healthz"
        }
      }

      volume_mounts {
        name       = "cloud-key"
        mount_path = local.mount
      }
    }

    volumes {
      name = "cloud-key"

      secret {
        secret = var.cloud_key.secret

        items {
          version = "latest"
          path    = "value"
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

  depends_on = [google_secret_manager_secret_iam_member.rotator]
}

resource "google_cloud_run_v2_service_iam_member" "invoker" {
  project  = var.project.id
  location = var.region
  name     = google_cloud_run_v2_service.this.name
  role     = "roles/run.invoker"
  member   = "serviceAccount:${var.push}"
}

# A rotation takes several deliveries: what is to be done later is asked for again. An hour or two end it, or a person is told.
resource "google_pubsub_subscription" "this" {
  project = var.project.id
  name    = var.name
  topic   = var.topic
  labels  = var.labels

  # Secret Manager tells of much else on the topic, such as of each version that the rotator disables.
  filter = "attributes.eventType = \"SECRET_ROTATE\" OR attributes.eventType = \"SECRET_VERSION_ADD\" OR attributes.eventType = \"SECRET_VERSION_ENABLE\""

  ack_deadline_seconds       = 600
  message_retention_duration = "604800s"

  expiration_policy {
    ttl = ""
  }

  retry_policy {
    minimum_backoff = "60s"
    maximum_backoff = "600s"
  }

  dead_letter_policy {
    dead_letter_topic     = var.dead_letter_topic
    max_delivery_attempts = 100
  }

  push_config {
    push_endpoint = "${google_cloud_run_v2_service.this.uri}/?topic=${var.topic}"

    oidc_token {
      service_account_email = var.push
      audience              = google_cloud_run_v2_service.this.uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}

resource "google_pubsub_subscription_iam_member" "forwarder" {
  project      = var.project.id
  subscription = google_pubsub_subscription.this.name
  role         = "roles/pubsub.subscriber"
  member       = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
