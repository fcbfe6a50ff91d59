# One function and its deliveries.
mock_provider "google" {
  mock_resource "google_cloudfunctions2_function" {
    defaults = {
      service_config = { uri = "https://function-abc-uc.a.run.app" }
    }
  }
  mock_resource "google_pubsub_topic" {
    defaults = { id = "projects/acme-data/topics/penstock-prod-storage-bucket-landing" }
  }
}

variables {
  project           = { id = "acme-data", number = "123456789012" }
  region            = "us-central1"
  name              = "penstock-prod-storage"
  deployment        = "prod"
  labels            = { penstock_deployment = "prod", managed_by = "terraform" }
  entry_point       = "StorageTrigger"
  source_archive    = { bucket = "source", object = "functions-0123.zip" }
  build             = { runtime = "go126", account = "projects/acme-data/serviceAccounts/build@acme-data.iam.gserviceaccount.com", repository = "projects/acme-data/locations/us-central1/repositories/functions" }
  runtime           = { account = "f@acme-data.iam.gserviceaccount.com", min_instances = 0, max_instances = 20, concurrency = 80, cpu = "1", memory = "512Mi", timeout = 60 }
  environment       = { PENSTOCK_DEPLOYMENT = "prod" }
  secrets           = { api-key = { id = "key", mount_path = "/etc/secrets/temporal-api-key", file = "value" } }
  network           = null
  push              = "push@acme-data.iam.gserviceaccount.com"
  dead_letter_topic = "projects/acme-data/topics/dead"
  retry             = { attempts = 100, minimum_backoff = 10, maximum_backoff = 600, ack_deadline = 90, retention = 604800 }
  subscriptions = {
    bucket-landing = { bucket = "landing", kinds = ["finalized", "archived"], prefix = "orders/" }
    topic-odd      = { topic = "projects/acme-data/topics/a+b%c" }
  }
}

run "by_subscription" {
  command = apply

  module {
    source = "./modules/trigger"
  }

  assert {
    condition     = google_pubsub_subscription.this["bucket-landing"].push_config[0].push_endpoint == "https://function-abc-uc.a.run.app/?topic=projects/acme-data/topics/penstock-prod-storage-bucket-landing"
    error_message = "The endpoint is the function's own address, and names the topic: ${google_pubsub_subscription.this["bucket-landing"].push_config[0].push_endpoint}"
  }
  assert {
    condition     = google_pubsub_subscription.this["topic-odd"].push_config[0].push_endpoint == "https://function-abc-uc.a.run.app/?topic=projects/acme-data/topics/a%2Bb%25c"
    error_message = "What a query would read as something else is encoded: ${google_pubsub_subscription.this["topic-odd"].push_config[0].push_endpoint}"
  }
  assert {
    condition     = google_pubsub_subscription.this["bucket-landing"].push_config[0].oidc_token[0].audience == "https://function-abc-uc.a.run.app" && google_pubsub_subscription.this["bucket-landing"].push_config[0].oidc_token[0].service_account_email == "push@acme-data.iam.gserviceaccount.com"
    error_message = "A push comes with a token of the push identity for the function."
  }
  assert {
    condition     = google_pubsub_subscription.this["bucket-landing"].dead_letter_policy[0].max_delivery_attempts == 100 && google_pubsub_subscription.this["bucket-landing"].dead_letter_policy[0].dead_letter_topic == "projects/acme-data/topics/dead"
    error_message = "What cannot be delivered ends in the dead letters, after as many attempts as there may be."
  }
  assert {
    condition     = google_storage_notification.this["bucket-landing"].event_types == toset(["OBJECT_FINALIZE", "OBJECT_ARCHIVE"]) && google_storage_notification.this["bucket-landing"].object_name_prefix == "orders/" && google_storage_notification.this["bucket-landing"].payload_format == "JSON_API_V1"
    error_message = "The bucket tells of the changes that count, below the prefix that all patterns share, with metadata."
  }
  assert {
    condition     = google_pubsub_topic_iam_member.storage["bucket-landing"].member == "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
    error_message = "Cloud Storage may publish to the bucket's topic."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].ingress_settings == "ALLOW_INTERNAL_ONLY" && google_cloudfunctions2_function.this.service_config[0].secret_volumes[0].versions[0].version == "latest"
    error_message = "The function is not public, and sees the newest version of its secret."
  }
  assert {
    condition     = google_cloud_run_v2_service_iam_member.invoker.member == "serviceAccount:push@acme-data.iam.gserviceaccount.com"
    error_message = "The push identity may call it."
  }
}

run "by_eventarc" {
  command = plan

  module {
    source = "./modules/trigger"
  }

  variables {
    subscriptions = {}
    eventarc = {
      finalized-landing = { location = "us", filters = { type = "google.cloud.storage.object.v1.finalized", bucket = "landing" } }
      ready             = { location = "us-central1", filters = { type = "google.cloud.pubsub.topic.v1.messagePublished" }, topic = "projects/acme-data/topics/ready" }
    }
    network = { network = "n", subnetwork = "s", egress = "ALL_TRAFFIC" }
  }

  assert {
    condition     = google_eventarc_trigger.this["finalized-landing"].location == "us" && length(google_eventarc_trigger.this["finalized-landing"].retry_policy) == 0 && google_eventarc_trigger.this["finalized-landing"].destination[0].cloud_run_service[0].service == "penstock-prod-storage"
    error_message = "A trigger lies where its bucket does, tries again, and delivers to the function."
  }
  assert {
    condition     = google_eventarc_trigger.this["ready"].transport[0].pubsub[0].topic == "projects/acme-data/topics/ready"
    error_message = "A message comes from its own topic."
  }
  assert {
    condition     = { for name, g in google_pubsub_subscription_iam_member.eventarc : name => "${g.role} ${g.member}" } == { for name in ["finalized-landing", "ready"] : name => "roles/pubsub.subscriber serviceAccount:service-123456789012@gcp-sa-pubsub.iam.gserviceaccount.com" }
    error_message = "Pub/Sub may take messages off the subscriptions that Eventarc makes, to forward them."
  }
  assert {
    condition     = google_cloudfunctions2_function.this.service_config[0].direct_vpc_egress == "VPC_EGRESS_ALL_TRAFFIC"
    error_message = "Calls leave by the network where there is one."
  }
}
