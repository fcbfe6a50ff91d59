variable "project" {
  description = "The project that is deployed to: its ID and number."
  type = object({
    id     = string
    number = string
  })
}

variable "region" {
  description = "The region of builds and images."
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

variable "state_bucket" {
  description = "The bucket of Terraform's state and of the map of live builds: scripts/bootstrap makes it."
  type        = string
}

variable "source_repository" {
  description = "The connected repository that is built, by full name (projects/P/locations/L/connections/C/repositories/R), and its branch that is deployed. Default: none, and builds are started by hand or from elsewhere."
  type = object({
    name   = string
    branch = optional(string, "main")
  })
  default = null

  validation {
    condition     = var.source_repository == null || can(regex("^projects/[^/]+/locations/[^/]+/connections/[^/]+/repositories/[^/]+$", var.source_repository.name))
    error_message = "source_repository.name must be a connected repository's full name, projects/P/locations/L/connections/C/repositories/R: `gcloud builds repositories list` says it."
  }
}

variable "approval" {
  description = "Whether somebody has to approve each deployment."
  type        = bool
  default     = true
}

variable "build_file" {
  description = "The build's file in the repository."
  type        = string
  default     = "cloudbuild.yaml"
}

variable "substitutions" {
  description = "Further substitutions of the build, each with a name that begins with _."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for k in keys(var.substitutions) : can(regex("^_[A-Z][A-Z0-9_]*$", k))])
    error_message = "Substitutions must have names of capitals, digits and _ that begin with _: try _TARGET."
  }
}
