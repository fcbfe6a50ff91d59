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
