# Identities from outside Google Cloud, known by their own tokens: nobody needs a key.
resource "google_iam_workload_identity_pool" "this" {
  project                   = var.project.id
  workload_identity_pool_id = var.pool
  display_name              = var.pool
}

locals {
  mapping = {
    # A token that lacks what is mapped is refused, so further claims of an issuer are for who knows it to map.
    oidc = {
      "google.subject" = "assertion.sub"
    }
    # A session of a role has an ARN of its own; the role is what is granted something.
    aws = {
      "google.subject"     = "assertion.arn"
      "attribute.account"  = "assertion.account"
      "attribute.aws_role" = "assertion.arn.contains('assumed-role') ? assertion.arn.extract('assumed-role/{role}/') : assertion.arn"
    }
  }

  pool = "principalSet://iam.googleapis.com/projects/${var.project.number}/locations/global/workloadIdentityPools/${google_iam_workload_identity_pool.this.workload_identity_pool_id}"
}

resource "google_iam_workload_identity_pool_provider" "this" {
  for_each = var.identities

  project                            = var.project.id
  workload_identity_pool_id          = google_iam_workload_identity_pool.this.workload_identity_pool_id
  workload_identity_pool_provider_id = each.key
  attribute_mapping                  = merge(each.value.oidc != null ? local.mapping.oidc : local.mapping.aws, each.value.mapping)
  attribute_condition                = each.value.condition

  dynamic "oidc" {
    for_each = each.value.oidc[*]

    content {
      issuer_uri        = oidc.value.issuer
      allowed_audiences = oidc.value.audiences
    }
  }

  dynamic "aws" {
    for_each = each.value.aws[*]

    content {
      account_id = aws.value.account
    }
  }
}

resource "google_service_account_iam_member" "impersonate" {
  for_each = var.impersonate

  service_account_id = each.value.account
  role               = "roles/iam.workloadIdentityUser"
  member             = "${local.pool}/attribute.${each.value.attribute}/${each.value.value}"
}

resource "google_pubsub_topic_iam_member" "publish" {
  for_each = var.publish

  project = split("/", each.value.topic)[1]
  topic   = split("/", each.value.topic)[3]
  role    = "roles/pubsub.publisher"
  member  = "${local.pool}/attribute.${each.value.attribute}/${each.value.value}"
}
