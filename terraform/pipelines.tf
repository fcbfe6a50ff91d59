# What the pipelines files say, in the form that the rest is derived from. The files are linted before they are staged, so this reads
# only what it needs of them.
locals {
  job_location = coalesce(var.job_location, var.region)

  files     = [for f in fileset(var.pipelines, "*.{yaml,yml}") : f if !startswith(f, ".")]
  documents = { for f in local.files : f => yamldecode(file("${var.pipelines}/${f}")) }
  names     = [for f, d in local.documents : try(d.name, f)]

  pipelines = {
    for f, d in local.documents : try(d.name, f) => {
      purpose  = try(d.purpose, "")
      triggers = try(d.on, d["true"], []) # to yamldecode, which reads YAML 1.1, an unquoted `on` is a truth value

      steps = [
        for step in try(d.steps, []) : {
          name        = step.name
          account     = try(step.dataflow.environment.serviceAccountEmail, "")
          location    = try(step.dataflow.location, local.job_location)
          template    = try(step.dataflow.template, "")
          parameters  = { for k, v in try(step.dataflow.parameters, {}) : k => try(tostring(v), "") }
          environment = { for k, v in try(step.dataflow.environment, {}) : k => try(tostring(v), "") }
        }
      ]
    }...
  }

  # A name that two files claim is told by a precondition; until then the first has it.
  pipeline = { for name, claims in local.pipelines : name => claims[0] }

  # The pipelines whose jobs run as somebody, and who. What is no account's email is told by a precondition.
  email   = "^[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]+\\.iam\\.gserviceaccount\\.com$"
  account = { for name, p in local.pipeline : name => p.steps[0].account if can(regex(local.email, p.steps[0].account)) }

  # Every distinct place where jobs run: each has a trigger for their status.
  job_locations = distinct(flatten([for p in local.pipeline : p.steps[*].location]))
}

# What each pipeline's jobs reach, by what its file tells.
locals {
  # Which parameters say by their names that something is written there.
  writes = "(?i)(output|result|reject|dead_?letter|staging|temp_?(location|dir)|temporary|sink|destination)"
  bucket = "^gs://([a-z0-9][a-z0-9._-]*[a-z0-9])(?:/|$)"
  table  = "^([a-z][a-z0-9-]{4,28}[a-z0-9]):([A-Za-z_][A-Za-z0-9_]*)\\..+$"
  image  = "^([a-z0-9-]+)-docker\\.pkg\\.dev/([^/]+)/([^/:@]+)"

  # Parameters, and those fields of the environment that name places that are written.
  values = {
    for name, p in local.pipeline : name => flatten([
      for step in p.steps : concat(
        [for k, v in step.parameters : { value = v, write = can(regex(local.writes, k)) }],
        [for k in ["tempLocation", "stagingLocation", "saveHeapDumpsToGcsPath"] : { value = lookup(step.environment, k, ""), write = true }],
      )
    ])
  }

  told = {
    for name, p in local.pipeline : name => {
      read = concat(
        [for t in p.triggers : t.storage.bucket if can(t.storage.bucket)],
        [for v in local.values[name] : regex(local.bucket, v.value)[0] if !v.write && can(regex(local.bucket, v.value))],
        local.templates[name], # where the files that a classic template stages lie
      )
      write = [for v in local.values[name] : regex(local.bucket, v.value)[0] if v.write && can(regex(local.bucket, v.value))]

      read_data  = [for v in local.values[name] : join(".", regex(local.table, v.value)) if !v.write && can(regex(local.table, v.value))]
      write_data = [for v in local.values[name] : join(".", regex(local.table, v.value)) if v.write && can(regex(local.table, v.value))]

      repositories = [
        for step in p.steps : format("projects/%[2]s/locations/%[1]s/repositories/%[3]s", regex(local.image, lookup(step.environment, "sdkContainerImage", ""))...)
        if can(regex(local.image, lookup(step.environment, "sdkContainerImage", "")))
      ]
    }
  }

  none = { read = toset([]), write = toset([]), read_data = toset([]), write_data = toset([]), subscriptions = toset([]), topics = toset([]) }

  # Who may write may read.
  access = {
    for name in keys(local.account) : name => {
      buckets = merge(
        { for b in setunion(local.told[name].read, try(var.access[name].read, [])) : b => "read" },
        { for b in setunion(local.told[name].write, try(var.access[name].write, [])) : b => "write" },
      )
      datasets = merge(
        { for d in setunion(local.told[name].read_data, try(var.access[name].read_data, [])) : d => "read" },
        { for d in setunion(local.told[name].write_data, try(var.access[name].write_data, [])) : d => "write" },
      )
      subscriptions = try(var.access[name].subscriptions, [])
      topics        = try(var.access[name].topics, [])
      repositories  = setunion(local.told[name].repositories, var.template_repositories)
    }
  }

  # Where the templates lie; those of Google's own are everybody's, and nobody may be granted anything there.
  templates = {
    for name, p in local.pipeline : name => distinct([
      for step in p.steps : regex(local.bucket, step.template)[0]
      if can(regex(local.bucket, step.template)) && !can(regex("^gs://dataflow-templates(-[a-z0-9-]+)?/", step.template))
    ])
  }

  # Launching reads the template with the worker's rights.
  template_buckets = distinct(flatten(values(local.templates)))
}

module "pipeline" {
  source   = "./modules/pipeline"
  for_each = local.account

  project_id = var.project.id
  name       = each.key
  purpose    = local.pipeline[each.key].purpose
  account    = each.value
  worker     = google_service_account.worker.email
  job_role   = "projects/${var.project.id}/roles/${google_project_iam_custom_role.job.role_id}"
  access     = local.access[each.key]

  depends_on = [google_project_service.this, google_pubsub_topic.source, module.source_bucket]
}

# What can be wrong with the files as a deployment, told before anything is made.
resource "terraform_data" "pipelines" {
  input = sort(keys(local.pipeline))

  lifecycle {
    precondition {
      condition     = length(local.names) == length(distinct(local.names))
      error_message = "Several pipelines files have the same name: ${join(", ", [for name, claims in local.pipelines : name if length(claims) > 1])}. Give each pipeline a name of its own."
    }

    precondition {
      condition = alltrue(flatten([for p in local.pipeline : [for step in p.steps : step.account != ""]]))
      error_message = join("\n", flatten([
        for name, p in local.pipeline : [
          for step in p.steps : "Pipeline ${name}, step ${step.name}: environment.serviceAccountEmail is missing, so its jobs would run as the project's default account, which may do far more. Try ${name}@${var.project.id}.iam.gserviceaccount.com, which is made here."
          if step.account == ""
        ]
      ]))
    }

    precondition {
      condition     = alltrue(flatten([for p in local.pipeline : [for step in p.steps : step.account == "" || can(regex(local.email, step.account))]]))
      error_message = "A step's environment.serviceAccountEmail must be NAME@PROJECT.iam.gserviceaccount.com, NAME having 6 to 30 lower-case letters, digits and dashes: ${join(", ", distinct(flatten([for p in local.pipeline : p.steps[*].account])))}."
    }

    precondition {
      condition     = alltrue([for p in local.pipeline : length(distinct(p.steps[*].account)) <= 1])
      error_message = "The steps of a pipeline must run as one account: ${join(", ", [for name, p in local.pipeline : name if length(distinct(p.steps[*].account)) > 1])}. Make a second pipeline of what needs other rights."
    }

    precondition {
      condition     = length(values(local.account)) == length(distinct(values(local.account)))
      error_message = "Each pipeline must have an account of its own, or each may do what any of them may: ${join(", ", [for name, a in local.account : "${name} runs as ${a}"])}."
    }

    # Where nothing is said, Dataflow uses a bucket that all jobs of the project share.
    precondition {
      condition     = alltrue([for name in keys(local.account) : contains(values(local.access[name].buckets), "write")])
      error_message = "Jobs write temporary files, and no bucket is told where: ${join(", ", [for name in keys(local.account) : name if !contains(values(local.access[name].buckets), "write")])}. Set environment.tempLocation to gs://BUCKET/FOLDER, or, where the template has one of its own, name its bucket in access as write."
    }

    precondition {
      condition     = length(setsubtract(keys(var.access), keys(local.account))) == 0
      error_message = "access names pipelines that have no jobs, or that there are no files of: ${join(", ", setsubtract(keys(var.access), keys(local.account)))}. Correct the names, or remove them."
    }

    precondition {
      condition     = length(setsubtract(keys(var.sources.buckets), local.trigger_buckets)) == 0 && length(setsubtract([for t in keys(var.sources.topics) : "projects/${var.project.id}/topics/${t}"], local.trigger_topics)) == 0
      error_message = "sources names buckets or topics that no file is triggered by. Correct the names, or remove them."
    }

    precondition {
      condition     = var.delivery == "subscription" || alltrue([for t in local.trigger_topics : startswith(t, "projects/${var.project.id}/")])
      error_message = "delivery is eventarc, and Eventarc takes topics of this project alone: set it to subscription for ${join(", ", [for t in local.trigger_topics : t if !startswith(t, "projects/${var.project.id}/")])}."
    }

    precondition {
      condition     = length(setsubtract(local.undelivered_types, values(var.events)[*].type)) == 0
      error_message = "Nothing delivers these types of events, which files are triggered by: ${join(", ", setsubtract(local.undelivered_types, values(var.events)[*].type))}. Say in events how Eventarc filters them."
    }
  }
}
