output "dashboard" {
  description = "The dashboard's full name."
  value       = google_monitoring_dashboard.this.id
}

output "alerts" {
  description = "What is watched."
  value       = concat(keys(local.alerts), ["burn"])
}

output "filters" {
  description = "What each alert looks at, by its name."
  value       = { for name, a in local.alerts : name => a.filter }
}
