resource "google_monitoring_notification_channel" "email" {
  for_each = toset(var.emails)

  project      = var.project.id
  display_name = each.value
  type         = "email"
  labels       = { email_address = each.value }
  user_labels  = var.labels
}

locals {
  channels = concat([for c in google_monitoring_notification_channel.email : c.id], var.channels)

  any_of = { for name, of in { functions = var.functions, subscriptions = var.subscriptions } : name => join(", ", [for n in of : "\"${n}\""]) }

  found = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.findings.name}\" AND resource.type=\"cloud_run_worker_pool\" AND metric.labels.finding="

  waits = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.waits.name}\" AND resource.type=\"cloud_run_worker_pool\""

  rotation_found = "metric.type=\"logging.googleapis.com/user/${join("", google_logging_metric.rotation[*].name)}\" AND resource.type=\"cloud_run_revision\" AND metric.labels.finding="

  # Each says what to do first: whoever reads it was asleep.
  alerts = merge(
    {
      dead-letters = {
        title     = "dead letters wait"
        severity  = "WARNING"
        filter    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"${var.dead_letters}\" AND metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\""
        aligner   = "ALIGN_MAX"
        reducer   = "REDUCE_SUM"
        threshold = var.thresholds.dead_letters
        duration  = "0s"
        period    = "300s"
        do        = "Events that nothing could be done with, or whose deliveries all failed. `penstock dlq list` says why, `penstock dlq redrive` delivers them again once the reason is gone. They are kept for 31 days."
      }
      function-errors = {
        title     = "functions answer with errors"
        severity  = "ERROR"
        filter    = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=one_of(${local.any_of.functions}) AND metric.type=\"run.googleapis.com/request_count\" AND metric.labels.response_code_class=\"5xx\""
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = var.thresholds.errors
        duration  = "0s"
        period    = "300s"
        do        = "Deliveries are tried again, so nothing is lost yet. `penstock doctor` says whether Temporal answers; the lines of severity ERROR with the label penstock_deployment=${var.deployment} say what the functions met."
      }
      failed-jobs = {
        title     = "a Dataflow job failed"
        severity  = "WARNING"
        filter    = "resource.type=\"dataflow_job\" AND resource.labels.job_name=starts_with(\"${var.deployment}-\") AND metric.type=\"dataflow.googleapis.com/job/is_failed\""
        aligner   = "ALIGN_MAX"
        reducer   = "REDUCE_SUM"
        threshold = 0
        duration  = "0s"
        period    = "300s"
        do        = "`penstock runs --outcome failed` lists what came of it, `penstock describe RUN` shows the job's first error. A step with `retry` may have gone on by itself."
      }
      orphan-jobs = {
        title     = "a job runs that nobody watches"
        severity  = "WARNING"
        filter    = "${local.found}one_of(\"orphan\", \"orphan-not-over\")"
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = 0
        duration  = "0s"
        period    = "300s"
        do        = "A job of this deployment runs, and its run is over or gone: the worker's lines with `finding` name it. The worker's variable PENSTOCK_ORPHANS says what becomes of such jobs; by default they are left alone."
      }
      overdue-runs = {
        title     = "a run takes too long"
        severity  = "WARNING"
        filter    = "${local.found}\"overdue\""
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = 0
        duration  = "0s"
        period    = "300s"
        do        = "`penstock describe RUN` says what the run waits for. The worker's lines with `finding=overdue` name it."
      }
      sweep-troubled = {
        title     = "lost news and orphans cannot be looked for"
        severity  = "ERROR"
        filter    = "${local.found}\"sweep-troubled\""
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = 0
        duration  = "0s"
        period    = "300s"
        do        = "Dataflow's list of jobs was refused, or did not answer for an hour: the worker's lines with `finding=sweep-troubled` say why. Often a permission: see the worker's role."
      }
      schedule-latency = {
        title     = "tasks wait for a worker"
        severity  = "WARNING"
        filter    = local.waits
        aligner   = "ALIGN_PERCENTILE_95"
        reducer   = "REDUCE_MAX"
        threshold = var.thresholds.schedule_latency
        duration  = "0s"
        period    = "300s"
        do        = "Too few workers, or none that came up for a while. A fixed pool: raise worker.instances. Serverless: look at the pool's instances and at what Temporal says of the deployment's compute."
      }
    },
    length(var.subscriptions) == 0 ? {} : {
      oldest-unacked = {
        title     = "events wait for their delivery"
        severity  = "ERROR"
        filter    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=one_of(${local.any_of.subscriptions}) AND metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
        aligner   = "ALIGN_MAX"
        reducer   = "REDUCE_MAX"
        threshold = var.thresholds.oldest_unacked
        duration  = "300s"
        period    = "300s"
        do        = "Deliveries fail or are refused: look at the functions' errors. docs/deploy.md says how long that may last before events move to the dead letters."
      }
    },
    var.rotator == null ? {} : {
      rotation-unacked = {
        title     = "a notice to rotate a key waits"
        severity  = "ERROR"
        filter    = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"${var.rotator.name}\" AND metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\""
        aligner   = "ALIGN_MAX"
        reducer   = "REDUCE_MAX"
        threshold = var.rotator.retire + 7200 # until then it waits when all goes well
        duration  = "300s"
        period    = "300s"
        do        = "The rotator does not answer, or a rotation does not end: its log says why. The notice moves to the dead letters after about 16 hours, and the key in force goes on until it expires."
      }
      rotation-failed = {
        title     = "an API key cannot be rotated"
        severity  = "ERROR"
        filter    = "${local.rotation_found}\"rotation-failed\""
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = 3
        duration  = "0s"
        period    = "3600s"
        do        = "The key in force goes on until it expires. The rotator's lines with `finding=rotation-failed` say why; it tries again by itself for about 16 hours. docs/rotation.md says how a key is rotated by hand."
      }
      rotation-due = {
        title     = "an API key is to be rotated by hand"
        severity  = "WARNING"
        filter    = "${local.rotation_found}\"rotation-due\""
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = 0
        duration  = "0s"
        period    = "300s"
        do        = "The rotator cannot make keys of this kind: add a new one as a version of the secret that its line with `finding=rotation-due` names, and it disables the old version."
      }
      key-left = {
        title     = "a replaced API key is still valid"
        severity  = "WARNING"
        filter    = "${local.rotation_found}\"key-left\""
        aligner   = "ALIGN_DELTA"
        reducer   = "REDUCE_SUM"
        threshold = 0
        duration  = "0s"
        period    = "300s"
        do        = "The rotator did not make the key of the version that it disabled, and leaves it: delete the one that its line with `finding=key-left` names at Temporal Cloud, by hand."
      }
    },
  )
}

resource "google_monitoring_alert_policy" "this" {
  for_each = local.alerts

  project               = var.project.id
  display_name          = "Penstock ${var.deployment}: ${each.value.title}"
  combiner              = "OR"
  severity              = each.value.severity
  notification_channels = local.channels
  user_labels           = var.labels

  conditions {
    display_name = each.value.title

    condition_threshold {
      filter          = each.value.filter
      comparison      = "COMPARISON_GT"
      threshold_value = each.value.threshold
      duration        = each.value.duration

      aggregations {
        alignment_period     = each.value.period
        per_series_aligner   = each.value.aligner
        cross_series_reducer = each.value.reducer
      }
    }
  }

  documentation {
    content   = each.value.do
    mime_type = "text/markdown"
  }

  alert_strategy {
    auto_close = "86400s"
  }
}

resource "google_billing_budget" "this" {
  count = var.budget == null ? 0 : 1

  billing_account = var.budget.billing_account
  display_name    = "Penstock ${var.deployment}"

  budget_filter {
    projects        = ["projects/${var.project.number}"]
    calendar_period = "MONTH"
  }

  amount {
    specified_amount {
      currency_code = var.budget.currency
      units         = tostring(var.budget.amount)
    }
  }

  dynamic "threshold_rules" {
    for_each = [0.5, 0.9, 1.0]

    content {
      threshold_percent = threshold_rules.value
    }
  }

  threshold_rules {
    threshold_percent = 1.2
    spend_basis       = "FORECASTED_SPEND"
  }

  # Without channels, those hear of it who administer the billing account.
  dynamic "all_updates_rule" {
    for_each = length(local.channels) > 0 ? [local.channels] : []

    content {
      monitoring_notification_channels = all_updates_rule.value
      disable_default_iam_recipients   = true
    }
  }
}
