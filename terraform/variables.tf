variable "project" {
  description = "The project that everything is made in and jobs run in: its ID, and its number, which Google's service agents are named by. With both given, a plan asks Google Cloud nothing that it does not manage."
  type = object({
    id     = string
    number = string
  })

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project.id))
    error_message = "project.id must be a project's ID, not its number or name: `gcloud projects list` says it."
  }

  validation {
    condition     = can(regex("^[0-9]{6,20}$", var.project.number))
    error_message = "project.number must be the project's number: `gcloud projects describe ID --format='value(projectNumber)'` says it."
  }
}

variable "region" {
  description = "The region of functions and worker, and of buckets that are made."
  type        = string

  validation {
    condition     = can(regex("^[a-z]+-[a-z]+[0-9]+$", var.region))
    error_message = "region must be a region, not a zone or multi-region: try us-central1."
  }
}

variable "deployment" {
  description = "The deployment's ID: the one place where it is set. It stands in the name of every run and job, so it never changes. Each deployment of a project, and each in a Temporal namespace, has its own."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9]{1,11}$", var.deployment))
    error_message = "deployment must be 2 to 12 lower-case letters and digits, a letter first: try prod."
  }
}

variable "labels" {
  description = "Labels of everything that has labels, beside the deployment's own."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for k, v in var.labels : can(regex("^[a-z][a-z0-9_-]{0,62}$", k)) && can(regex("^[a-z0-9_-]{0,63}$", v))])
    error_message = "labels must be lower-case letters, digits, _ and -, at most 63 of them, and a name begins with a letter: try team = \"data-platform\"."
  }

  validation {
    condition     = length(setintersection(keys(var.labels), ["penstock_deployment", "managed_by"])) == 0
    error_message = "labels must not name penstock_deployment or managed_by, which are set for you: remove them."
  }
}

variable "pipelines" {
  description = "The folder of the pipelines files: the same that is staged with the functions. What has to deliver, and what may be reached, follows from them."
  type        = string

  validation {
    condition     = length([for f in fileset(var.pipelines, "*.{yaml,yml}") : f if !startswith(f, ".")]) > 0
    error_message = "pipelines must be a folder with at least one pipelines file, NAME.yaml: `penstock init` writes a first one."
  }
}

variable "job_location" {
  description = "The region of jobs whose step names none. Default: `region`."
  type        = string
  default     = null

  validation {
    condition     = var.job_location == null || can(regex("^[a-z]+-[a-z]+[0-9]+$", var.job_location))
    error_message = "job_location must be a region that Dataflow has, not a zone or multi-region: try us-central1."
  }
}

variable "functions" {
  description = <<-EOT
    The functions.
      archive        the staged source, a zip: `scripts/stage-functions -pipelines FOLDER -zip DIR` writes and names it
      runtime        what it is built with
      min_instances  how many instances of each function wait for events, and cost while they do; 0 costs nothing, and the first event a second
      max_instances  how many there may be of each function
      concurrency    how many events one instance takes at once
      timeout        seconds after which an event is given up, and delivered again
      log_level      debug also logs the events that no pipeline wants
  EOT
  type = object({
    archive       = string
    runtime       = optional(string, "go126")
    min_instances = optional(number, 0)
    max_instances = optional(number, 20)
    concurrency   = optional(number, 80)
    cpu           = optional(string, "1")
    memory        = optional(string, "512Mi")
    timeout       = optional(number, 60)
    log_level     = optional(string, "info")
  })

  validation {
    condition     = fileexists(var.functions.archive)
    error_message = "functions.archive must be the staged archive, a file that is there: run `scripts/stage-functions -pipelines FOLDER -zip DIR`, which prints its name."
  }

  validation {
    condition     = can(regex("^go1[0-9]{2}$", var.functions.runtime))
    error_message = "functions.runtime must be a Go runtime of Cloud Functions: try go126."
  }

  validation {
    condition     = var.functions.min_instances >= 0 && var.functions.max_instances >= max(1, var.functions.min_instances)
    error_message = "functions.max_instances must be at least 1, and at least min_instances, which is 0 or more."
  }

  validation {
    condition     = var.functions.concurrency > 1 && var.functions.concurrency <= 1000
    error_message = "functions.concurrency must be 2 to 1000: an event mostly waits for Temporal, so one at a time would pay for waiting. Try 80."
  }

  validation {
    condition     = can(tonumber(var.functions.cpu)) && try(tonumber(var.functions.cpu) >= 1, false)
    error_message = "functions.cpu must be at least 1, which concurrency above 1 asks for: try \"1\"."
  }

  validation {
    condition     = var.functions.timeout >= 15 && var.functions.timeout <= 540
    error_message = "functions.timeout must be 15 to 540 seconds: try 60."
  }

  validation {
    condition     = contains(["debug", "info", "warn", "error"], var.functions.log_level)
    error_message = "functions.log_level must be debug, info, warn or error."
  }
}

variable "delivery" {
  description = "How objects' changes and messages are delivered. `subscription`: by push subscriptions of our own, with a dead-letter topic and days of patience. `eventarc`: by Eventarc triggers, which forget an event after 24 hours. Dataflow's job status, and `events`, always come by Eventarc."
  type        = string
  default     = "subscription"

  validation {
    condition     = contains(["subscription", "eventarc"], var.delivery)
    error_message = "delivery must be subscription or eventarc; subscription loses nothing in an outage of a day."
  }
}

variable "retry" {
  description = <<-EOT
    How a push subscription tries again.
      attempts         deliveries before Pub/Sub gives up and forwards the event to the dead letters
      minimum_backoff  seconds before the second delivery; the wait doubles from there
      maximum_backoff  the longest wait, in seconds
      ack_deadline     seconds within which a delivery must be answered
      retention        seconds that an undelivered event is kept
  EOT
  type = object({
    attempts        = optional(number, 100)
    minimum_backoff = optional(number, 10)
    maximum_backoff = optional(number, 600)
    ack_deadline    = optional(number, 90)
    retention       = optional(number, 604800)
  })
  default = {}

  validation {
    condition     = var.retry.attempts >= 5 && var.retry.attempts <= 100
    error_message = "retry.attempts must be 5 to 100, which is what Pub/Sub takes; 100 bears the longest outage."
  }

  validation {
    condition     = var.retry.minimum_backoff >= 1 && var.retry.maximum_backoff <= 600 && var.retry.minimum_backoff <= var.retry.maximum_backoff
    error_message = "retry.minimum_backoff and maximum_backoff must be 1 to 600 seconds, the first no more than the second; 10 and 600 bear the longest outage."
  }

  validation {
    condition     = var.retry.ack_deadline >= max(60, var.functions.timeout) && var.retry.ack_deadline <= 600
    error_message = "retry.ack_deadline must be 60 to 600 seconds and no less than functions.timeout: else an event is delivered again while it is still being handled."
  }

  validation {
    condition     = var.retry.retention >= 600 && var.retry.retention <= 2678400
    error_message = "retry.retention must be 10 minutes to 31 days, in seconds; 604800 is 7 days."
  }
}

variable "sources" {
  description = <<-EOT
    What is to be known of the buckets, and of the topics of this project, that the files name, by name.
      create    make it here; by default it is somebody else's and there already
      location  of a bucket: where it lies, for Eventarc triggers and for one that is made. Default: `region`
  EOT
  type = object({
    buckets = optional(map(object({
      create   = optional(bool, false)
      location = optional(string)
    })), {})
    topics = optional(map(object({
      create = optional(bool, false)
    })), {})
  })
  default = {}

  validation {
    condition     = alltrue([for t in keys(var.sources.topics) : can(regex("^[A-Za-z][A-Za-z0-9._~+%-]{2,254}$", t))])
    error_message = "sources.topics must name topics of this project by ID: another project's are made there."
  }
}

variable "events" {
  description = <<-EOT
    What delivers the events of `event:` triggers, by a name: Eventarc triggers. Those for Dataflow's job status follow from the files.
      type      the CloudEvents type, as a file names it
      filters   the other attributes that the type is filtered by, such as serviceName and methodName of audit logs
      location  where the events come from. Default: `region`
      channel   the full name of the Eventarc channel that they come by, where they are not Google's
  EOT
  type = map(object({
    type     = string
    filters  = optional(map(string), {})
    location = optional(string)
    channel  = optional(string)
  }))
  default = {}

  validation {
    condition     = alltrue([for name in keys(var.events) : can(regex("^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$", name))])
    error_message = "The names of events must be at most 20 lower-case letters, digits and dashes: try audit."
  }

  validation {
    condition     = alltrue([for e in var.events : !contains(keys(e.filters), "type")])
    error_message = "The filters of events must not name type, which has a field of its own: move it there."
  }
}

variable "temporal" {
  description = <<-EOT
    How Temporal is reached.
      address         HOST:PORT, such as us-central1.gcp.api.temporal.io:7233
      namespace       the namespace; of Temporal Cloud NAME.ACCOUNT
      authentication  `api-key`, `mtls` or `none`. A key, or a client certificate and its key, lie in secrets that are made here; you add
                      their versions: see the output `secrets`
      server_name     the name in the server's certificate, where it is not the host's
      server_ca       the PEM certificate of the authority that signed it, where that is not a public one
      rotation        when the API key's rotation is due: every `period` (in seconds: 5184000s, 60 days), from the time `first` on, which must be
                      5 minutes ahead at least when the secret is made, and counts for nothing after that; and the `rotator` that does it on Temporal Cloud: its `image` by digest, which scripts/deploy gives as the folder's variable
                      rotator_image; the `owner` of the key and the `cloud_owner` of the key that it makes keys with (IDs of service accounts of
                      Temporal Cloud); for how long a new key is valid (`lifetime`, in hours: 2160h, 90 days); and when, after a new key was put
                      in, old versions are disabled (`grace`, 15m) and old keys deleted (`retire`, 1h)
      rotators        members that rotate it instead: people, or something of your own
      controllers     for serverless workers: Temporal's own identities, which resize the worker pools, as members
  EOT
  type = object({
    address        = string
    namespace      = string
    authentication = optional(string, "api-key")
    server_name    = optional(string)
    server_ca      = optional(string)
    rotation = optional(object({
      period = optional(string, "5184000s")
      first  = string
      rotator = optional(object({
        image       = string
        owner       = string
        cloud_owner = string
        lifetime    = optional(string)
        grace       = optional(string)
        retire      = optional(string)
      }))
    }))
    rotators    = optional(list(string), [])
    controllers = optional(list(string), [])
  })

  validation {
    condition     = can(regex("^[^:/ ]+:[0-9]{2,5}$", var.temporal.address))
    error_message = "temporal.address must be HOST:PORT without https://: try us-central1.gcp.api.temporal.io:7233."
  }

  validation {
    condition     = can(regex("^[A-Za-z0-9][A-Za-z0-9._-]*$", var.temporal.namespace))
    error_message = "temporal.namespace must name a namespace; one of Temporal Cloud is NAME.ACCOUNT."
  }

  validation {
    condition     = contains(["api-key", "mtls", "none"], var.temporal.authentication)
    error_message = "temporal.authentication must be api-key, mtls or none."
  }

  validation {
    condition     = var.temporal.authentication != "none" || !can(regex("\\.(tmprl\\.cloud|temporal\\.io):", var.temporal.address))
    error_message = "temporal.authentication is none, and Temporal Cloud lets nobody in so: try api-key."
  }

  validation {
    condition     = var.temporal.rotation == null || var.temporal.authentication == "api-key"
    error_message = "temporal.rotation is for authentication api-key: remove it."
  }

  validation {
    condition     = var.temporal.rotation == null || (can(regex("^[0-9]+s$", var.temporal.rotation.period)) && can(timeadd(var.temporal.rotation.first, "0s")))
    error_message = "temporal.rotation must have a period in seconds, such as 5184000s, and a first time such as 2027-01-04T09:00:00Z."
  }

  validation {
    condition     = var.temporal.rotation == null || try(var.temporal.rotation.rotator, null) != null || length(var.temporal.rotators) > 0
    error_message = "temporal.rotation says when to rotate, and nobody is told: name a rotator in it, or temporal.rotators."
  }

  validation {
    condition     = try(var.temporal.rotation.rotator == null || can(regex("^[^@ ]+/[^@ ]+@sha256:[0-9a-f]{64}$", var.temporal.rotation.rotator.image)), true)
    error_message = "temporal.rotation.rotator.image must be named by digest, REGISTRY/REPOSITORY@sha256:…"
  }

  validation {
    condition = try(var.temporal.rotation.rotator == null, true) || try(
      3 * tonumber(trimsuffix(var.temporal.rotation.period, "s")) <= 2 * 3600 * tonumber(trimsuffix(coalesce(var.temporal.rotation.rotator.lifetime, "2160h"), "h")),
      false
    )
    error_message = "temporal.rotation.period must be at most two thirds of temporal.rotation.rotator.lifetime, so that a rotation that fails is noticed before the key expires, and that in hours: try 5184000s (60 days) and 2160h (90)."
  }

  validation {
    condition = try(var.temporal.rotation.rotator == null, true) || try(
      [
        for minutes in [[
          for wait in [coalesce(var.temporal.rotation.rotator.grace, "15m"), coalesce(var.temporal.rotation.rotator.retire, "1h")] :
          tonumber(regex("^([0-9]+)[mh]$", wait)[0]) * (endswith(wait, "h") ? 60 : 1)
        ]] : minutes[0] >= 5 && minutes[1] >= 60 && minutes[1] >= minutes[0]
      ][0],
      false
    )
    error_message = "temporal.rotation.rotator.grace must be 5m at least, retire 1h at least and not below grace, in minutes or hours: readers may go on for that long with what they have read."
  }
}

variable "worker" {
  description = <<-EOT
    The worker.
      scaling        `fixed`: one pool of `instances`, and runs move to the newest build. `serverless`: a pool for each build, of as many instances
                     as Temporal asks for, none at rest, and a run ends on the build that it began on
      instances      of a fixed pool; two, so that one may go
      max_instances  of a serverless pool
      orphans        what becomes of a job whose run is gone: report, adopt, drain or cancel
      overdue        from when on an open batch run is reported, as a duration such as 36h; off: never
      orphan_recheck how long after the first look at a job that seems to be an orphan the second is taken
                     (docs/sweep.md says more of these three, and their defaults)
  EOT
  type = object({
    scaling        = optional(string, "fixed")
    instances      = optional(number, 2)
    max_instances  = optional(number, 10)
    cpu            = optional(string, "1")
    memory         = optional(string, "1Gi")
    orphans        = optional(string)
    overdue        = optional(string)
    orphan_recheck = optional(string)
  })
  default = {}

  validation {
    condition     = contains(["fixed", "serverless"], var.worker.scaling)
    error_message = "worker.scaling must be fixed or serverless."
  }

  validation {
    condition     = var.worker.instances >= 1 && var.worker.max_instances >= 1
    error_message = "worker.instances and max_instances must be at least 1; only serverless workers rest at none."
  }

  validation {
    condition     = var.worker.scaling != "serverless" || length(var.temporal.controllers) > 0
    error_message = "worker.scaling is serverless, so temporal.controllers must name the identities that Temporal resizes pools with, such as serviceAccount:NAME@PROJECT.iam.gserviceaccount.com: Temporal Cloud shows them where compute is set up."
  }

  validation {
    condition     = var.worker.orphans == null || contains(["report", "adopt", "drain", "cancel"], coalesce(var.worker.orphans, "-"))
    error_message = "worker.orphans must be report, adopt, drain or cancel."
  }

  validation {
    condition     = alltrue([for d in [var.worker.overdue == "off" ? null : var.worker.overdue, var.worker.orphan_recheck] : d == null || can(regex("^([0-9]+(\\.[0-9]+)?(h|m|s))+$", d))])
    error_message = "worker.overdue and orphan_recheck must be durations such as 90m or 2h."
  }
}

variable "builds" {
  description = <<-EOT
    The builds of the worker that are alive: build ID to its image, by digest. One when the worker is fixed; when it is serverless, one for each
    build that may still have runs. scripts/deploy keeps this map.
      image       the image, by digest
      serverless  beside a fixed one: from when the worker was serverless, and its pool stays for the runs that are pinned to it
  EOT
  type = map(object({
    image      = string
    serverless = optional(bool, false)
  }))

  validation {
    condition     = alltrue([for id in keys(var.builds) : can(regex("^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$", id))])
    error_message = "A build ID must be at most 16 lower-case letters, digits and dashes, since pools are named after it: try the first 12 digits of the image's digest."
  }

  validation {
    condition     = alltrue([for b in var.builds : can(regex("^[^@ ]+/[^@ ]+@sha256:[0-9a-f]{64}$", b.image))])
    error_message = "An image of builds must be named by digest, REGISTRY/REPOSITORY@sha256:…, so that what was tested is what runs: scripts/build-image prints it."
  }

  validation {
    condition     = length(var.builds) > 0
    error_message = "builds must have at least one build: without one nothing runs."
  }

  validation {
    condition     = var.worker.scaling == "serverless" || length(var.builds) == 0 || length([for b in var.builds : b if !b.serverless]) == 1
    error_message = "builds must have exactly one build that is not serverless while worker.scaling is fixed, as there is one pool: leave out the others, whose images stay in the registry for a rollback. Where the worker has been serverless, run scripts/deploy --scaling fixed, and let your folder's variable builds have the type of examples/minimal."
  }

  validation {
    condition     = alltrue([for b in var.builds : !b.serverless]) || length(var.temporal.controllers) > 0
    error_message = "builds has a serverless build, so temporal.controllers must still name the identities that Temporal resizes its pool with."
  }
}

variable "network" {
  description = "The network that functions and worker call out by (direct VPC egress), for a Temporal of your own or a known address: the output `egress` of modules/network, or a network that you have. Default: the internet."
  type = object({
    network    = string
    subnetwork = string
    egress     = optional(string, "PRIVATE_RANGES_ONLY")
    tags       = optional(list(string), [])
  })
  default = null

  validation {
    condition     = try(contains(["PRIVATE_RANGES_ONLY", "ALL_TRAFFIC"], var.network.egress), true)
    error_message = "network.egress must be PRIVATE_RANGES_ONLY, or ALL_TRAFFIC where calls to the internet leave by the network too."
  }
}

variable "access" {
  description = <<-EOT
    What a pipeline's jobs may reach beside what its file tells, by pipeline. A file tells: the buckets of its triggers and templates are read; a parameter that is a
    gs:// path or a BigQuery table PROJECT:DATASET.TABLE is read, or written when its name says so (output, result, reject, staging, …); tempLocation,
    stagingLocation and saveHeapDumpsToGcsPath are written; sdkContainerImage is pulled.
      read, write              buckets
      read_data, write_data    BigQuery datasets, as PROJECT.DATASET
      subscriptions, topics    full names of Pub/Sub subscriptions that are read, and of topics that are published to
  EOT
  type = map(object({
    read          = optional(set(string), [])
    write         = optional(set(string), [])
    read_data     = optional(set(string), [])
    write_data    = optional(set(string), [])
    subscriptions = optional(set(string), [])
    topics        = optional(set(string), [])
  }))
  default = {}

  validation {
    condition     = alltrue(flatten([for a in var.access : [for d in setunion(a.read_data, a.write_data) : can(regex("^[a-z][a-z0-9-]+\\.[A-Za-z0-9_]+$", d))]]))
    error_message = "read_data and write_data of access must be datasets as PROJECT.DATASET: try acme.sales."
  }

  validation {
    condition     = alltrue(flatten([for a in var.access : concat([for s in a.subscriptions : can(regex("^projects/[^/]+/subscriptions/[^/]+$", s))], [for t in a.topics : can(regex("^projects/[^/]+/topics/[^/]+$", t))])]))
    error_message = "subscriptions and topics of access must be full names: projects/PROJECT/subscriptions/NAME and projects/PROJECT/topics/NAME."
  }
}

variable "template_repositories" {
  description = "The Docker repositories that flex templates' images are pulled from, by full name: every pipeline's account may read them."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for r in var.template_repositories : can(regex("^projects/[^/]+/locations/[^/]+/repositories/[^/]+$", r))])
    error_message = "template_repositories must be full names: projects/PROJECT/locations/LOCATION/repositories/NAME."
  }
}

variable "operators" {
  description = "Members that operate the deployment: they read dead letters and the ledger, and may ask for tokens to redrive with."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for m in var.operators : can(regex("^(user|group|serviceAccount|principal|principalSet):.+", m))])
    error_message = "operators must be members such as group:data-platform@example.com; everybody is none."
  }
}

variable "deployers" {
  description = "Members that apply this configuration: they may make the functions and the worker run as their accounts."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for m in var.deployers : can(regex("^(user|group|serviceAccount|principal|principalSet):.+", m))])
    error_message = "deployers must be members such as serviceAccount:deployer@acme.iam.gserviceaccount.com; everybody is none."
  }
}

variable "observability" {
  description = <<-EOT
    What is measured, and who is told; null for nothing.
      emails    addresses that alerts go to
      channels  full names of notification channels that are there already
      slo       the share of events that are decided at their first delivery, over 28 days
      budget    a monthly budget of the project, or null
      thresholds when an alert is raised: see modules/observability
  EOT
  type = object({
    emails   = optional(list(string), [])
    channels = optional(list(string), [])
    slo      = optional(number, 0.999)
    budget = optional(object({
      billing_account = string
      currency        = optional(string, "USD")
      amount          = number
    }))
    thresholds = optional(object({
      oldest_unacked   = optional(number, 1800)
      errors           = optional(number, 5)
      dead_letters     = optional(number, 0)
      schedule_latency = optional(number, 60)
    }), {})
  })
  default  = {}
  nullable = true

  validation {
    condition     = try(var.observability.slo > 0 && var.observability.slo <= 0.9999, true)
    error_message = "observability.slo must be above 0 and at most 0.9999, which is the most that Cloud Monitoring takes: try 0.999."
  }
}

variable "protected" {
  description = "Whether Terraform refuses to destroy what holds data: the ledger, dead letters, secrets, buckets and topics made here. Set to false, and apply, before a teardown."
  type        = bool
  default     = true
}

variable "enable_services" {
  description = "Whether the Google APIs that are needed are switched on here. They stay on after a teardown."
  type        = bool
  default     = true
}
