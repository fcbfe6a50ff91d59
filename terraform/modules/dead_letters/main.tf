locals {
  # Written out, so that a plan says it and can be checked: Google's own IDs are known after the apply only.
  topic = "projects/${var.project.id}/topics/${google_pubsub_topic.this.name}"
}

# Where events wait that nothing could be done with, and those whose deliveries all failed.
resource "google_pubsub_topic" "this" {
  project         = var.project.id
  name            = var.name
  labels          = var.labels
  deletion_policy = var.protected ? "PREVENT" : "DELETE"
}

# The longest retention there is, no end of its own, and no dead-letter policy: what waits here waits for a person.
resource "google_pubsub_subscription" "this" {
  project         = var.project.id
  name            = var.name
  topic           = local.topic
  labels          = var.labels
  deletion_policy = var.protected ? "PREVENT" : "DELETE"

  message_retention_duration = "2678400s"
  ack_deadline_seconds       = 600

  expiration_policy {
    ttl = ""
  }
}

# Pub/Sub itself forwards what could not be delivered.
resource "google_pubsub_topic_iam_member" "forwarder" {
  project = var.project.id
  topic   = google_pubsub_topic.this.name
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

resource "google_pubsub_topic_iam_member" "publisher" {
  for_each = var.publishers

  project = var.project.id
  topic   = google_pubsub_topic.this.name
  role    = "roles/pubsub.publisher"
  member  = each.value
}

resource "google_pubsub_subscription_iam_member" "operator" {
  for_each = toset(var.operators)

  project      = var.project.id
  subscription = google_pubsub_subscription.this.name
  role         = "roles/pubsub.subscriber"
  member       = each.value
}

# The topic of a forwarded message is asked of its subscription.
resource "google_pubsub_subscription_iam_member" "viewer" {
  for_each = toset(var.operators)

  project      = var.project.id
  subscription = google_pubsub_subscription.this.name
  role         = "roles/pubsub.viewer"
  member       = each.value
}
