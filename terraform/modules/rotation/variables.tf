variable "project" {
  description = "The project: its ID, and its number, which Google's service agents are named by."
  type = object({
    id     = string
    number = string
  })
}

variable "region" {
  description = "The region of the rotator."
  type        = string
}

variable "name" {
  description = "The rotator's name."
  type        = string
}

variable "labels" {
  description = "Labels of everything that has labels."
  type        = map(string)
}

variable "account" {
  description = "The email of the service account that the rotator runs as."
  type        = string
}

variable "role" {
  description = "The full name of the role that the account gets on the two secrets: list, read, add and disable versions."
  type        = string
}

variable "push" {
  description = "The email of the identity that notices are pushed with."
  type        = string
}

variable "image" {
  description = "The rotator's image, by digest."
  type        = string
}

variable "environment" {
  description = "The variables that tell where Temporal is."
  type        = map(string)
}

variable "key" {
  description = "The key that functions and worker use: its secret's ID, and the ID of the Temporal Cloud service account that it belongs to."
  type = object({
    secret = string
    owner  = string
  })
}

variable "cloud_key" {
  description = "The key that the rotator makes and deletes keys with: its secret's ID, and the ID of the Temporal Cloud service account that it belongs to. It is rotated too."
  type = object({
    secret = string
    owner  = string
  })
}

variable "grace" {
  description = "From the switch to a new key to the disabling of old versions, as a duration such as 15m. Default: 15 minutes."
  type        = string
  default     = null
}

variable "retire" {
  description = "From the switch to the deletion of old keys, as a duration such as 1h. Default: an hour."
  type        = string
  default     = null
}

variable "lifetime" {
  description = "How long a new key is valid, as a duration such as 2160h. Default: 90 days."
  type        = string
  default     = null
}

variable "topic" {
  description = "The full name of the topic that Secret Manager says it on."
  type        = string
}

variable "dead_letter_topic" {
  description = "The full name of the dead-letter topic."
  type        = string
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
