variable "project" {
  description = "The project: its ID, and its number, which federated identities are named by."
  type = object({
    id     = string
    number = string
  })
}

variable "pool" {
  description = "The ID of the workload identity pool."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,30}[a-z0-9]$", var.pool)) && !startswith(var.pool, "gcp-")
    error_message = "pool must be 4 to 32 lower-case letters, digits and dashes, and not begin with gcp-: try penstock-ci."
  }
}

variable "identities" {
  description = <<-EOT
    Who outside Google Cloud is known, without any key: identity provider by ID.
      oidc       the issuer of the tokens, and the audiences that they may have (default: the provider's own full name)
      aws        the AWS account, whose roles are the identities
      mapping    further attributes: of oidc there is only google.subject by itself, of aws also attribute.account and attribute.aws_role
      condition  a CEL condition on `assertion` or `attribute`, which a token must meet. An issuer such as GitHub's speaks for
                 everybody, so without one everybody would be let in.
  EOT
  type = map(object({
    oidc = optional(object({
      issuer    = string
      audiences = optional(list(string), [])
    }))
    aws = optional(object({
      account = string
    }))
    mapping   = optional(map(string), {})
    condition = string
  }))

  validation {
    condition     = alltrue([for p in var.identities : (p.oidc == null) != (p.aws == null)])
    error_message = "Each of identities must have either oidc or aws: remove one, or make two identities of it."
  }

  validation {
    condition     = alltrue([for p in var.identities : can(regex("(assertion|attribute)\\.[A-Za-z_]+ *(==|in |\\.startsWith|\\.endsWith|\\.matches)|(assertion|attribute)\\.[A-Za-z_]+\\.(startsWith|endsWith|matches)\\(", p.condition))])
    error_message = "Each of identities must have a condition that compares an attribute: try assertion.repository == 'acme/pipelines', or attribute.aws_role == 'loader'."
  }

  validation {
    condition     = alltrue([for p in var.identities : p.oidc == null || can(regex("^https://[^*?#]+$", p.oidc.issuer))])
    error_message = "An oidc issuer must be an https:// address, as the token's `iss` says it: try https://token.actions.githubusercontent.com."
  }

  validation {
    condition     = alltrue([for p in var.identities : p.aws == null || can(regex("^[0-9]{12}$", p.aws.account))])
    error_message = "An aws account must be its 12 digits, as `aws sts get-caller-identity` says them."
  }
}

variable "impersonate" {
  description = "Which federated identities may act as which service account, by a name of the caller's choice: the account's full name, and the attribute and value that say who, such as repository and acme/pipelines."
  type = map(object({
    account   = string
    attribute = string
    value     = string
  }))
  default = {}
}

variable "publish" {
  description = "Which federated identities may publish to which topic, by a name of the caller's choice: the topic's full name, and the attribute and value that say who."
  type = map(object({
    topic     = string
    attribute = string
    value     = string
  }))
  default = {}
}
