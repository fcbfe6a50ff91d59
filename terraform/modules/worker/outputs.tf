output "pools" {
  description = "Build ID to the pool that runs it."
  value = merge(
    { for p in google_cloud_run_v2_worker_pool.fixed : one(keys(local.shared)) => p.name },
    { for id, p in google_cloud_run_v2_worker_pool.build : id => p.name },
  )
}

output "compute" {
  description = "Build ID to the compute configuration that Temporal's worker controller wants; null where none is resized."
  value = length(local.pinned) > 0 ? {
    for id, p in google_cloud_run_v2_worker_pool.build : id => {
      project         = p.project
      region          = p.location
      worker_pool     = p.name
      service_account = var.invoker.email
      max_count       = var.invoker.max_count
    }
  } : null

  # Temporal is told of a pool once it may resize it.
  depends_on = [
    google_cloud_run_v2_worker_pool_iam_member.invoker,
    google_service_account_iam_member.invoker_acts_as_runner,
    google_service_account_iam_member.temporal_acts_as_invoker,
  ]
}
