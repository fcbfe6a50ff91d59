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

variable "rotator_image" {
  description = "The image of the rotator of Temporal API keys, by digest. That this variable is there has scripts/deploy build the image and give it."
  type        = string
}
