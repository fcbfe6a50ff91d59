output "egress" {
  description = "For the variable `network` of the root module."
  value = {
    network    = google_compute_network.this.id
    subnetwork = google_compute_subnetwork.this.id
    egress     = var.internet ? "ALL_TRAFFIC" : "PRIVATE_RANGES_ONLY"
    tags       = [var.name]
  }
}

output "address" {
  description = "The address that calls to the internet come from; null without NAT."
  value       = one(google_compute_address.nat[*].address)
}
