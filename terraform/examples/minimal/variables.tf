variable "project_id" {
  description = "The project's ID."
  type        = string
}

variable "project_number" {
  description = "The project's number."
  type        = string
}

variable "functions_archive" {
  description = "The staged functions: what scripts/stage-functions -zip prints."
  type        = string
}

variable "builds" {
  description = "The worker's build: its ID and its image by digest."
  type        = map(object({ image = string, serverless = optional(bool, false) }))
}
