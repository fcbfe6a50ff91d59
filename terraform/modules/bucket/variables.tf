variable "project_id" {
  description = "The project that the bucket is made in."
  type        = string
}

variable "name" {
  description = "The bucket's name, unique among all buckets there are."
  type        = string
}

variable "location" {
  description = "Where the bucket lies: a region, dual-region or multi-region."
  type        = string
}

variable "labels" {
  description = "The bucket's labels."
  type        = map(string)
}

variable "holds_data" {
  description = "Whether something is lost with the bucket: then it is versioned, deleted objects can be brought back for a while, and Terraform refuses to destroy it while `protected`."
  type        = bool
}

variable "protected" {
  description = "Whether Terraform refuses to destroy a bucket that holds data. Set to false, and apply, before a teardown."
  type        = bool
  default     = true
}

variable "members" {
  description = "Who may do what with the bucket's objects: role to members, by a name of the caller's choice."
  type = map(object({
    role   = string
    member = string
  }))
  default = {}
}
