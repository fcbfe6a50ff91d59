package pipeline_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/pipeline"
)

func stored(bucket, name string) *events.Event {
	return &events.Event{
		Kind: events.KindStorage, Type: events.TypeStorageFinalized, Source: "//storage.googleapis.com/projects/_/buckets/" + bucket, ID: "1", Subject: "objects/" + name,
		Storage: &events.Storage{Change: events.Finalized, Bucket: bucket, Name: name, Generation: 1700000000000001, Metageneration: 1, Size: 3},
	}
}

func message(topic, id, data string, attributes map[string]string) *events.Event {
	return &events.Event{
		Kind: events.KindPubSub, Type: events.TypePubSubMessagePublished, Source: "//pubsub.googleapis.com/" + topic, ID: id,
		PubSub: &events.PubSub{Topic: topic, MessageID: id, Data: []byte(data), Attributes: attributes},
	}
}

func generic(typ, source, data string) *events.Event {
	return &events.Event{Kind: events.KindGeneric, Type: typ, Source: source, ID: "1", Data: []byte(data)}
}

// withTriggers is a pipeline with the entries of on, and nothing else of interest.
func withTriggers(t testing.TB, name string, on ...string) *pipeline.Pipeline {
	t.Helper()
	p, problems := pipeline.Parse(name+".yaml", []byte("name: "+name+"\npurpose: Test.\nowner: me\non: [\n"+strings.Join(on, ",\n")+"\n]\nsteps: [{name: a, dataflow: {template: gs://a-b/c}}]\n"))
	if p == nil {
		t.Fatal(problems)
	}
	return p
}

func TestObjectPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		captures      map[string]string // nil: it does not match
	}{
		{"orders/*.csv", "orders/a.csv", map[string]string{}},
		{"orders/*.csv", "orders/.csv", map[string]string{}},
		{"orders/*.csv", "orders/x/a.csv", nil},
		{"orders/*.csv", "Orders/a.csv", nil},
		{"orders/*.csv", "orders/a.csv.gz", nil},
		{"orders/*.csv", "x/orders/a.csv", nil},
		{"orders/**", "orders/x/y.csv", map[string]string{}},
		{"orders/**", "orders", map[string]string{}},
		{"orders/**", "orders2/x", nil},
		{"**/a.csv", "a.csv", map[string]string{}},
		{"**/a.csv", "x/y/a.csv", map[string]string{}},
		{"a/**/b", "a/b", map[string]string{}},
		{"a/**/b", "a/x/y/b", map[string]string{}},
		{"**", "any/thing", map[string]string{}},
		{"a?c", "a/c", nil},
		{"a?c", "aéc", map[string]string{}},
		{"[a-c]x", "bx", map[string]string{}},
		{"[^a-c]x", "bx", nil},
		{"[!a]x", "/x", nil},
		{"*.{csv,json}", "a.json", map[string]string{}},
		{"*.{csv,json}", "a.xml", nil},
		{"{a,b/*}/c", "b/x/c", map[string]string{}},
		{"orders/{region}/{date}/*.csv", "orders/eu/2026-01-01/a.csv", map[string]string{"region": "eu", "date": "2026-01-01"}},
		{"orders/{region}/*.csv", "orders//a.csv", nil},
		{"{table}_{date}.csv", "order_items_20260101.csv", map[string]string{"table": "order_items", "date": "20260101"}},
		{"in/{path**}.csv", "in/a/b/c.csv", map[string]string{"path": "a/b/c"}},
		{`\{a\}/\*`, "{a}/*", map[string]string{}},
		{`\{a\}/\*`, "{a}/b", nil},
		// Names are data: nothing in them is a pattern, an expression or a path.
		{"in/{file}", "in/*", map[string]string{"file": "*"}},
		{"in/{file}", "in/..", map[string]string{"file": ".."}},
		{"in/{file}", "in/../x", nil},
		{"in/{file}", "in/${event.name}", map[string]string{"file": "${event.name}"}},
		{"in/{file}", "in/{{.}} a,b'\"\\%2F", map[string]string{"file": "{{.}} a,b'\"\\%2F"}},
		{"in/{file}", "in/ü\u202e\x00\x7f", map[string]string{"file": "ü\u202e\x00\x7f"}},
		{"in/{file}", "in/" + strings.Repeat("x", 1021), map[string]string{"file": strings.Repeat("x", 1021)}},
		{"in/a.c", "in/abc", nil},
		{"in/(a|b)+", "in/(a|b)+", map[string]string{}},
	} {
		t.Run(c.pattern+" "+c.name[:min(len(c.name), 30)], func(t *testing.T) {
			set := pipeline.NewSet([]*pipeline.Pipeline{withTriggers(t, "p", fmt.Sprintf("{storage: {bucket: acme, object: '%s'}}", c.pattern))})
			matches := set.Match(stored("acme", c.name))
			if (len(matches) == 1) != (c.captures != nil) {
				t.Fatalf("%d matches", len(matches))
			}
			if len(matches) == 1 && !maps.Equal(matches[0].Captures, c.captures) {
				t.Errorf("captures are %q", matches[0].Captures)
			}
		})
	}
}

// FuzzObjectPatterns holds our patterns against doublestar, whose globs they are where they have no captures.
func FuzzObjectPatterns(f *testing.F) {
	for _, seed := range [][2]string{
		{"a/**/b", "a/x/b"}, {"**/b", "b"}, {"a/**", "a"}, {"a/**", "a/"}, {"**", ""}, {"*/", "a/"}, {"{a,b*}/c", "bx/c"}, {"[^a]b", "/b"}, {"[a-z]?", "é"},
		{"{a,{b,c}}", "c"}, {`\*`, "*"}, {"a/**/**/b", "a/b"}, {"/**/", "//"}, {"**/**", "a"}, {"{**/a,b}", "x/a"}, {"a{/**,}", "a"}, {"{a/**}", "a"}, {"[]-a]", "]"},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if len(pattern) > 200 || len(name) > 200 || name == "" {
			return
		}
		got, ours := pipeline.MatchPattern(pattern, name)
		want, err := doublestar.Match(pattern, name)
		if !ours || err != nil {
			return // only what both take can be compared
		}
		if strings.ContainsAny(pattern, "[") && strings.Contains(name, "/") {
			return // its classes match a slash where they are negated, ours never
		}
		if got != want {
			t.Errorf("%q matches %q: %v, and doublestar says %v", pattern, name, got, want)
		}
	})
}

func TestTriggersMatch(t *testing.T) {
	deleted := stored("acme", "a")
	deleted.Storage.Change, deleted.Type = events.Deleted, events.TypeStorageDeleted
	set := pipeline.NewSet([]*pipeline.Pipeline{
		withTriggers(t, "all-of-a-bucket", "{storage: {bucket: acme}}"),
		withTriggers(t, "deletions", "{storage: {bucket: acme, kinds: [deleted, archived]}}"),
		withTriggers(t, "csv", `{storage: {bucket: acme, object: "in/*.csv"}}`, `{storage: {bucket: acme, object: "in/**"}}`),
		withTriggers(t, "topic-by-id", "{pubsub: {topic: exports}}"),
		withTriggers(t, "topic-by-name", "{pubsub: {topic: projects/acme/topics/exports}}"),
		withTriggers(t, "type", "{event: {type: com.acme.done}}"),
		withTriggers(t, "type-and-source", "{event: {type: com.acme.done, source: //erp}}"),
		withTriggers(t, "either", "{pubsub: {topic: other}}", "{storage: {bucket: acme-two}}"),
	})
	for name, c := range map[string]struct {
		event *events.Event
		want  string
	}{
		"an object":                      {stored("acme", "x"), "all-of-a-bucket"},
		"two triggers of one pipeline":   {stored("acme", "in/a.csv"), "all-of-a-bucket csv"},
		"a deleted object":               {deleted, "deletions"},
		"another bucket":                 {stored("acm", "in/a.csv"), ""},
		"a message":                      {message("projects/acme/topics/exports", "1", "", nil), "topic-by-id topic-by-name"},
		"a message of another project":   {message("projects/other/topics/exports", "1", "", nil), "topic-by-id"},
		"a message of another topic":     {message("projects/acme/topics/export", "1", "", nil), ""},
		"an event":                       {generic("com.acme.done", "//crm", "null"), "type"},
		"an event of the source":         {generic("com.acme.done", "//erp", "null"), "type type-and-source"},
		"another event":                  {generic("com.acme.don", "//erp", "null"), ""},
		"one of a pipeline's two kinds":  {stored("acme-two", "x"), "either"},
		"the other of a pipeline's kind": {message("projects/a/topics/other", "1", "", nil), "either"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, m := range set.Match(c.event) {
				got = append(got, m.Pipeline.Name)
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			for _, p := range set.Pipelines() {
				wanted := false
				for i := range p.On {
					wanted = wanted || p.On[i].Mismatch(c.event) == ""
				}
				if wanted != strings.Contains(" "+c.want+" ", " "+p.Name+" ") {
					t.Errorf("%s: Mismatch disagrees with Match", p.Name)
				}
			}
		})
	}
}

// manyPipelines is n pipelines of one bucket, each for a folder of its own.
func manyPipelines(tb testing.TB, n int) *pipeline.Set {
	tb.Helper()
	all := make([]*pipeline.Pipeline, n)
	for i := range all {
		all[i] = withTriggers(tb, fmt.Sprintf("p%d", i), fmt.Sprintf(`{storage: {bucket: acme, object: "teams/%d/*.csv"}}`, i))
	}
	return pipeline.NewSet(all)
}

func TestMatchingLooksAtFewPipelinesOfMany(t *testing.T) {
	set := manyPipelines(t, 2000)
	for name, most := range map[string]int{"elsewhere/1/a.csv": 0, "teams/77/a.csv": 3, "teams/x": 0} {
		if n := pipeline.Candidates(set, stored("acme", name)); n > most {
			t.Errorf("%s: looked at %d triggers, more than %d", name, n, most)
		}
	}
	if n := len(set.Match(stored("acme", "teams/1234/a.csv"))); n != 1 {
		t.Errorf("%d matches", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 10_000} {
		set := manyPipelines(b, n)
		for name, object := range map[string]string{"none": "elsewhere/7/a.csv", "one": "teams/7/a.csv"} {
			b.Run(fmt.Sprintf("%d-pipelines/%s-matches", n, name), func(b *testing.B) {
				e := stored("acme", object)
				for b.Loop() {
					set.Match(e)
				}
			})
		}
	}
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if p, problems := pipeline.Parse("f", []byte(orders)); p == nil {
			b.Fatal(problems)
		}
	}
}

func BenchmarkEvaluate(b *testing.B) {
	p, _ := pipeline.Parse("f", []byte(orders))
	matches := pipeline.NewSet([]*pipeline.Pipeline{p}).Match(stored("acme-landing", "orders/eu/1/a.csv"))
	for b.Loop() {
		if _, _, err := matches[0].Evaluate(); err != nil {
			b.Fatal(err)
		}
	}
}
