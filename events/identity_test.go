package events_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/penstock/penstock/events"
)

// identical is what makes two events the same one, told without Identity.
func identical(a, b *events.Event) bool {
	switch {
	case a.Kind == events.KindStorage && b.Kind == events.KindStorage:
		s, t := a.Storage, b.Storage
		same := s.Change == t.Change && s.Bucket == t.Bucket && s.Name == t.Name && s.Generation == t.Generation
		return same && (s.Change != events.MetadataUpdated || s.Metageneration == t.Metageneration)
	case a.Kind == events.KindPubSub && b.Kind == events.KindPubSub:
		return a.PubSub.Topic == b.PubSub.Topic && a.PubSub.MessageID == b.PubSub.MessageID
	case a.Kind != events.KindStorage && a.Kind != events.KindPubSub && b.Kind != events.KindStorage && b.Kind != events.KindPubSub:
		return a.Source == b.Source && a.ID == b.ID
	}
	return false
}

// drawEvent draws an event that decodes, over an alphabet made of what identities are put together from.
func drawEvent(t *rapid.T, label string) *events.Event {
	text := func(what string) string {
		return rapid.StringOfN(rapid.SampledFrom([]rune{'a', '#', '%', '2', '3', '.', '/', ':', '1', 'é'}), 1, 6, -1).Draw(t, label+what)
	}
	small := func(what string) int64 { return rapid.Int64Range(1, 12).Draw(t, label+what) }
	var doc string
	quoted := func(s string) string { b, _ := json.Marshal(s); return string(b) }
	switch rapid.IntRange(0, 2).Draw(t, label+"kind") {
	case 0:
		change := rapid.SampledFrom([]string{"finalized", "deleted", "archived", "metadataUpdated"}).Draw(t, label+"change")
		bucket := rapid.SampledFrom([]string{"a", "a1", "a:1", "1"}).Draw(t, label+"bucket")
		doc = fmt.Sprintf(`{"specversion":"1.0","id":"1","source":"/s","type":"google.cloud.storage.object.v1.%s","data":{"bucket":%q,"name":%s,"generation":%d,"metageneration":%d}}`,
			change, bucket, quoted(text("name")), small("generation"), small("metageneration"))
	case 1:
		topic := rapid.SampledFrom([]string{"a", "a1", "a%23", "a:1"}).Draw(t, label+"topic")
		doc = strings.Replace(pubsubDoc(fmt.Sprintf(`{"message":{"messageId":%s}}`, quoted(text("message")))), "topics/t", "topics/"+topic, 1)
	case 2:
		source := rapid.SampledFrom([]string{"a", "a#1", "a%23", "a%2523", "a%25", "a#", "finalized:a", "pubsub:projects/p/topics/a", "/1", "b#", "a#1%23"}).Draw(t, label+"source")
		doc = fmt.Sprintf(`{"specversion":"1.0","id":%s,"source":%s,"type":"t"}`, quoted(text("id")), quoted(source))
	}
	e, err := events.FromJSON([]byte(doc), "")
	if err != nil {
		t.Fatalf("%s: %v", doc, err)
	}
	return e
}

func TestIdentityIsInjective(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawEvent(t, "a "), drawEvent(t, "b ")
		if same := a.Identity() == b.Identity(); same != identical(a, b) {
			t.Fatalf("identities %q and %q of %s and %s", a.Identity(), b.Identity(), encode(a), encode(b))
		}
	})
}

// The pairs that a careless identity would mix up.
func TestIdentitiesThatLookAlike(t *testing.T) {
	generic := func(source, id string) string {
		return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":%q,"type":"t"}`, id, source)
	}
	storage := func(change, bucket, name string, generation, metageneration int) string {
		return strings.Replace(storageDoc(change, fmt.Sprintf(`{"bucket":%q,"name":%q,"generation":%d,"metageneration":%d}`, bucket, name, generation, metageneration)), "buckets/b", "buckets/"+bucket, 1)
	}
	for name, pair := range map[string][2]string{
		"# moves between source and id":          {generic("a#b", "c"), generic("a", "b#c")},
		"escaped # in source":                    {generic("a%23b", "c"), generic("a#b", "c")},
		"generation moves into the name":         {storage("finalized", "b", "n#1", 2, 1), storage("finalized", "b", "n", 1, 2)},
		"metageneration moves into generation":   {storage("metadataUpdated", "b", "n", 1, 12), storage("metadataUpdated", "b", "n", 11, 2)},
		"slash moves between bucket and name":    {storage("finalized", "b", "c/d", 1, 1), storage("finalized", "b", "/c/d", 1, 1)},
		"overwrite":                              {storage("finalized", "b", "n", 1, 1), storage("finalized", "b", "n", 2, 1)},
		"finalized and deleted":                  {storage("finalized", "b", "n", 1, 1), storage("deleted", "b", "n", 1, 1)},
		"object name that is a generic identity": {storage("finalized", "event", "n", 1, 1), generic("finalized:event/n", "1")},
		"topic's event and generic event":        {pubsubDoc(`{"message":{"messageId":"1"}}`), generic("//pubsub.googleapis.com/projects/p/topics/t", "1")},
	} {
		a, err := events.FromJSON([]byte(pair[0]), "")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		b, err := events.FromJSON([]byte(pair[1]), "")
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if a.Identity() == b.Identity() {
			t.Errorf("%s: both are %q", name, a.Identity())
		}
	}
}

// Metadata updates differ by metageneration; a finalize keeps its identity whatever the metageneration that a later
// message about it carries.
func TestMetagenerationCountsForMetadataUpdatesOnly(t *testing.T) {
	at := func(change, metageneration string) string {
		e, err := events.FromJSON([]byte(storageDoc(change, `{"bucket":"b","name":"n","generation":1,"metageneration":`+metageneration+`}`)), "")
		if err != nil {
			t.Fatal(err)
		}
		return e.Identity()
	}
	if at("metadataUpdated", "1") == at("metadataUpdated", "2") {
		t.Error("two metadata updates are one event")
	}
	if at("finalized", "1") != at("finalized", "2") {
		t.Error("one finalize is two events")
	}
}
