variable "project_id" {
  description = "The project that jobs run in."
  type        = string
}

variable "name" {
  description = "The pipeline's name."
  type        = string
}

variable "purpose" {
  description = "What the pipeline is for."
  type        = string
}

variable "account" {
  description = "The email of the service account that the pipeline's jobs run as. One of the project is made."
  type        = string
}

variable "worker" {
  description = "The email of the worker's service account, which launches jobs that run as the pipeline's."
  type        = string
}

variable "job_role" {
  description = "The full name of the role that the account gets on the project: what the machines of a job do, but for storage."
  type        = string
}

variable "access" {
  description = <<-EOT
    What the pipeline's jobs may reach.
      buckets        bucket to `read` or `write`
      datasets       BigQuery dataset, as PROJECT.DATASET, to `read` or `write`
      subscriptions  full names of Pub/Sub subscriptions that are read
      topics         full names of Pub/Sub topics that are published to
      repositories   full names of the repositories that images come from
  EOT
  type = object({
    buckets       = optional(map(string), {})
    datasets      = optional(map(string), {})
    subscriptions = optional(set(string), [])
    topics        = optional(set(string), [])
    repositories  = optional(set(string), [])
  })
}
