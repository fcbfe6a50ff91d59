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
