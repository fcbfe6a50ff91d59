package policy

import (
	"slices"
	"strconv"
	"strings"
)

// kindNames are the names that a notification has for the changes of the files.
var kindNames = map[string]string{
	"finalized":       "OBJECT_FINALIZE",
	"deleted":         "OBJECT_DELETE",
	"archived":        "OBJECT_ARCHIVE",
	"metadataUpdated": "OBJECT_METADATA_UPDATE",
}

// sources is about what the files are triggered by: it must arrive.
var sources = []Rule{
	{
		Name: "sources-delivered", Says: "is told of every bucket, change and topic that a file is triggered by",
		check: func(p *Plan, bad report) {
			for _, of := range p.Pipelines {
				for _, on := range of.On {
					switch {
					case on.Storage != nil:
						for _, kind := range on.Storage.Kinds {
							if !notified(p, on.Storage.Bucket, kind, on.Storage.Object) && !triggered(p, "google.cloud.storage.object.v1."+kind, "bucket", on.Storage.Bucket) {
								bad(of.Name, "nothing tells of objects %s in %s that match %q: add a notification with a subscription, or an Eventarc trigger", kind, on.Storage.Bucket, on.Storage.Object)
							}
						}
					case on.PubSub != nil:
						if !subscribed(p, on.PubSub.Topic) {
							bad(of.Name, "nothing delivers the messages of %s: add a push subscription, or an Eventarc trigger", on.PubSub.Topic)
						}
					case on.Event != nil:
						if !triggered(p, on.Event.Type, "", "") {
							bad(of.Name, "nothing delivers events of the type %s: add an Eventarc trigger", on.Event.Type)
						}
					}
				}
			}
		},
		twin: remove(func(r *Resource) bool { return r.Type == "google_storage_notification" }),
	},
}

// notified says whether a notification tells a push subscription of a change of all objects that a pattern matches.
func notified(p *Plan, bucket, kind, pattern string) bool {
	literal := pattern
	if end := strings.IndexAny(pattern, `*?[{\`); end >= 0 {
		literal = pattern[:end]
	}
	return slices.ContainsFunc(p.of("google_storage_notification"), func(n *Resource) bool {
		return n.text("bucket") == bucket &&
			slices.Contains(texts(n.get("event_types")), kindNames[kind]) &&
			strings.HasPrefix(literal, n.text("object_name_prefix")) &&
			slices.ContainsFunc(pushes(p), func(s *Resource) bool { return s.text("topic") == n.text("topic") })
	})
}

// subscribed says whether a push subscription or an Eventarc trigger takes a topic's messages. A file names a topic of the
// deployment's own project by its ID.
func subscribed(p *Plan, topic string) bool {
	is := func(name string) bool {
		return name == topic || !strings.Contains(topic, "/") && strings.HasSuffix(name, "/topics/"+topic)
	}
	return slices.ContainsFunc(pushes(p), func(s *Resource) bool { return is(s.text("topic")) }) ||
		slices.ContainsFunc(p.of(typeEventarc), func(t *Resource) bool { return is(t.text("transport.0.pubsub.0.topic")) })
}

// triggered says whether an Eventarc trigger takes a type of events, with a value of an attribute if one is named.
func triggered(p *Plan, kind, attribute, value string) bool {
	return slices.ContainsFunc(p.of(typeEventarc), func(t *Resource) bool {
		c := criteria(t)
		return c["type"] == kind && (attribute == "" || c[attribute] == value)
	})
}

// criteria are what an Eventarc trigger filters by.
func criteria(r *Resource) map[string]string {
	c := map[string]string{}
	for i := range r.list("matching_criteria") {
		at := "matching_criteria." + strconv.Itoa(i)
		c[r.text(at+".attribute")] = r.text(at + ".value")
	}
	return c
}
