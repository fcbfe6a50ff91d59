output "deployment" {
  description = "The deployment's ID."
  value       = var.deployment
}

output "environment" {
  description = "What the penstock command needs to know of the deployment: variables of its environment. Temporal's credentials are yours to add, and the functions answer those alone that are inside the project's network."
  value = {
    GOOGLE_CLOUD_PROJECT              = var.project.id
    PENSTOCK_DEAD_LETTER_SUBSCRIPTION = module.dead_letters.subscription
    PENSTOCK_DEPLOYMENT               = var.deployment
    PENSTOCK_FUNCTIONS_URL            = one(slice(local.trigger_urls, 0, min(1, length(local.trigger_urls))))
    PENSTOCK_LEDGER                   = "gs://${module.ledger.name}/ledger"
    PENSTOCK_LOCATION                 = local.job_location
    TEMPORAL_ADDRESS                  = var.temporal.address
    TEMPORAL_NAMESPACE                = var.temporal.namespace
    TEMPORAL_TLS_SERVER_CA_CERT_DATA  = var.temporal.server_ca
    TEMPORAL_TLS_SERVER_NAME          = var.temporal.server_name
  }
}

output "functions" {
  description = "Entry point to where it answers those that reach it."
  value       = { for name, t in module.trigger : name => t.url }
}

output "push_account" {
  description = "The email of the identity that may call the functions."
  value       = google_service_account.push.email
}

output "secrets" {
  description = "The secrets that need a version before the first deployment of functions and worker: `gcloud secrets versions add ID --data-file=FILE`."
  value       = concat([for s in module.temporal_connection.secrets : s.id], module.temporal_connection.cloud_key[*])
}

output "rotation_subscription" {
  description = "The full name of the subscription that tells `temporal.rotators` when to rotate the API key; null without any."
  value       = module.temporal_connection.rotation_subscription
}

output "rotator" {
  description = "The service that rotates the API key, its image, and the full name of the topic that it is told by; null without one."
  value       = one([for r in module.rotation : merge(r.service, { topic = module.temporal_connection.rotation_topic })])
}

output "worker" {
  description = "What `penstock setup` registers: Temporal's deployment name, the form, and build ID to pool and, where Temporal scales it, to compute configuration."
  value = {
    deployment_name = local.name
    scaling         = var.worker.scaling
    pools           = module.worker.pools
    compute         = module.worker.compute
  }
}

output "pipelines" {
  description = "Pipeline to the account that its jobs run as and what that may reach."
  value       = { for name, p in module.pipeline : name => { account = p.account, access = p.access } }
}

output "eventarc_subscriptions" {
  description = "The subscriptions that Eventarc made for its triggers, which keep an event for 24 hours until scripts/deploy has given them dead letters. Terraform does not manage them."
  value       = { for name, t in module.trigger : name => t.eventarc_subscriptions if length(t.eventarc_subscriptions) > 0 }
}

output "eventarc_delivery" {
  description = "What scripts/deploy gives those subscriptions after each apply: the dead-letter topic, how deliveries are tried again, and who forwards them."
  value = merge(var.retry, {
    dead_letter_topic = module.dead_letters.topic
    forwarder         = "serviceAccount:service-${var.project.number}@gcp-sa-pubsub.iam.gserviceaccount.com"
  })
}

output "outage" {
  description = "How long an outage of Temporal or the functions may last before push subscriptions begin to move events to the dead letters, in hours: the sum of all waits."
  value       = var.delivery == "subscription" ? local.outage_hours : 24
}

locals {
  # An event is what its content says, whichever of them it arrives at: any of the three takes all.
  trigger_urls = [for name in ["StorageTrigger", "PubSubTrigger", "EventTrigger"] : module.trigger[name].url if contains(keys(local.entry_points), name)]

  # Waits double from the shortest to the longest, and there is one less than there are attempts.
  waits        = [for i in range(var.retry.attempts - 1) : min(var.retry.maximum_backoff, var.retry.minimum_backoff * pow(2, min(i, 10)))]
  outage_hours = floor(min(sum(local.waits), var.retry.retention) / 360) / 10
}
