output "environment" {
  description = "The variables that tell functions and worker where Temporal is, and where their credentials lie. None is secret."
  value = merge(
    {
      TEMPORAL_ADDRESS   = var.connection.address
      TEMPORAL_NAMESPACE = var.connection.namespace
    },
    length(local.secrets) == 0 ? {} : { TEMPORAL_TLS = "true" },
    { for secret in local.secrets : secret.variable => "${secret.mount_path}/${secret.file}" },
    var.connection.server_name == null ? {} : { TEMPORAL_TLS_SERVER_NAME = var.connection.server_name },
    var.connection.server_ca == null ? {} : { TEMPORAL_TLS_SERVER_CA_CERT_DATA = var.connection.server_ca },
  )
}

output "secrets" {
  description = "The secrets by name, and where the newest version of each is to be mounted."
  value = {
    for name, secret in local.secrets : name => {
      id         = google_secret_manager_secret.this[name].secret_id
      mount_path = secret.mount_path
      file       = secret.file
    }
  }

  # Whoever mounts one must be able to read it first.
  depends_on = [google_secret_manager_secret_iam_member.reader]
}

output "rotation_topic" {
  description = "The full name of the topic that says when to rotate; null without rotation."
  value       = one([for t in google_pubsub_topic.rotation : "projects/${var.project.id}/topics/${t.name}"])
}

output "cloud_key" {
  description = "The ID of the secret of the rotator's own key; null without a rotator."
  value       = one(google_secret_manager_secret.cloud_key[*].secret_id)
}

output "rotation_subscription" {
  description = "The full name of the subscription that tells `rotators` when to rotate; null without any."
  value       = one([for s in google_pubsub_subscription.rotation : "projects/${var.project.id}/subscriptions/${s.name}"])
}
