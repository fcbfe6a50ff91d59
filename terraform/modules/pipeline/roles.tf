# The roles of all pipelines, in one place: a file's accesses are mapped to them.
locals {
  roles = {
    # Work items and metrics of jobs have no resource smaller than the project.
    job = var.job_role

    # Beam and Dataflow look at a bucket before they use it (storage.buckets.get), which no role for objects allows.
    any_bucket = "roles/storage.legacyBucketReader"
    bucket = {
      read  = "roles/storage.objectViewer"
      write = "roles/storage.objectUser" # Beam writes under a temporary name, lists, renames and deletes
    }
    dataset = {
      read  = "roles/bigquery.dataViewer"
      write = "roles/bigquery.dataEditor"
    }
    # Queries, load jobs and read sessions belong to a project, not to a dataset.
    bigquery = ["roles/bigquery.jobUser", "roles/bigquery.readSessionUser"]

    subscription = ["roles/pubsub.subscriber", "roles/pubsub.viewer"]
    topic        = "roles/pubsub.publisher"
    repository   = "roles/artifactregistry.reader"
  }

  # By a name of their own: the job's is known after the apply only where it has just been made.
  project_roles = merge(
    { job = local.roles.job },
    { for r in local.roles.bigquery : r => r if length(var.access.datasets) > 0 },
  )
}

# Grants wait for the account that they are for.
resource "google_project_iam_member" "this" {
  for_each = local.project_roles

  project = var.project_id
  role    = each.value
  member  = local.member

  depends_on = [google_service_account.this]
}

resource "google_storage_bucket_iam_member" "this" {
  for_each = var.access.buckets

  bucket = each.key
  role   = local.roles.bucket[each.value]
  member = local.member

  depends_on = [google_service_account.this]
}

resource "google_storage_bucket_iam_member" "look" {
  for_each = var.access.buckets

  bucket = each.key
  role   = local.roles.any_bucket
  member = local.member

  depends_on = [google_service_account.this]
}

resource "google_bigquery_dataset_iam_member" "this" {
  for_each = var.access.datasets

  project    = split(".", each.key)[0]
  dataset_id = split(".", each.key)[1]
  role       = local.roles.dataset[each.value]
  member     = local.member

  depends_on = [google_service_account.this]
}

resource "google_pubsub_subscription_iam_member" "this" {
  for_each = { for pair in setproduct(var.access.subscriptions, local.roles.subscription) : "${pair[0]} ${pair[1]}" => { subscription = pair[0], role = pair[1] } }

  project      = split("/", each.value.subscription)[1]
  subscription = split("/", each.value.subscription)[3]
  role         = each.value.role
  member       = local.member

  depends_on = [google_service_account.this]
}

resource "google_pubsub_topic_iam_member" "this" {
  for_each = var.access.topics

  project = split("/", each.value)[1]
  topic   = split("/", each.value)[3]
  role    = local.roles.topic
  member  = local.member

  depends_on = [google_service_account.this]
}

resource "google_artifact_registry_repository_iam_member" "this" {
  for_each = var.access.repositories

  project    = split("/", each.value)[1]
  location   = split("/", each.value)[3]
  repository = split("/", each.value)[5]
  role       = local.roles.repository
  member     = local.member

  depends_on = [google_service_account.this]
}
