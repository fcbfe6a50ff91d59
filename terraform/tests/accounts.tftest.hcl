# Who may do what, derived from the pipelines files.
mock_provider "google" {
  mock_resource "google_service_account" {
    defaults = {
      name   = "projects/acme-data/serviceAccounts/mocked@acme-data.iam.gserviceaccount.com"
      email  = "mocked@acme-data.iam.gserviceaccount.com"
      member = "serviceAccount:mocked@acme-data.iam.gserviceaccount.com"
    }
  }
}

variables {
  project         = { id = "acme-data", number = "123456789012" }
  region          = "us-central1"
  deployment      = "prod"
  pipelines       = "tests/pipelines/one"
  functions       = { archive = "tests/functions.zip" }
  temporal        = { address = "us-central1.gcp.api.temporal.io:7233", namespace = "pipelines.acme1" }
  builds          = { b1 = { image = "us-docker.pkg.dev/acme/worker@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef" } }
  enable_services = false
  observability   = null
}

run "a_pipeline_reaches_what_its_file_tells" {
  command = plan

  variables {
    access                = { orders = { write = ["archive"], read = ["rejects"], subscriptions = ["projects/acme-data/subscriptions/s"] } }
    template_repositories = ["projects/acme-data/locations/us-central1/repositories/templates"]
  }

  assert {
    condition = output.pipelines["orders"].access.buckets == tomap({
      landing   = "read"  # its trigger
      templates = "read"  # its templates
      uploads   = "read"  # its other trigger
      schemas   = "read"  # a parameter that does not say that it is written
      rejects   = "write" # one that does; that it may be read too takes nothing away
      scratch   = "write" # temporary files
      archive   = "write" # asked for
    })
    error_message = "Buckets: ${jsonencode(output.pipelines["orders"].access.buckets)}"
  }
  assert {
    condition     = output.pipelines["orders"].access.datasets == tomap({ "acme-data.sales" = "write", "acme-data.reference" = "read" })
    error_message = "Datasets: ${jsonencode(output.pipelines["orders"].access.datasets)}"
  }
  assert {
    condition     = output.pipelines["orders"].access.repositories == toset(["projects/acme-data/locations/us-central1/repositories/beam", "projects/acme-data/locations/us-central1/repositories/templates"])
    error_message = "Repositories: ${jsonencode(output.pipelines["orders"].access.repositories)}"
  }
  assert {
    condition     = output.pipelines["orders"].account == "orders@acme-data.iam.gserviceaccount.com"
    error_message = "The account is the file's."
  }
  assert {
    condition     = toset(keys(google_storage_bucket_iam_member.templates)) == toset(["templates"])
    error_message = "The worker reads templates, which a launch needs, and no other bucket of the files; Google's own everybody reads."
  }
}

run "a_build_reads_what_cloud_functions_copied" {
  command = plan

  assert {
    condition     = google_project_iam_member.build_source.role == "roles/storage.objectViewer" && google_project_iam_member.build_source.condition[0].expression == "resource.name == 'projects/_/buckets/gcf-v2-sources-123456789012-us-central1' || resource.name.startsWith('projects/_/buckets/gcf-v2-sources-123456789012-us-central1/')"
    error_message = "The build reads the bucket of sources, and no other: ${google_project_iam_member.build_source.condition[0].expression}"
  }
}

run "a_pipeline_s_grants_are_on_resources" {
  command = plan

  module {
    source = "./modules/pipeline"
  }

  variables {
    project_id = "acme-data"
    name       = "orders"
    purpose    = "Load orders."
    account    = "orders@acme-data.iam.gserviceaccount.com"
    worker     = "worker@acme-data.iam.gserviceaccount.com"
    job_role   = "projects/acme-data/roles/penstock_prod_job"
    access     = { buckets = { landing = "read", clean = "write" }, datasets = { "acme-data.sales" = "write" } }
  }

  assert {
    condition     = google_service_account_iam_member.worker.role == "roles/iam.serviceAccountUser" && google_service_account_iam_member.worker.member == "serviceAccount:worker@acme-data.iam.gserviceaccount.com"
    error_message = "The worker may act as the pipeline's account."
  }
  assert {
    condition     = google_storage_bucket_iam_member.this["landing"].role == "roles/storage.objectViewer" && google_storage_bucket_iam_member.this["clean"].role == "roles/storage.objectUser"
    error_message = "Input is read, output is written."
  }
  assert {
    condition     = { for b, g in google_storage_bucket_iam_member.look : b => g.role } == { landing = "roles/storage.legacyBucketReader", clean = "roles/storage.legacyBucketReader" }
    error_message = "Beam looks at each bucket before it uses it."
  }
  assert {
    condition     = toset([for g in google_project_iam_member.this : g.role]) == toset(["projects/acme-data/roles/penstock_prod_job", "roles/bigquery.jobUser", "roles/bigquery.readSessionUser"])
    error_message = "On the project there is only what no smaller resource has: ${join(", ", [for g in google_project_iam_member.this : g.role])}"
  }
  assert {
    condition     = google_service_account.this[0].description == "Load orders."
    error_message = "The account says what it is for: ${google_service_account.this[0].description}"
  }
}

run "another_project_s_account_is_used_not_made" {
  command = plan

  module {
    source = "./modules/pipeline"
  }

  variables {
    project_id = "acme-data"
    name       = "orders"
    purpose    = "Load orders."
    account    = "orders@elsewhere.iam.gserviceaccount.com"
    worker     = "worker@acme-data.iam.gserviceaccount.com"
    job_role   = "projects/acme-data/roles/penstock_prod_job"
    access     = { buckets = { landing = "read" } }
  }

  assert {
    condition     = length(google_service_account.this) == 0 && google_service_account_iam_member.worker.service_account_id == "projects/elsewhere/serviceAccounts/orders@elsewhere.iam.gserviceaccount.com"
    error_message = "An account of another project is there already."
  }
  assert {
    condition     = toset([for g in google_project_iam_member.this : g.role]) == toset(["projects/acme-data/roles/penstock_prod_job"])
    error_message = "Without datasets there are no roles of BigQuery."
  }
}

run "a_long_purpose_is_cut_by_bytes" {
  command = plan

  module {
    source = "./modules/pipeline"
  }

  variables {
    project_id = "acme-data"
    name       = "orders"
    purpose    = join("", [for n in range(200) : "é"]) # two bytes each
    account    = "orders@acme-data.iam.gserviceaccount.com"
    worker     = "worker@acme-data.iam.gserviceaccount.com"
    job_role   = "projects/acme-data/roles/penstock_prod_job"
    access     = {}
  }

  assert {
    condition     = google_service_account.this[0].description == join("", [for n in range(127) : "é"])
    error_message = "The API takes 256 bytes, and no half character: ${length(google_service_account.this[0].description)}"
  }
}

run "temporal_is_reached_with_a_key_that_can_be_rotated" {
  command = plan

  module {
    source = "./modules/temporal_connection"
  }

  variables {
    name       = "penstock-prod-temporal"
    labels     = {}
    connection = { address = "temporal:7233", namespace = "pipelines", authentication = "api-key", rotation = { period = "7776000s", first = "2027-01-04T09:00:00Z" } }
    readers    = { worker = "serviceAccount:worker@acme-data.iam.gserviceaccount.com" }
    rotators   = ["serviceAccount:rotator@acme-data.iam.gserviceaccount.com"]
  }

  assert {
    condition     = output.environment["PENSTOCK_TEMPORAL_API_KEY_FILE"] == "/etc/secrets/temporal-api-key/value" && !contains(keys(output.environment), "TEMPORAL_API_KEY")
    error_message = "The key is a file, which is read again, and no variable."
  }
  assert {
    condition     = google_secret_manager_secret.this["api-key"].rotation[0].rotation_period == "7776000s" && length(google_secret_manager_secret.this["api-key"].topics) == 1
    error_message = "The secret says when its rotation is due."
  }
  assert {
    condition     = length(google_secret_manager_secret_iam_member.rotator) == 2 && length(google_secret_manager_secret_iam_member.reader) == 1
    error_message = "The rotator may add and read versions; the worker reads."
  }
}

run "temporal_is_reached_by_certificate" {
  command = plan

  module {
    source = "./modules/temporal_connection"
  }

  variables {
    name       = "penstock-prod-temporal"
    labels     = {}
    connection = { address = "temporal.internal:7233", namespace = "pipelines", authentication = "mtls", server_name = "temporal" }
    readers    = { worker = "serviceAccount:worker@acme-data.iam.gserviceaccount.com" }
  }

  assert {
    condition = tomap(output.environment) == tomap({
      TEMPORAL_ADDRESS              = "temporal.internal:7233"
      TEMPORAL_NAMESPACE            = "pipelines"
      TEMPORAL_TLS                  = "true"
      TEMPORAL_TLS_SERVER_NAME      = "temporal"
      TEMPORAL_TLS_CLIENT_CERT_PATH = "/etc/secrets/temporal-client-certificate/value"
      TEMPORAL_TLS_CLIENT_KEY_PATH  = "/etc/secrets/temporal-client-key/value"
    })
    error_message = "Environment: ${jsonencode(output.environment)}"
  }
}

run "temporal_of_one_s_own_without_credentials" {
  command = plan

  module {
    source = "./modules/temporal_connection"
  }

  variables {
    name       = "penstock-prod-temporal"
    labels     = {}
    connection = { address = "temporal.internal:7233", namespace = "default", authentication = "none" }
    readers    = { worker = "serviceAccount:worker@acme-data.iam.gserviceaccount.com" }
  }

  assert {
    condition     = length(output.secrets) == 0 && tomap(output.environment) == tomap({ TEMPORAL_ADDRESS = "temporal.internal:7233", TEMPORAL_NAMESPACE = "default" })
    error_message = "Nothing is mounted, and no TLS is asked for."
  }
}

run "keys_are_rotated_by_a_rotator_of_their_own" {
  command = plan

  module {
    source = "./modules/rotation"
  }

  variables {
    name              = "penstock-prod-rotator"
    labels            = {}
    account           = "rotator@acme-data.iam.gserviceaccount.com"
    role              = "projects/acme-data/roles/penstock_prod_rotator"
    push              = "push@acme-data.iam.gserviceaccount.com"
    image             = "acme/rotator@sha256:1111"
    environment       = { TEMPORAL_ADDRESS = "temporal:7233", PENSTOCK_TEMPORAL_API_KEY_FILE = "/etc/secrets/temporal-api-key/value" }
    key               = { secret = "penstock-prod-temporal-api-key", owner = "one" }
    cloud_key         = { secret = "penstock-prod-temporal-cloud-key", owner = "two" }
    grace             = "20m"
    retire            = "2h"
    lifetime          = "2160h"
    topic             = "projects/acme-data/topics/rotation"
    dead_letter_topic = "projects/acme-data/topics/dead"
    network           = null
  }

  assert {
    condition = jsondecode({ for e in google_cloud_run_v2_service.this.template[0].containers[0].env : e.name => e.value }["PENSTOCK_ROTATION_SECRETS"]) == [
      { secret = "projects/acme-data/secrets/penstock-prod-temporal-api-key", owner = "one", for = "namespace" },
      { secret = "projects/acme-data/secrets/penstock-prod-temporal-cloud-key", owner = "two", for = "cloud" },
    ]
    error_message = "It rotates the key of functions and worker, and its own."
  }
  assert {
    condition     = !contains([for e in google_cloud_run_v2_service.this.template[0].containers[0].env : e.name], "PENSTOCK_TEMPORAL_API_KEY_FILE")
    error_message = "It tries new keys, and has none mounted to call the namespace with."
  }
  assert {
    condition     = toset([for g in google_secret_manager_secret_iam_member.rotator : "${g.secret_id} ${g.role}"]) == toset(["penstock-prod-temporal-api-key projects/acme-data/roles/penstock_prod_rotator", "penstock-prod-temporal-cloud-key projects/acme-data/roles/penstock_prod_rotator"]) && google_pubsub_subscription.this.push_config[0].oidc_token[0].service_account_email == "push@acme-data.iam.gserviceaccount.com"
    error_message = "It has its own role on both secrets, and is told with a token."
  }
  assert {
    condition     = alltrue([for kind in ["SECRET_ROTATE", "SECRET_VERSION_ADD", "SECRET_VERSION_ENABLE"] : strcontains(google_pubsub_subscription.this.filter, "attributes.eventType = \"${kind}\"")])
    error_message = "It is told of what it does something about: ${google_pubsub_subscription.this.filter}"
  }
  assert {
    condition = { for e in google_cloud_run_v2_service.this.template[0].containers[0].env : e.name => e.value if contains(["PENSTOCK_ROTATION_GRACE", "PENSTOCK_ROTATION_RETIRE", "PENSTOCK_ROTATION_LIFETIME"], e.name) } == {
      PENSTOCK_ROTATION_GRACE    = "20m"
      PENSTOCK_ROTATION_RETIRE   = "2h"
      PENSTOCK_ROTATION_LIFETIME = "2160h"
    }
    error_message = "It is told how long to wait, and how long keys are valid."
  }
}

run "a_rotation_takes_as_long_as_it_is_asked_to" {
  command = plan

  variables {
    temporal = {
      address   = "us-central1.gcp.api.temporal.io:7233"
      namespace = "pipelines.acme1"
      rotation = {
        first   = "2027-01-04T09:00:00Z"
        rotator = { image = "us-docker.pkg.dev/acme/rotator@sha256:0f3a9c1d2b4e5f60718293a4b5c6d7e8f90112233445566778899aabbccddeef", owner = "one", cloud_owner = "two", retire = "90m" }
      }
    }
  }

  assert {
    condition     = local.rotator_retire == 5400
    error_message = "90m are 5400 s, not ${local.rotator_retire}."
  }
}

run "a_rotator_that_is_in_trouble_is_noticed" {
  command = plan

  module {
    source = "./modules/observability"
  }

  variables {
    name          = "penstock-prod"
    labels        = {}
    emails        = []
    channels      = []
    slo           = 0.999
    budget        = null
    thresholds    = { oldest_unacked = 1800, errors = 5, dead_letters = 0, schedule_latency = 60 }
    functions     = ["penstock-prod-storage"]
    subscriptions = []
    dead_letters  = "penstock-prod-dead-letters"
    rotator       = { name = "penstock-prod-rotator", retire = 7200 }
  }

  assert {
    condition     = length(setsubtract(["rotation-failed", "rotation-due", "key-left"], output.alerts)) == 0 && strcontains(google_logging_metric.rotation[0].filter, "service_name=\"penstock-prod-rotator\"")
    error_message = "Watched: ${jsonencode(output.alerts)}"
  }
  assert {
    condition = alltrue([
      for c in google_monitoring_alert_policy.this["rotation-failed"].conditions[0].condition_threshold :
      c.threshold_value == 3 && c.aggregations[0].alignment_period == "3600s"
    ])
    error_message = "One failure is no harm, several are; they come ten minutes apart."
  }
  assert {
    condition = alltrue([
      for c in google_monitoring_alert_policy.this["rotation-unacked"].conditions[0].condition_threshold :
      c.threshold_value == 14400 && strcontains(c.filter, "subscription_id=\"penstock-prod-rotator\"")
    ])
    error_message = "A notice waits until the old key is deleted when all goes well, and no longer."
  }
}

run "without_a_rotator_nothing_watches_one" {
  command = plan

  module {
    source = "./modules/observability"
  }

  variables {
    name          = "penstock-prod"
    labels        = {}
    emails        = []
    channels      = []
    slo           = 0.999
    budget        = null
    thresholds    = { oldest_unacked = 1800, errors = 5, dead_letters = 0, schedule_latency = 60 }
    functions     = ["penstock-prod-storage"]
    subscriptions = []
    dead_letters  = "penstock-prod-dead-letters"
  }

  assert {
    condition     = length(setintersection(["rotation-unacked", "rotation-failed", "rotation-due", "key-left"], output.alerts)) == 0 && length(google_logging_metric.rotation) == 0
    error_message = "Watched: ${jsonencode(output.alerts)}"
  }
  assert {
    condition     = contains(output.alerts, "schedule-latency") && alltrue([for c in google_monitoring_alert_policy.this["schedule-latency"].conditions[0].condition_threshold : c.threshold_value == 60])
    error_message = "Watched: ${jsonencode(output.alerts)}"
  }
}

run "github_is_known_by_what_nobody_else_can_have" {
  command = plan

  module {
    source = "./bootstrap"
  }

  variables {
    project_id     = "acme-data"
    project_number = "123456789012"
    state_bucket   = "acme-state"
    github         = "acme/pipelines"
    github_id      = "123456789"
  }

  assert {
    condition     = module.federation[0].conditions["github"] == "assertion.repository_id == '123456789' && assertion.repository == 'acme/pipelines' && assertion.ref == 'refs/heads/main' && assertion.event_name != 'pull_request_target'"
    error_message = "Let in: ${module.federation[0].conditions["github"]}"
  }
}
