output "penstock" {
  description = "What scripts and people need to know of the deployment."
  value       = module.penstock
}
