variable "project" {
  description = "The project: its ID and number."
  type = object({
    id     = string
    number = string
  })
}

variable "name" {
  description = "The beginning of all names."
  type        = string
}

variable "deployment" {
  description = "The deployment's ID, by which log lines and jobs are told from those of others."
  type        = string
}

variable "labels" {
  description = "Labels of everything that has labels."
  type        = map(string)
}

variable "emails" {
  description = "Addresses that alerts go to."
  type        = list(string)
}

variable "channels" {
  description = "Full names of further notification channels."
  type        = list(string)
}

variable "slo" {
  description = "The share of deliveries that end decided, over 28 days: above 0, at most 0.9999."
  type        = number
}

variable "budget" {
  description = "The project's monthly budget, or null."
  type = object({
    billing_account = string
    currency        = string
    amount          = number
  })
}

variable "thresholds" {
  description = <<-EOT
    When an alert is raised.
      oldest_unacked    seconds that the oldest event waits for its delivery
      errors            answers with an error that functions give in 5 minutes
      dead_letters      dead letters that wait for somebody
      schedule_latency  seconds that a task waited for a worker, the longest of a minute, at the 95th percentile of 5 minutes
  EOT
  type = object({
    oldest_unacked   = number
    errors           = number
    dead_letters     = number
    schedule_latency = number
  })
}

variable "functions" {
  description = "The names of the functions."
  type        = list(string)
}

variable "subscriptions" {
  description = "The IDs of the subscriptions that deliver to functions, Eventarc's among them."
  type        = list(string)
}

variable "rotator" {
  description = "The name of the service that rotates Temporal API keys, which is its subscription's too, and after how many seconds a rotation deletes the old key, until when its notice waits; or null."
  type = object({
    name   = string
    retire = number
  })
  default = null
}

variable "dead_letters" {
  description = "The name of the dead letters' subscription."
  type        = string
}
