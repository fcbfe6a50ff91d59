# A network for direct VPC egress: functions and worker call out of it, nothing calls in.
resource "google_compute_network" "this" {
  project                 = var.project_id
  name                    = var.name
  auto_create_subnetworks = false
}

resource "google_compute_subnetwork" "this" {
  project                  = var.project_id
  region                   = var.region
  name                     = var.name
  network                  = google_compute_network.this.id
  ip_cidr_range            = var.cidr
  private_ip_google_access = true

  log_config {
    aggregation_interval = "INTERVAL_10_MIN"
    flow_sampling        = 0.1
    metadata             = "INCLUDE_ALL_METADATA"
  }
}

resource "google_compute_firewall" "nothing_in" {
  project     = var.project_id
  name        = "${var.name}-nothing-in"
  description = "Nothing has to call functions or worker from inside the network."
  network     = google_compute_network.this.id
  direction   = "INGRESS"
  priority    = 65000

  source_ranges = ["0.0.0.0/0"]

  deny {
    protocol = "all"
  }
}

resource "google_compute_firewall" "temporal" {
  count = var.temporal == null ? 0 : 1

  project            = var.project_id
  name               = "${var.name}-temporal"
  description        = "Functions and worker call Temporal."
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 1000
  destination_ranges = var.temporal.ranges
  target_tags        = [var.name]

  allow {
    protocol = "tcp"
    ports    = [var.temporal.port]
  }
}

resource "google_compute_firewall" "nothing_else" {
  count = var.temporal == null ? 0 : 1

  project            = var.project_id
  name               = "${var.name}-nothing-else"
  description        = "They call nothing else inside the network."
  network            = google_compute_network.this.id
  direction          = "EGRESS"
  priority           = 2000
  destination_ranges = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"]
  target_tags        = [var.name]

  deny {
    protocol = "all"
  }
}

resource "google_compute_address" "nat" {
  count = var.internet ? 1 : 0

  project = var.project_id
  region  = var.region
  name    = "${var.name}-nat"
  labels  = var.labels
}

resource "google_compute_router" "this" {
  count = var.internet ? 1 : 0

  project = var.project_id
  region  = var.region
  name    = var.name
  network = google_compute_network.this.id
}

resource "google_compute_router_nat" "this" {
  count = var.internet ? 1 : 0

  project                            = var.project_id
  region                             = var.region
  name                               = var.name
  router                             = google_compute_router.this[0].name
  nat_ip_allocate_option             = "MANUAL_ONLY"
  nat_ips                            = [google_compute_address.nat[0].id]
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS"

  subnetwork {
    name                    = google_compute_subnetwork.this.id
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }

  log_config {
    enable = true
    filter = "ERRORS_ONLY"
  }
}
