# What delivers events, derived from the pipelines files. Nothing is made: the provider is mocked.
mock_provider "google" {
  mock_resource "google_cloudfunctions2_function" {
    defaults = {
      service_config = { uri = "https://function-abc-uc.a.run.app" }
    }
  }
}

variables {
  project    = { id = "acme-data", number = "123456789012" }
  region     = "us-central1"
  deployment = "prod"
  pipelines  = "tests/pipelines/one"
  functions  = { archive = "tests/functions.zip" }
  temporal   = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1" }
  builds     = { b1 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" } }
}

run "each_source_is_delivered_once" {
  command = apply

  assert {
    condition     = toset(keys(module.trigger)) == toset(["StorageTrigger", "PubSubTrigger", "JobStatus"])
    error_message = "Entry points that something arrives at are deployed, and no others: ${join(", ", keys(module.trigger))}"
  }
  assert {
    condition     = toset(module.trigger["StorageTrigger"].subscriptions) == toset(["penstock-prod-storage-bucket-landing", "penstock-prod-storage-bucket-uploads"])
    error_message = "Each bucket has one subscription."
  }
  assert {
    condition     = length(module.trigger["PubSubTrigger"].subscriptions) == 2
    error_message = "Topics of the same ID in two projects are two."
  }
  assert {
    condition     = toset(keys(module.trigger["JobStatus"].eventarc_subscriptions)) == toset(["us-central1", "europe-west4"])
    error_message = "Each location of jobs has one trigger for their status."
  }
  assert {
    condition = alltrue([
      for name in ["penstock-prod-storage-bucket-landing", "penstock-prod-pubsub-topic-ready", "penstock-prod-status-us-central1", "penstock-prod-status-europe-west4"] :
      strcontains(module.observability[0].filters["oldest-unacked"], "\"${name}\"")
    ])
    error_message = "What waits is noticed in every subscription, those that Eventarc makes among them: ${module.observability[0].filters["oldest-unacked"]}"
  }
}

run "patience_is_stated" {
  command = plan

  assert {
    condition     = output.outage == 15.6
    error_message = "100 attempts with waits of 10, 20, 40 ... 600 s take 15.6 hours, not ${output.outage}."
  }
}

run "eventarc_forgets_after_a_day" {
  command = plan

  variables {
    delivery  = "eventarc"
    pipelines = "tests/pipelines/workflow"
  }

  assert {
    condition     = output.outage == 24 && length(module.trigger["StorageTrigger"].subscriptions) == 0 && length(module.trigger["StorageTrigger"].eventarc_subscriptions) == 1
    error_message = "By Eventarc there are triggers, no subscriptions, and 24 hours."
  }
  assert {
    condition     = google_project_iam_member.storage_events[0].role == "roles/pubsub.publisher"
    error_message = "Cloud Storage must be able to publish to the topics that Eventarc makes."
  }
}

run "the_longest_names_fit" {
  command = plan

  variables {
    delivery   = "eventarc"
    deployment = "abcdefghijkl"
    pipelines  = "tests/pipelines/long_names"
  }

  assert {
    condition     = alltrue(flatten([for t in module.trigger : [for name in keys(t.eventarc_subscriptions) : length("${t.name}-${name}") <= 63]]))
    error_message = "Eventarc takes names of 63 characters: ${join(", ", flatten([for t in module.trigger : [for name in keys(t.eventarc_subscriptions) : "${t.name}-${name}" if length("${t.name}-${name}") > 63]]))}"
  }
  assert {
    condition     = alltrue([for a in google_service_account.function : length(a.account_id) <= 30]) && length(google_service_account.worker.account_id) <= 30
    error_message = "An account's ID has 30 characters at most."
  }
}

run "other_events" {
  command = apply

  variables {
    pipelines = "tests/pipelines/generic"
    events    = { audit = { type = "google.cloud.audit.log.v1.written", filters = { serviceName = "bigquery.googleapis.com" } } }
  }

  assert {
    condition     = toset(keys(module.trigger["EventTrigger"].eventarc_subscriptions)) == toset(["audit", "jobs-asia-east1"])
    error_message = "What is named, and job status of the location that the file asks for."
  }
}
