output "providers" {
  description = "Provider ID to its full name, which a client's credential configuration names."
  value       = { for id, p in google_iam_workload_identity_pool_provider.this : id => "projects/${var.project.number}/locations/global/workloadIdentityPools/${var.pool}/providers/${p.workload_identity_pool_provider_id}" }
}

output "conditions" {
  description = "Provider ID to the condition that its tokens must meet."
  value       = { for id, p in google_iam_workload_identity_pool_provider.this : id => p.attribute_condition }
}
