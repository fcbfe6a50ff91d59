output "topic" {
  description = "The topic's full name, for PENSTOCK_DEAD_LETTER_TOPIC."
  value       = google_pubsub_topic.this.id
}

output "subscription" {
  description = "The subscription's full name, for PENSTOCK_DEAD_LETTER_SUBSCRIPTION."
  value       = google_pubsub_subscription.this.id
}
