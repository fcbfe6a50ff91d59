package policy

import (
	"slices"
	"strings"

	"github.com/penstock/penstock/pipeline"
)

// safekeeping is about what must not go by accident, and what must be found.
var safekeeping = []Rule{
	{
		Name: "deletion-protection", Says: "protects from deletion what holds data",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeBucket) {
				if r.get("force_destroy") == true {
					bad(r.Address, "it would be destroyed with all in it: set force_destroy to false")
				}
				if isRebuilt(p, r.text("name")) {
					continue
				}
				if r.text("deletion_policy") != "PREVENT" {
					bad(r.Address, "Terraform may destroy it: set deletion_policy to PREVENT")
				}
				if r.get("versioning.0.enabled") != true {
					bad(r.Address, "what is overwritten or deleted in it is gone: switch versioning on")
				}
				if len(r.list("retention_policy")) > 0 {
					bad(r.Address, "a retention policy forbids that the ledger replaces an expired claim: remove it")
				}
			}
			for _, r := range p.of(typeSecret) {
				if r.get("deletion_protection") != true {
					bad(r.Address, "Terraform may destroy it: set deletion_protection")
				}
			}
			for _, r := range p.of(typeTopic) {
				topic := "projects/" + r.text("project") + "/topics/" + r.text("name")
				if (isDeadLetters(p, topic) || isSource(p, topic)) && r.text("deletion_policy") != "PREVENT" {
					bad(r.Address, "Terraform may destroy it, and what is published to it then is lost: set deletion_policy to PREVENT")
				}
			}
			for _, r := range p.of(typeRepository) {
				if !isBuilt(p, r) && r.text("deletion_policy") != "PREVENT" {
					bad(r.Address, "Terraform may destroy it, and the images that a rollback needs with it: set deletion_policy to PREVENT")
				}
			}
			for _, r := range p.of(typeSubscription) {
				if isKept(p, r.text("topic")) && isDeadLetters(p, r.text("topic")) && r.text("deletion_policy") != "PREVENT" {
					bad(r.Address, "Terraform may destroy it, and the dead letters with it: set deletion_policy to PREVENT")
				}
			}
		},
		twin: breaks(set("deletion_policy", "DELETE"), typeBucket),
	},
	{
		Name: "labels", Says: "labels everything that has labels",
		check: func(p *Plan, bad report) {
			for _, r := range p.Resources {
				attribute := "labels"
				if _, ok := r.Values["user_labels"]; ok {
					attribute = "user_labels" // where labels are something else
				}
				if _, ok := r.Values[attribute]; !ok {
					continue
				}
				labels, _ := r.Values[attribute].(map[string]any)
				if labels["penstock_deployment"] == nil || labels["managed_by"] == nil {
					bad(r.Address, "nobody sees whose it is, nor what it costs: set %s, with penstock_deployment and managed_by", attribute)
				}
			}
		},
		twin: breaks(set("labels", nil), typeTopic),
	},
}

// isRebuilt says whether a bucket's content is in the plan itself, so that it can be made again.
func isRebuilt(p *Plan, bucket string) bool {
	return slices.ContainsFunc(p.of("google_storage_bucket_object"), func(r *Resource) bool { return r.text("bucket") == bucket })
}

// isDeadLetters says whether functions or subscriptions send their dead letters to a topic.
func isDeadLetters(p *Plan, topic string) bool {
	return slices.ContainsFunc(p.of(typeFunction), func(r *Resource) bool { return variable(r, "PENSTOCK_DEAD_LETTER_TOPIC") == topic }) ||
		slices.ContainsFunc(p.of(typeSubscription), func(r *Resource) bool { return r.text("dead_letter_policy.0.dead_letter_topic") == topic })
}

// isSource says whether a file is triggered by a topic. A file names one of the deployment's own project by its ID.
func isSource(p *Plan, topic string) bool {
	return slices.ContainsFunc(p.Pipelines, func(of *pipeline.Pipeline) bool {
		return slices.ContainsFunc(of.On, func(on pipeline.Trigger) bool {
			return on.PubSub != nil && (on.PubSub.Topic == topic || !strings.Contains(on.PubSub.Topic, "/") && strings.HasSuffix(topic, "/topics/"+on.PubSub.Topic))
		})
	})
}

// isBuilt says whether Cloud Functions builds what is in a repository, so that it can be built again.
func isBuilt(p *Plan, repository *Resource) bool {
	return slices.ContainsFunc(p.of(typeFunction), func(r *Resource) bool {
		return strings.HasSuffix(r.text("build_config.0.docker_repository"), "/repositories/"+repository.text("repository_id"))
	})
}
