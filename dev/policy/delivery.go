package policy

import (
	"slices"
	"strconv"
	"strings"
)

// delivery is about events that must not be lost.
var delivery = []Rule{
	{
		Name: "retry-on", Says: "tries every delivery again",
		check: func(p *Plan, bad report) {
			for _, r := range p.of(typeFunction) {
				if len(r.list("event_trigger")) > 0 && r.text("event_trigger.0.retry_policy") != "RETRY_POLICY_RETRY" {
					bad(r.Address, "its event trigger drops an event that fails once: set RETRY_POLICY_RETRY")
				}
			}
			for _, r := range p.of(typeEventarc) {
				if r.has("retry_policy.0.max_attempts") {
					bad(r.Address, "it drops an event that fails once: remove its retry policy")
				}
			}
			for _, r := range pushes(p) {
				if r.text("retry_policy.0.minimum_backoff") == "" || r.text("retry_policy.0.maximum_backoff") == "" {
					bad(r.Address, "it tries again at once and uses up its attempts: set a back-off, of 10s to 600s")
				}
			}
		},
		twin: func(p *Plan) bool {
			return breaks(func(r *Resource) bool {
				r.Values["retry_policy"] = []any{map[string]any{"max_attempts": 1.0}}
				return true
			}, typeEventarc)(p) || breaks(set("retry_policy", []any{}), typeSubscription)(p)
		},
	},
	{
		Name: "patience", Says: "keeps what cannot be delivered for days, and a source's events however long it was silent",
		check: func(p *Plan, bad report) {
			for _, r := range pushes(p) {
				if n := r.number("dead_letter_policy.0.max_delivery_attempts"); len(r.list("dead_letter_policy")) > 0 && n < 100 {
					if n == 0 {
						n = 5 // what Pub/Sub takes where nothing is said
					}
					bad(r.Address, "it gives up after %v attempts: set 100, which bears hours", n)
				}
				if n := seconds(r.text("message_retention_duration")); n < 7*24*3600 {
					bad(r.Address, "it keeps an event for %d s: set 604800s", n)
				}
				if n := seconds(r.text("retry_policy.0.maximum_backoff")); n < 600 {
					bad(r.Address, "its waits grow to %d s only, so that its attempts are used up soon: set 600s", n)
				}
				if n := r.number("ack_deadline_seconds"); n < 60 {
					bad(r.Address, "it delivers again after %v s, while the event is still being handled: set 60 or more", n)
				}
			}
			for _, r := range p.of(typeSubscription) {
				if len(r.list("expiration_policy")) == 0 || r.has("expiration_policy.0.ttl") {
					bad(r.Address, "it vanishes when nothing happened for a while, and all that happens then is lost: set expiration_policy {ttl = \"\"}")
				}
			}
		},
		twin: breaks(set("expiration_policy", []any{}), typeSubscription),
	},
	{
		Name: "dead-letter-path", Says: "has a way to the dead letters for every push subscription that it makes, and for what functions cannot handle (Eventarc makes its own: scripts/deploy sees to those)",
		check: func(p *Plan, bad report) {
			for _, r := range pushes(p) {
				if topic := r.text("dead_letter_policy.0.dead_letter_topic"); !isKept(p, topic) {
					bad(r.Address, "an event whose deliveries all failed is lost: name a dead-letter topic that has a subscription of 31 days")
				}
			}
			for _, r := range p.of(typeFunction) {
				if topic := variable(r, "PENSTOCK_DEAD_LETTER_TOPIC"); !isKept(p, topic) {
					bad(r.Address, "an event that nothing can be done with is lost, or delivered for ever: set PENSTOCK_DEAD_LETTER_TOPIC to a topic that has a subscription of 31 days")
				}
			}
		},
		twin: breaks(func(r *Resource) bool {
			return len(r.list("push_config")) > 0 && set("dead_letter_policy", []any{})(r)
		}, typeSubscription),
	},
	{
		Name: "dead-letter-grants", Says: "lets Pub/Sub forward to the dead letters, also from the subscriptions that Eventarc makes",
		check: func(p *Plan, bad report) {
			for _, r := range pushes(p) {
				if !slices.ContainsFunc(p.of(typeSubGrant), func(g *Resource) bool {
					return g.text("subscription") == r.text("name") && g.text("role") == "roles/pubsub.subscriber" && isPubSub(g.text("member"))
				}) {
					bad(r.Address, "Pub/Sub may not take a message off it to forward it: grant its service agent roles/pubsub.subscriber on it")
				}
				topic := r.text("dead_letter_policy.0.dead_letter_topic")
				if topic != "" && !slices.ContainsFunc(p.of(typeTopicGrant), func(g *Resource) bool {
					return strings.HasSuffix(topic, "/"+g.text("topic")) && g.text("role") == "roles/pubsub.publisher" && isPubSub(g.text("member"))
				}) {
					bad(r.Address, "Pub/Sub may not publish to %s: grant its service agent roles/pubsub.publisher there", topic)
				}
			}
			for _, r := range p.of(typeEventarc) {
				// Which subscription it is, Eventarc says only afterwards: the grant is known by lying beside the trigger.
				beside := strings.Replace(r.Address, typeEventarc+".this", typeSubGrant+".eventarc", 1)
				if !slices.ContainsFunc(p.of(typeSubGrant), func(g *Resource) bool {
					return g.Address == beside && g.text("role") == "roles/pubsub.subscriber" && isPubSub(g.text("member"))
				}) {
					bad(r.Address, "Pub/Sub may not take a message off the subscription that Eventarc makes: grant its service agent roles/pubsub.subscriber on it, as %s", beside)
				}
			}
		},
		twin: remove(func(r *Resource) bool {
			return r.Type == typeSubGrant && r.text("role") == "roles/pubsub.subscriber" && isPubSub(r.text("member"))
		}),
	},
	{
		Name: "pushes-authenticated", Says: "pushes with a token for the function, and whole messages",
		check: func(p *Plan, bad report) {
			for _, r := range pushes(p) {
				if !r.has("push_config.0.oidc_token.0.service_account_email") || !r.has("push_config.0.oidc_token.0.audience") {
					bad(r.Address, "it pushes without a token, or one for no audience: set oidc_token with both")
				}
				if len(r.list("push_config.0.no_wrapper")) > 0 {
					bad(r.Address, "it unwraps messages, which lose their attributes: remove no_wrapper")
				}
				if endpoint := r.text("push_config.0.push_endpoint"); endpoint != "" && !strings.Contains(endpoint, "?topic=projects/") {
					bad(r.Address, "its endpoint does not name the topic: add ?topic=projects/P/topics/T")
				}
			}
		},
		twin: breaks(set("push_config.0.oidc_token", []any{}), typeSubscription),
	},
	{
		Name: "whole-notifications", Says: "is told of objects with their metadata",
		check: func(p *Plan, bad report) {
			for _, r := range p.of("google_storage_notification") {
				if r.text("payload_format") != "JSON_API_V1" {
					bad(r.Address, "its messages have no payload, and the functions refuse them: set JSON_API_V1")
				}
			}
		},
		twin: breaks(set("payload_format", "NONE"), "google_storage_notification"),
	},
	{
		Name: "status-everywhere", Says: "has one trigger for Dataflow's job status in each location of the files",
		check: func(p *Plan, bad report) {
			status := "" // the service that JobStatus is
			for _, r := range p.of(typeFunction) {
				if r.text("build_config.0.entry_point") == "JobStatus" {
					status = r.text("name")
				}
			}
			triggers := map[string]int{}
			for _, r := range p.of(typeEventarc) {
				criteria := criteria(r)
				if criteria["type"] != "google.cloud.dataflow.job.v1beta3.statusChanged" || r.text("destination.0.cloud_run_service.0.service") != status {
					continue
				}
				if len(criteria) > 1 {
					bad(r.Address, "it filters by more than the type, so that it does not tell of every job: remove the other criteria")
				}
				triggers[r.text("location")]++
			}
			for _, location := range jobLocations(p) {
				if n := triggers[location]; n != 1 {
					bad("JobStatus", "jobs run in %s, which %d triggers tell of: there must be one", location, n)
				}
				delete(triggers, location)
			}
			for location := range triggers {
				bad("JobStatus", "a trigger tells of jobs in %s, where none run: remove it", location)
			}
		},
		twin: remove(func(r *Resource) bool {
			return r.Type == typeEventarc && strings.Contains(strings.Join(texts(r.get("matching_criteria")), " "), "statusChanged")
		}),
	},
}

// pushes lists the subscriptions that push.
func pushes(p *Plan) []*Resource {
	return slices.DeleteFunc(p.of(typeSubscription), func(r *Resource) bool { return len(r.list("push_config")) == 0 })
}

// isKept says whether what is published to a topic waits in a subscription for as long as there is.
func isKept(p *Plan, topic string) bool {
	return topic != "" && slices.ContainsFunc(p.of(typeSubscription), func(r *Resource) bool {
		return r.text("topic") == topic && len(r.list("push_config")) == 0 && len(r.list("dead_letter_policy")) == 0 && seconds(r.text("message_retention_duration")) >= 31*24*3600
	})
}

func isPubSub(member string) bool {
	return strings.HasPrefix(member, "serviceAccount:service-") && strings.HasSuffix(member, "@gcp-sa-pubsub.iam.gserviceaccount.com")
}

// seconds reads a duration as Google's APIs write it: 600s.
func seconds(s string) int {
	n, err := strconv.Atoi(strings.TrimSuffix(s, "s"))
	if err != nil {
		return 0
	}
	return n
}

// jobLocations lists the distinct regions that the files' jobs run in.
func jobLocations(p *Plan) []string {
	var locations []string
	for _, of := range p.Pipelines {
		for _, step := range of.Steps {
			location := step.Dataflow.Location
			if location == "" {
				location = p.JobLocation
			}
			if !slices.Contains(locations, location) {
				locations = append(locations, location)
			}
		}
	}
	slices.Sort(locations)
	return locations
}
