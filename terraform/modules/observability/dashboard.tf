locals {
  tiles = [
    { title = "Decisions", filter = local.decisions, aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["metric.label.decision"], unit = "1/s" },
    { title = "Runs started", filter = "${local.decisions} AND metric.labels.decision=\"started\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["metric.label.pipeline"], unit = "1/s" },
    { title = "Time to a decision, 95th percentile", filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.decision_time.name}\" AND resource.type=\"cloud_run_revision\"", aligner = "ALIGN_PERCENTILE_95", reducer = "REDUCE_MAX", by = ["metric.label.entry_point"], unit = "ms" },
    { title = "Answers of the functions", filter = "resource.type=\"cloud_run_revision\" AND resource.labels.service_name=one_of(${local.any_of.functions}) AND metric.type=\"run.googleapis.com/request_count\"", aligner = "ALIGN_RATE", reducer = "REDUCE_SUM", by = ["resource.label.service_name", "metric.label.response_code"], unit = "1/s" },
    { title = "Oldest event that waits for its delivery", filter = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=starts_with(\"${var.name}-\") AND metric.type=\"pubsub.googleapis.com/subscription/oldest_unacked_message_age\"", aligner = "ALIGN_MAX", reducer = "REDUCE_MAX", by = ["resource.label.subscription_id"], unit = "s" },
    { title = "Dead letters", filter = "resource.type=\"pubsub_subscription\" AND resource.labels.subscription_id=\"${var.dead_letters}\" AND metric.type=\"pubsub.googleapis.com/subscription/num_undelivered_messages\"", aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = [], unit = "1" },
    { title = "What sweeps found", filter = "metric.type=\"logging.googleapis.com/user/${google_logging_metric.findings.name}\" AND resource.type=\"cloud_run_worker_pool\"", aligner = "ALIGN_DELTA", reducer = "REDUCE_SUM", by = ["metric.label.finding"], unit = "1" },
    { title = "Longest wait of a task for a worker, 95th percentile", filter = local.waits, aligner = "ALIGN_PERCENTILE_95", reducer = "REDUCE_MAX", by = ["metric.label.kind"], unit = "s" },
    { title = "Instances of the worker", filter = "resource.type=\"cloud_run_worker_pool\" AND resource.labels.worker_pool_name=starts_with(\"${var.name}-\") AND metric.type=\"run.googleapis.com/container/instance_count\"", aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = ["resource.label.worker_pool_name"], unit = "1" },
    { title = "Dataflow jobs that failed", filter = "resource.type=\"dataflow_job\" AND resource.labels.job_name=starts_with(\"${var.deployment}-\") AND metric.type=\"dataflow.googleapis.com/job/is_failed\"", aligner = "ALIGN_MAX", reducer = "REDUCE_SUM", by = ["resource.label.job_name"], unit = "1" },
  ]
}

resource "google_monitoring_dashboard" "this" {
  project = var.project.id

  dashboard_json = jsonencode({
    displayName = "Penstock ${var.deployment}"
    mosaicLayout = {
      columns = 48
      tiles = [
        for i, t in local.tiles : {
          xPos   = i % 2 * 24
          yPos   = floor(i / 2) * 16
          width  = 24
          height = 16
          widget = {
            title = t.title
            xyChart = {
              yAxis = { label = t.unit, scale = "LINEAR" }
              dataSets = [{
                plotType = "LINE"
                timeSeriesQuery = {
                  timeSeriesFilter = {
                    filter = t.filter
                    aggregation = {
                      alignmentPeriod    = "60s"
                      perSeriesAligner   = t.aligner
                      crossSeriesReducer = t.reducer
                      groupByFields      = t.by
                    }
                  }
                }
              }]
            }
          }
        }
      ]
    }
  })
}
