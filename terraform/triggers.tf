# What has to be delivered follows from the files' triggers: each bucket and each topic once, however many pipelines want it.
locals {
  triggers = flatten([for name, p in local.pipeline : [for t in p.triggers : { pipeline = name, on = t }]])

  storage = [
    for t in local.triggers : {
      bucket = t.on.storage.bucket
      kinds  = try(t.on.storage.kinds, ["finalized"])
      prefix = try(regex("^[^*?\\[{\\\\]*", t.on.storage.object), "")
    } if can(t.on.storage.bucket)
  ]

  trigger_buckets = distinct(local.storage[*].bucket)
  trigger_topics  = distinct([for t in local.triggers : startswith(t.on.pubsub.topic, "projects/") ? t.on.pubsub.topic : "projects/${var.project.id}/topics/${t.on.pubsub.topic}" if can(t.on.pubsub.topic)])

  buckets = {
    for b in local.trigger_buckets : b => {
      kinds = distinct(flatten([for s in local.storage : s.kinds if s.bucket == b]))
      # Where all patterns begin alike, the rest of the bucket need not be told of.
      prefix   = length(distinct([for s in local.storage : s.prefix if s.bucket == b])) == 1 ? [for s in local.storage : s.prefix if s.bucket == b][0] : ""
      location = lower(coalesce(try(var.sources.buckets[b].location, null), var.region))
    }
  }

  generic = distinct([for t in local.triggers : { type = t.on.event.type, source = try(t.on.event.source, "") } if can(t.on.event.type)])

  status = "google.cloud.dataflow.job.v1beta3.statusChanged"

  undelivered_types = setsubtract([for e in local.generic : e.type], [local.status])

  # Names of what delivers: a readable part, and a few digits where it is not the whole.
  slug = {
    for name in concat(local.trigger_buckets, local.trigger_topics) : name => (
      startswith(name, "projects/${var.project.id}/topics/") ? "topic-${split("/", name)[3]}" :
      startswith(name, "projects/") ? "topic-${split("/", name)[3]}-${substr(sha256(name), 0, 6)}" : "bucket-${name}"
    )
  }
  # An Eventarc trigger's name has 63 characters at most.
  short = { for name in keys(local.slug) : name => "${trim(substr(replace(lower(split("/", name)[length(split("/", name)) - 1]), "/[^a-z0-9]+/", "-"), 0, 10), "-")}-${substr(sha256(name), 0, 6)}" }

  pushed = var.delivery == "subscription"

  bucket_subscriptions = { for b, s in local.buckets : local.slug[b] => { bucket = b, kinds = s.kinds, prefix = s.prefix } if local.pushed }
  topic_subscriptions  = { for t in local.trigger_topics : local.slug[t] => { topic = local.topic[t] } if local.pushed }

  bucket_eventarc = merge([
    for b, s in local.buckets : {
      for kind in s.kinds : "${lower(kind)}-${local.short[b]}" => {
        location = s.location
        filters  = { type = "google.cloud.storage.object.v1.${kind}", bucket = b }
      } if !local.pushed
    }
  ]...)
  topic_eventarc = {
    for t in local.trigger_topics : local.short[t] => {
      location = var.region
      filters  = { type = "google.cloud.pubsub.topic.v1.messagePublished" }
      topic    = local.topic[t]
    } if !local.pushed
  }
  event_eventarc = merge(
    {
      for name, e in var.events : name => {
        location = coalesce(e.location, var.region)
        filters  = merge(e.filters, { type = e.type })
        channel  = e.channel
      }
    },
    {
      for location in distinct(flatten([
        for e in local.generic : can(regex("/locations/([^/]+)$", e.source)) ? regex("/locations/([^/]+)$", e.source) : local.job_locations
        if e.type == local.status
      ])) : "jobs-${location}" => { location = location, filters = { type = local.status } }
    },
  )
  # Of a trigger's location, whatever jobs there are: Eventarc filters them by their whole name or not at all.
  status_eventarc = { for location in local.job_locations : location => { location = location, filters = { type = local.status } } }

  # The entry points that something arrives at.
  entry_points = {
    for name, f in {
      StorageTrigger = { slug = "storage", subscriptions = local.bucket_subscriptions, eventarc = local.bucket_eventarc }
      PubSubTrigger  = { slug = "pubsub", subscriptions = local.topic_subscriptions, eventarc = local.topic_eventarc }
      EventTrigger   = { slug = "events", subscriptions = {}, eventarc = local.event_eventarc }
      JobStatus      = { slug = "status", subscriptions = {}, eventarc = local.status_eventarc }
    } : name => f if length(f.subscriptions) + length(f.eventarc) > 0
  }
}

module "trigger" {
  source   = "./modules/trigger"
  for_each = local.entry_points

  project     = var.project
  region      = var.region
  name        = "${local.name}-${each.value.slug}"
  deployment  = var.deployment
  labels      = local.labels
  entry_point = each.key

  # Named by its content: what did not change is not deployed again.
  source_archive = {
    bucket = google_storage_bucket_object.functions.bucket
    object = google_storage_bucket_object.functions.name
  }
  build = {
    runtime    = var.functions.runtime
    account    = local.deployed_accounts["build"]
    repository = "projects/${var.project.id}/locations/${var.region}/repositories/${google_artifact_registry_repository.functions.repository_id}"
  }
  runtime = merge(var.functions, { account = google_service_account.function[each.key].email })
  environment = merge(module.temporal_connection.environment, {
    GOOGLE_CLOUD_PROJECT = var.project.id
    PENSTOCK_DEPLOYMENT  = var.deployment
    PENSTOCK_LOCATION    = local.job_location
    PENSTOCK_LOG_LEVEL   = var.functions.log_level
  })
  secrets           = module.temporal_connection.secrets
  network           = var.network
  push              = google_service_account.push.email
  dead_letter_topic = module.dead_letters.topic
  subscriptions     = each.value.subscriptions
  retry             = var.retry
  eventarc          = each.value.eventarc

  depends_on = [
    google_artifact_registry_repository_iam_member.build,
    google_project_iam_member.build,
    google_project_iam_member.build_source,
    google_project_iam_member.eventarc,
    google_project_iam_member.storage_events,
    google_service_account_iam_member.push_tokens,
    google_service_account_iam_member.deployer,
    module.source_bucket,
  ]
}

# Buckets and topics that are asked to be made here.
module "source_bucket" {
  source   = "./modules/bucket"
  for_each = { for b, s in var.sources.buckets : b => s if s.create }

  project_id = var.project.id
  name       = each.key
  location   = coalesce(each.value.location, var.region)
  labels     = local.labels
  holds_data = true
  protected  = var.protected

  depends_on = [google_project_service.this]
}

resource "google_pubsub_topic" "source" {
  for_each = { for t, s in var.sources.topics : "projects/${var.project.id}/topics/${t}" => t if s.create }

  project         = var.project.id
  name            = each.value
  labels          = local.labels
  deletion_policy = var.protected ? "PREVENT" : "DELETE"

  depends_on = [google_project_service.this]
}

locals {
  # A topic that is made here is known once it is.
  topic = { for t in local.trigger_topics : t => try("projects/${var.project.id}/topics/${google_pubsub_topic.source[t].name}", t) }
}
