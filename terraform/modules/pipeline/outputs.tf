output "account" {
  description = "The email of the service account that the pipeline's jobs run as."
  value       = var.account
}

output "access" {
  description = "What that account may reach, and how."
  value       = var.access
}
