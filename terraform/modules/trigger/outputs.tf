output "url" {
  description = "Where the function answers, for those that reach it."
  value       = google_cloudfunctions2_function.this.service_config[0].uri
}

output "name" {
  description = "The function's name."
  value       = google_cloudfunctions2_function.this.name
}

output "subscriptions" {
  description = "The names of the push subscriptions that deliver to it."
  value       = [for s in google_pubsub_subscription.this : s.name]
}

output "eventarc_subscriptions" {
  description = "The names of the subscriptions that Eventarc made for its triggers."
  value       = { for name, t in google_eventarc_trigger.this : name => one(flatten(t.transport[*].pubsub[*].subscription)) }
}

output "subscription_ids" {
  description = "The IDs of all subscriptions that deliver to it, those that Eventarc made among them, by what they deliver."
  value       = merge({ for name in keys(var.subscriptions) : name => "${var.name}-${name}" }, local.eventarc_subscriptions)
}
