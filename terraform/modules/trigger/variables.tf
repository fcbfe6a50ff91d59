variable "project" {
  description = "The project: its ID, and its number, which Google's service agents are named by."
  type = object({
    id     = string
    number = string
  })
}

variable "region" {
  description = "The region of the function."
  type        = string
}

variable "name" {
  description = "The function's name: the beginning of the names of all that delivers to it."
  type        = string
}

variable "deployment" {
  description = "The deployment's ID."
  type        = string
}

variable "labels" {
  description = "Labels of everything that has labels."
  type        = map(string)
}

variable "entry_point" {
  description = "Which function of the source it is: StorageTrigger, PubSubTrigger, EventTrigger or JobStatus."
  type        = string
}

variable "source_archive" {
  description = "Where the staged source lies."
  type = object({
    bucket = string
    object = string
  })
}

variable "build" {
  description = "What the function is built as, and where its image is kept. `account` is the full name of a service account, `repository` of a Docker repository."
  type = object({
    runtime    = string
    account    = string
    repository = string
  })
}

variable "runtime" {
  description = "How the function runs."
  type = object({
    account       = string
    min_instances = number
    max_instances = number
    concurrency   = number
    cpu           = string
    memory        = string
    timeout       = number
  })
}

variable "environment" {
  description = "The function's environment."
  type        = map(string)
}

variable "secrets" {
  description = "The secrets that are mounted, by name."
  type = map(object({
    id         = string
    mount_path = string
    file       = string
  }))
}

variable "network" {
  description = "The network that calls leave by, or null."
  type = object({
    network    = string
    subnetwork = string
    egress     = string
    tags       = optional(list(string), [])
  })
}

variable "push" {
  description = "The identity that deliveries come with: the one that may call the function."
  type        = string
}

variable "dead_letter_topic" {
  description = "The full name of the dead-letter topic."
  type        = string
}

variable "subscriptions" {
  description = <<-EOT
    What is delivered by push subscriptions of our own, by a name that is part of their names.
      topic   the full name of a topic that is there; or
      bucket  a bucket whose changes get a topic of their own, of the kinds and below the prefix given
  EOT
  type = map(object({
    topic  = optional(string)
    bucket = optional(string)
    kinds  = optional(list(string), [])
    prefix = optional(string, "")
  }))
  default = {}
}

variable "retry" {
  description = "How deliveries are tried again: see the variable `retry` of the root module."
  type = object({
    attempts        = number
    minimum_backoff = number
    maximum_backoff = number
    ack_deadline    = number
    retention       = number
  })
}

variable "eventarc" {
  description = "What is delivered by Eventarc triggers, by a name that is part of their names: the location, the CloudEvents attributes to match, `type` among them, the full name of the topic where it is a message, and of the channel where it is not Google's."
  type = map(object({
    location = string
    filters  = map(string)
    topic    = optional(string)
    channel  = optional(string)
  }))
  default = {}
}
