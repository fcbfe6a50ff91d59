locals {
  # Each secret is a file of its own below a directory of its own, as Cloud Run has it, and the variable that names the file.
  files = {
    api-key = { api-key = "PENSTOCK_TEMPORAL_API_KEY_FILE" }
    mtls = {
      client-certificate = "TEMPORAL_TLS_CLIENT_CERT_PATH"
      client-key         = "TEMPORAL_TLS_CLIENT_KEY_PATH"
    }
    none = {}
  }

  secrets = {
    for name, variable in local.files[var.connection.authentication] : name => {
      id         = "${var.name}-${name}"
      mount_path = "/etc/secrets/temporal-${name}"
      file       = "value"
      variable   = variable
    }
  }

  rotation = var.connection.authentication == "api-key" ? var.connection.rotation : null
}

# Their versions are added by people and by the rotator, never by Terraform, so that no credential lies in a plan or state.
resource "google_secret_manager_secret" "this" {
  for_each = local.secrets

  project             = var.project.id
  secret_id           = each.value.id
  labels              = var.labels
  deletion_protection = var.protected
  version_destroy_ttl = "604800s"

  replication {
    auto {}
  }

  dynamic "rotation" {
    for_each = local.rotation[*]

    content {
      rotation_period    = rotation.value.period
      next_rotation_time = rotation.value.first
    }
  }

  dynamic "topics" {
    for_each = google_pubsub_topic.rotation

    content {
      name = "projects/${var.project.id}/topics/${topics.value.name}"
    }
  }

  lifecycle {
    # Secret Manager moves it on with each rotation.
    ignore_changes = [rotation[0].next_rotation_time]
  }

  depends_on = [google_pubsub_topic_iam_member.rotation]
}

# What the rotator calls Temporal Cloud's API with. It rotates that, too.
resource "google_secret_manager_secret" "cloud_key" {
  count = local.rotation != null && var.rotator ? 1 : 0

  project             = var.project.id
  secret_id           = "${var.name}-cloud-key"
  labels              = var.labels
  deletion_protection = var.protected
  version_destroy_ttl = "604800s"

  replication {
    auto {}
  }

  rotation {
    rotation_period    = local.rotation.period
    next_rotation_time = local.rotation.first
  }

  topics {
    name = "projects/${var.project.id}/topics/${google_pubsub_topic.rotation[0].name}"
  }

  lifecycle {
    # Secret Manager moves it on with each rotation.
    ignore_changes = [rotation[0].next_rotation_time]
  }

  depends_on = [google_pubsub_topic_iam_member.rotation]
}

resource "google_secret_manager_secret_iam_member" "reader" {
  for_each = { for pair in setproduct(keys(local.secrets), keys(var.readers)) : "${pair[0]} ${pair[1]}" => { secret = pair[0], member = var.readers[pair[1]] } }

  project   = var.project.id
  secret_id = google_secret_manager_secret.this[each.value.secret].secret_id
  role      = "roles/secretmanager.secretAccessor"
  member    = each.value.member
}

# Secret Manager says here that a rotation is due.
resource "google_pubsub_topic" "rotation" {
  count = local.rotation != null ? 1 : 0

  project = var.project.id
  name    = "${var.name}-rotation"
  labels  = var.labels
}

resource "google_pubsub_topic_iam_member" "rotation" {
  count = local.rotation != null ? 1 : 0

  project = var.project.id
  topic   = google_pubsub_topic.rotation[0].name
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:service-${var.project.number}@gcp-sa-secretmanager.iam.gserviceaccount.com"
}

# Kept until somebody has seen to it, where there are people to.
resource "google_pubsub_subscription" "rotation" {
  count = local.rotation != null && length(var.rotators) > 0 ? 1 : 0

  project = var.project.id
  name    = "${var.name}-rotation"
  topic   = "projects/${var.project.id}/topics/${google_pubsub_topic.rotation[0].name}"
  labels  = var.labels

  message_retention_duration = "2678400s"
  ack_deadline_seconds       = 600

  expiration_policy {
    ttl = ""
  }
}

resource "google_pubsub_subscription_iam_member" "rotator" {
  for_each = toset(local.rotation != null ? var.rotators : [])

  project      = var.project.id
  subscription = google_pubsub_subscription.rotation[0].name
  role         = "roles/pubsub.subscriber"
  member       = each.value
}

resource "google_secret_manager_secret_iam_member" "rotator" {
  for_each = local.rotation != null ? {
    for pair in setproduct(var.rotators, ["roles/secretmanager.secretVersionManager", "roles/secretmanager.secretAccessor"]) :
    "${pair[0]} ${pair[1]}" => { member = pair[0], role = pair[1] }
  } : {}

  project   = var.project.id
  secret_id = google_secret_manager_secret.this["api-key"].secret_id
  role      = each.value.role
  member    = each.value.member
}
