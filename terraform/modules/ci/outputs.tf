output "deployer" {
  description = "The account that deploys: its member for the variable `deployers` of the root module, and its full name."
  value = {
    member = google_service_account.deployer.member
    name   = google_service_account.deployer.name
  }
}

output "planner" {
  description = "The account that plans pull requests: its full name."
  value       = google_service_account.planner.name
}

output "images" {
  description = "The repository of the worker's images, as in an image's name."
  value       = local.images
}
