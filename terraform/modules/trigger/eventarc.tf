# Eventarc tries again for 24 hours, unless a trigger's retry policy says once: so there is none.
resource "google_eventarc_trigger" "this" {
  for_each = var.eventarc

  project                 = var.project.id
  location                = each.value.location
  name                    = "${var.name}-${each.key}"
  labels                  = var.labels
  service_account         = var.push
  event_data_content_type = "application/json"
  channel                 = each.value.channel

  dynamic "matching_criteria" {
    for_each = each.value.filters

    content {
      attribute = matching_criteria.key
      value     = matching_criteria.value
    }
  }

  dynamic "transport" {
    for_each = each.value.topic[*]

    content {
      pubsub {
        topic = transport.value
      }
    }
  }

  destination {
    cloud_run_service {
      service = google_cloudfunctions2_function.this.name
      region  = var.region
      path    = "/"
    }
  }

  depends_on = [google_cloud_run_v2_service_iam_member.invoker]
}

# To forward a message, Pub/Sub takes it off the subscription. Eventarc makes that itself; scripts/deploy gives it the dead-letter topic.
resource "google_pubsub_subscription_iam_member" "eventarc" {
  for_each = var.eventarc

  project      = var.project.id
  subscription = local.eventarc_subscriptions[each.key]
  role         = "roles/pubsub.subscriber"
  member       = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
}

locals {
  # By ID, which is known once the trigger is made. Where nothing tells it, as without Google Cloud, the trigger's name stands for it.
  # What is not known yet is a text at least (tostring): else nobody could say how many alerts there are.
  eventarc_subscriptions = { for name, t in google_eventarc_trigger.this : name => tostring(try(reverse(split("/", t.transport[0].pubsub[0].subscription))[0], t.name)) }
}
