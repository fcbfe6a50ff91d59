output "cloud_key" {
  description = "The ID of the secret of the key that the rotator makes keys with."
  value       = google_secret_manager_secret.cloud_key.secret_id
}
