variable "project" {
  description = "The project: its ID, and its number, which Google's service agents are named by."
  type = object({
    id     = string
    number = string
  })
}

variable "name" {
  description = "The beginning of the names of the secrets, and of the rotation topic."
  type        = string
}

variable "labels" {
  description = "Labels of everything that has labels."
  type        = map(string)
}

variable "protected" {
  description = "Whether Terraform refuses to destroy the secrets."
  type        = bool
  default     = true
}

variable "connection" {
  description = "How Temporal is reached: see the variable `temporal` of the root module."
  type = object({
    address        = string
    namespace      = string
    authentication = string
    server_name    = optional(string)
    server_ca      = optional(string)
    rotation = optional(object({
      period = string
      first  = string
    }))
  })
}

variable "rotator" {
  description = "Whether a rotator is deployed, which has a key of its own to make keys with."
  type        = bool
  default     = false
}

variable "readers" {
  description = "Members that may read the credentials, by a name of the caller's choice: functions and worker."
  type        = map(string)
  default     = {}
}

variable "rotators" {
  description = "Members that may add, read, disable and destroy versions of the API key's secret, and hear when it is time to."
  type        = list(string)
  default     = []
}
