output "deployer" {
  description = "The account that deploys, as a member for the variable `deployers` of the root module."
  value       = module.ci.deployer.member
}

output "images" {
  description = "The repository of the worker's images: PENSTOCK_IMAGES of scripts/deploy."
  value       = module.ci.images
}
