output "service" {
  description = "The rotator's service: its name, and the image that it runs."
  value = {
    name  = google_cloud_run_v2_service.this.name
    image = var.image
  }
}
