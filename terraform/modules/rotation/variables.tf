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
