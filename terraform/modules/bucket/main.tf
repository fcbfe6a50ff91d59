# A bucket that nobody outside can be let into by accident.
resource "google_storage_bucket" "this" {
  project  = var.project_id
  name     = var.name
  location = var.location
  labels   = var.labels

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = false
  deletion_policy             = var.holds_data && var.protected ? "PREVENT" : "DELETE"

  versioning {
    enabled = var.holds_data
  }

  soft_delete_policy {
    retention_duration_seconds = var.holds_data ? 30 * 24 * 3600 : 0
  }

  # Old versions are for mistakes, not for history.
  dynamic "lifecycle_rule" {
    for_each = var.holds_data ? [30] : []

    content {
      action {
        type = "Delete"
      }
      condition {
        days_since_noncurrent_time = lifecycle_rule.value
        with_state                 = "ARCHIVED"
      }
    }
  }
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = var.members

  bucket = google_storage_bucket.this.name
  role   = each.value.role
  member = each.value.member
}
