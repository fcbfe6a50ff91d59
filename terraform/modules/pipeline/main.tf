locals {
  parts = regex("^(?P<id>[^@]+)@(?P<project>[^.]+)\\.iam\\.gserviceaccount\\.com$", var.account)
  ours  = local.parts.project == var.project_id

  member = "serviceAccount:${var.account}"
  id     = "projects/${local.parts.project}/serviceAccounts/${var.account}"
}

# Who the pipeline's jobs are. It has no keys, and nobody may act as it but the worker that launches them.
resource "google_service_account" "this" {
  count = local.ours ? 1 : 0

  project      = var.project_id
  account_id   = local.parts.id
  display_name = "Penstock pipeline ${var.name}"
  description  = substr(var.purpose, 0, max(0, [for n in range(257) : n if length(base64encode(substr(var.purpose, 0, n))) <= 340]...)) # 255 bytes, whole characters: the API takes 256 bytes
}

resource "google_service_account_iam_member" "worker" {
  service_account_id = local.id
  role               = "roles/iam.serviceAccountUser"
  member             = "serviceAccount:${var.worker}"

  depends_on = [google_service_account.this]
}
