locals {
  buckets = { for name, s in var.subscriptions : name => s if s.bucket != null }

  # https://cloud.google.com/storage/docs/pubsub-notifications#events
  changes = {
    finalized       = "OBJECT_FINALIZE"
    deleted         = "OBJECT_DELETE"
    archived        = "OBJECT_ARCHIVE"
    metadataUpdated = "OBJECT_METADATA_UPDATE"
  }

  topics = { for name, s in var.subscriptions : name => s.bucket != null ? "projects/${var.project.id}/topics/${google_pubsub_topic.bucket[name].name}" : s.topic }

  # Without the path that the framework would take for another function: all of a function's events arrive at /.
  endpoint = "${google_cloudfunctions2_function.this.service_config[0].uri}/"
}

resource "google_pubsub_topic" "bucket" {
  for_each = local.buckets

  project = var.project.id
  name    = "${var.name}-${each.key}"
  labels  = var.labels
}

resource "google_pubsub_topic_iam_member" "storage" {
  for_each = local.buckets

  project = var.project.id
  topic   = google_pubsub_topic.bucket[each.key].name
  role    = "roles/pubsub.publisher"
  member  = "serviceAccount:service-${var.project.number}@gs-project-accounts.iam.gserviceaccount.com"
}

resource "google_storage_notification" "this" {
  for_each = local.buckets

  bucket             = each.value.bucket
  topic              = local.topics[each.key]
  payload_format     = "JSON_API_V1" # what the functions need: the others have no size
  event_types        = [for kind in each.value.kinds : local.changes[kind]]
  object_name_prefix = each.value.prefix == "" ? null : each.value.prefix

  # A notification made before its subscription would tell nobody, and one made before its grant is refused.
  depends_on = [google_pubsub_subscription.this, google_pubsub_topic_iam_member.storage]
}

resource "google_pubsub_subscription" "this" {
  for_each = var.subscriptions

  project = var.project.id
  name    = "${var.name}-${each.key}"
  topic   = local.topics[each.key]
  labels  = var.labels

  ack_deadline_seconds       = var.retry.ack_deadline
  message_retention_duration = "${var.retry.retention}s"

  expiration_policy {
    ttl = "" # an idle source is no reason to lose its events
  }

  retry_policy {
    minimum_backoff = "${var.retry.minimum_backoff}s"
    maximum_backoff = "${var.retry.maximum_backoff}s"
  }

  dead_letter_policy {
    dead_letter_topic     = var.dead_letter_topic
    max_delivery_attempts = var.retry.attempts
  }

  # A push names its subscription, not its topic; and a message's ID is unique in its topic only. So the endpoint names the topic.
  push_config {
    push_endpoint = "${local.endpoint}?topic=${replace(replace(local.topics[each.key], "%", "%25"), "+", "%2B")}"

    oidc_token {
      service_account_email = var.push
      audience              = google_cloudfunctions2_function.this.service_config[0].uri
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}

# To forward a message, Pub/Sub takes it off the subscription.
resource "google_pubsub_subscription_iam_member" "forwarder" {
  for_each = var.subscriptions

  project      = var.project.id
  subscription = google_pubsub_subscription.this[each.key].name
  role         = "roles/pubsub.subscriber"
  member       = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}
