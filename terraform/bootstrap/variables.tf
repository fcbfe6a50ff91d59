variable "project_id" {
  description = "The project's ID."
  type        = string
}

variable "project_number" {
  description = "The project's number."
  type        = string
}

variable "region" {
  description = "The region of images and builds."
  type        = string
}

variable "deployment" {
  description = "The deployment's ID."
  type        = string
}

variable "labels" {
  description = "Labels of everything that has labels, beside the deployment's own."
  type        = map(string)
  default     = {}
}

variable "state_bucket" {
  description = "The bucket of Terraform's state and of the live builds."
  type        = string
}

variable "github" {
  description = "The GitHub repository, OWNER/NAME, whose workflows on `branch` deploy. Default: none."
  type        = string
  default     = null
}

variable "github_id" {
  description = "The number of that repository (`gh api repos/OWNER/NAME --jq .id`), which stays when it is renamed, and which nobody else can have: give it wherever the name could be registered again. Default: the repository is known by its name alone."
  type        = string
  default     = null

  validation {
    condition     = var.github_id == null || can(regex("^[1-9][0-9]*$", var.github_id))
    error_message = "github_id must be the repository's number: `gh api repos/OWNER/NAME --jq .id` says it."
  }
}

variable "repository" {
  description = "The connected repository that Cloud Build builds, by full name. Default: none, and no triggers."
  type        = string
  default     = null
}

variable "branch" {
  description = "The branch that is deployed."
  type        = string
  default     = "main"
}

variable "canary" {
  description = "The object that Cloud Build's smoke test writes, gs://BUCKET/OBJECT. Default: no smoke test."
  type        = string
  default     = null
}
