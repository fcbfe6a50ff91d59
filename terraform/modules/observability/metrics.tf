# Everything is counted from log lines: what functions say of each decision, what the worker and the rotator say of what they found, and how long tasks waited.
locals {
  decision_lines = "resource.type=\"cloud_run_revision\" AND labels.penstock_deployment=\"${var.deployment}\" AND labels.penstock_decision:*"
}

resource "google_logging_metric" "decisions" {
  project     = var.project.id
  name        = "${var.name}-decisions"
  description = "What became of events: one for each event and pipeline."
  filter      = local.decision_lines

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "INT64"
    unit         = "1"
    display_name = "Decisions"

    labels {
      key         = "decision"
      value_type  = "STRING"
      description = "started, duplicate, skipped, dead-lettered, undecided, ..."
    }
    labels {
      key         = "pipeline"
      value_type  = "STRING"
      description = "the pipeline; empty where the event never got as far"
    }
    labels {
      key         = "entry_point"
      value_type  = "STRING"
      description = "the function that it arrived at"
    }
  }

  label_extractors = {
    decision    = "EXTRACT(labels.penstock_decision)"
    pipeline    = "EXTRACT(labels.penstock_pipeline)"
    entry_point = "EXTRACT(labels.penstock_entry_point)"
  }
}

resource "google_logging_metric" "decision_time" {
  project         = var.project.id
  name            = "${var.name}-decision-time"
  description     = "Milliseconds from an event's arrival to its decision."
  filter          = "${local.decision_lines} AND jsonPayload.durationMs>=0"
  value_extractor = "EXTRACT(jsonPayload.durationMs)"

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "DISTRIBUTION"
    unit         = "ms"
    display_name = "Time to a decision"

    labels {
      key         = "entry_point"
      value_type  = "STRING"
      description = "the function that the event arrived at"
    }
  }

  label_extractors = {
    entry_point = "EXTRACT(labels.penstock_entry_point)"
  }

  bucket_options {
    exponential_buckets {
      scale              = 1
      growth_factor      = 2
      num_finite_buckets = 15
    }
  }
}

# docs/sweep.md says what the worker finds.
resource "google_logging_metric" "findings" {
  project     = var.project.id
  name        = "${var.name}-findings"
  description = "What a sweep found: jobs that nobody watches, runs that are open for too long, sweeps that were in trouble."
  filter      = "resource.type=\"cloud_run_worker_pool\" AND jsonPayload.deployment=\"${var.deployment}\" AND jsonPayload.finding:*"

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "INT64"
    unit         = "1"
    display_name = "Findings"

    labels {
      key         = "finding"
      value_type  = "STRING"
      description = "orphan, orphan-not-over, overdue or sweep-troubled"
    }
    labels {
      key         = "pipeline"
      value_type  = "STRING"
      description = "the pipeline, where it is about one"
    }
    labels {
      key         = "action"
      value_type  = "STRING"
      description = "what was done with an orphan"
    }
  }

  label_extractors = {
    finding  = "EXTRACT(jsonPayload.finding)"
    pipeline = "EXTRACT(jsonPayload.pipeline)"
    action   = "EXTRACT(jsonPayload.action)"
  }
}

# The worker says once a minute how long the tasks that it took had waited: Temporal's schedule-to-start latency.
resource "google_logging_metric" "waits" {
  project         = var.project.id
  name            = "${var.name}-waits"
  description     = "Seconds that a task waited for a worker: the longest of a minute, an instance and a kind of task."
  filter          = "resource.type=\"cloud_run_worker_pool\" AND jsonPayload.deployment=\"${var.deployment}\" AND jsonPayload.longestWaitSeconds>=0"
  value_extractor = "EXTRACT(jsonPayload.longestWaitSeconds)"

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "DISTRIBUTION"
    unit         = "s"
    display_name = "Waits for a worker"

    labels {
      key         = "kind"
      value_type  = "STRING"
      description = "workflow or activity"
    }
  }

  label_extractors = {
    kind = "EXTRACT(jsonPayload.taskKind)"
  }

  bucket_options {
    exponential_buckets {
      scale              = 0.01
      growth_factor      = 2
      num_finite_buckets = 20
    }
  }
}

# docs/rotation.md says what the rotator finds.
resource "google_logging_metric" "rotation" {
  count = var.rotator == null ? 0 : 1

  project     = var.project.id
  name        = "${var.name}-rotation"
  description = "What the rotator of API keys found: rotations that failed, and what is left to people."
  filter      = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=\"${var.rotator.name}\" AND jsonPayload.finding:*"

  metric_descriptor {
    metric_kind  = "DELTA"
    value_type   = "INT64"
    unit         = "1"
    display_name = "Findings of the rotator"

    labels {
      key         = "finding"
      value_type  = "STRING"
      description = "rotation-failed, rotation-due or key-left"
    }
  }

  label_extractors = {
    finding = "EXTRACT(jsonPayload.finding)"
  }
}
