variable "project_id" {
  description = "The project that the worker runs in."
  type        = string
}

variable "region" {
  description = "The region that the worker runs in."
  type        = string
}

variable "name" {
  description = "The name of the worker pool, or the beginning of their names."
  type        = string
}

variable "labels" {
  description = "The pools' labels."
  type        = map(string)
}

variable "scaling" {
  description = "`fixed`: one pool of `instances`, whose runs move to the newest build. `serverless`: a pool for each build, of as many instances as Temporal asks for, down to none."
  type        = string
}

variable "instances" {
  description = "How many instances the pool has, when it is fixed."
  type        = number
}

variable "builds" {
  description = "The builds that are alive: build ID to image, by digest. Exactly one when the pool is fixed, beside those that are `serverless` still."
  type = map(object({
    image      = string
    serverless = optional(bool, false)
  }))
}

variable "resources" {
  description = "What an instance has."
  type = object({
    cpu    = string
    memory = string
  })
}

variable "environment" {
  description = "The worker's environment, but for what tells its build."
  type        = map(string)
}

variable "deployment_name" {
  description = "The name of Temporal's worker deployment that the builds are versions of."
  type        = string
}

variable "runner" {
  description = "The service account that the worker runs as: its email, and its full name."
  type = object({
    email = string
    id    = string
  })
}

variable "invoker" {
  description = "The service account that Temporal resizes the pools as, where there are serverless ones: its email and full name, the role it gets on each pool, and Temporal's own identities, which may act as it."
  type = object({
    email     = string
    id        = string
    role      = string
    callers   = list(string)
    max_count = number
  })
  default = null
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
