output "topic" {
  description = "The topic's full name, for PENSTOCK_DEAD_LETTER_TOPIC."
  value       = local.topic
}

output "subscription" {
  description = "The subscription's full name, for PENSTOCK_DEAD_LETTER_SUBSCRIPTION."
  value       = "projects/${var.project.id}/subscriptions/${google_pubsub_subscription.this.name}"
}
