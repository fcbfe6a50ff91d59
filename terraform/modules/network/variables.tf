variable "project_id" {
  description = "The project of the network."
  type        = string
}

variable "region" {
  description = "The region of the subnetwork."
  type        = string
}

variable "name" {
  description = "The name of what is made."
  type        = string
}

variable "cidr" {
  description = "The addresses of the subnetwork: at least a /26, which direct VPC egress asks for."
  type        = string
  default     = "10.80.0.0/24"

  validation {
    condition     = can(cidrhost(var.cidr, 0)) && try(tonumber(split("/", var.cidr)[1]) <= 26, false)
    error_message = "cidr must be an IPv4 range of at least a /26, which direct VPC egress asks for: try 10.80.0.0/24."
  }
}

variable "temporal" {
  description = "Where a Temporal of one's own answers, if calls to anything else inside the network are to be refused."
  type = object({
    ranges = list(string)
    port   = optional(number, 7233)
  })
  default = null
}

variable "internet" {
  description = "Whether calls to the internet leave through a NAT with an address of its own, for a Temporal that lets known addresses in."
  type        = bool
  default     = false
}

variable "labels" {
  description = "Labels of what has labels."
  type        = map(string)
}
