package pipeline_test

import (
	"slices"
	"testing"

	"github.com/penstock/penstock/pipeline"
)

func TestFieldsThatDecide(t *testing.T) {
	const rest = `
name: orders
purpose: Load.
owner: me@example.com
steps:
  - name: load
    dataflow: {template: gs://templates/load.json, parameters: {type: "${event.contentType}"}}
`
	for name, c := range map[string]struct {
		file   string
		want   []string
		prefix string
	}{
		"none":                 {`on: [{storage: {bucket: landing, object: "in/**"}}]`, nil, "in"},
		"when and key":         {"on: [{storage: {bucket: landing, object: 'in/{day}/x'}, when: event.size > 0}]\nkey: ${object.day}-${event.generation}", []string{"generation", "size"}, "in/"},
		"every trigger's when": {"on: [{storage: {bucket: landing}, when: event.size > 0}, {storage: {bucket: other}, when: event.metadata.kind == 'full'}]", []string{"metadata", "size"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			p, problems := pipeline.Parse("orders.yaml", []byte(c.file+rest))
			if problems.HasErrors() {
				t.Fatal(problems)
			}
			if got := p.Deciding(); !slices.Equal(got, c.want) {
				t.Errorf("it goes by %q, want %q", got, c.want)
			}
			if got := p.On[0].Storage.Prefix(); got != c.prefix {
				t.Errorf("its objects begin with %q, want %q", got, c.prefix)
			}
		})
	}
}
