variable "project" {
  description = "The project: its ID, and its number, which Google's service agents are named by."
  type = object({
    id     = string
    number = string
  })
}

variable "name" {
  description = "The name of the topic and of its subscription."
  type        = string
}

variable "labels" {
  description = "Labels of both."
  type        = map(string)
}

variable "protected" {
  description = "Whether Terraform refuses to destroy them."
  type        = bool
  default     = true
}

variable "publishers" {
  description = "Members that may publish dead letters, by a name of the caller's choice: the functions."
  type        = map(string)
  default     = {}
}

variable "operators" {
  description = "Members that may list, show and redrive dead letters."
  type        = list(string)
  default     = []
}
