# The promise that is measured: an event is decided when it is first delivered.
resource "google_monitoring_custom_service" "this" {
  project      = var.project.id
  service_id   = var.name
  display_name = "Penstock ${var.deployment}"
  user_labels  = var.labels
}

locals {
  decisions = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.decisions.name}\" AND resource.type=\"cloud_run_revision\""
}

resource "google_monitoring_slo" "decided" {
  project             = var.project.id
  service             = google_monitoring_custom_service.this.service_id
  slo_id              = "${var.name}-decided"
  display_name        = "Events are decided at their first delivery"
  goal                = var.slo
  rolling_period_days = 28
  user_labels         = var.labels

  request_based_sli {
    good_total_ratio {
      bad_service_filter   = "${local.decisions} AND metric.labels.decision=one_of(\"undecided\", \"rejected\", \"crashed\")"
      total_service_filter = local.decisions
    }
  }
}

# At this rate, the budget of 28 days is gone in two.
resource "google_monitoring_alert_policy" "burn" {
  project               = var.project.id
  display_name          = "Penstock ${var.deployment}: too many events are not decided"
  combiner              = "OR"
  severity              = "ERROR"
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = "14 times as many as the objective allows, for an hour"

    condition_threshold {
      filter          = "select_slo_burn_rate(\"${google_monitoring_slo.decided.name}\", \"3600s\")"
      comparison      = "COMPARISON_GT"
      threshold_value = 14
      duration        = "0s"
    }
  }

  documentation {
    content   = "Functions cannot decide: Temporal or the dead-letter topic does not answer, or a pipelines file has no usable version. Deliveries are tried again. `penstock doctor` says which."
    mime_type = "text/markdown"
  }
}
