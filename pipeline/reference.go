package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"cel.dev/cel-go/cel"

	"github.com/penstock/penstock/events"
)

//go:generate go run ./generate

// SchemaURL is where editors find the schema that [Schema] returns, as a published file names it.
const SchemaURL = "https://raw.githubusercontent.com/penstock/penstock/main/schemas/pipeline.schema.json"

// Schema returns the JSON Schema (draft 2020-12) of the pipelines file. It tells editors names and forms; what only [Parse] can
// know, such as a circle of needs or the types of expressions, it lets pass. It never refuses what Parse takes.
func Schema() []byte {
	root := schemaOf(fileFields)
	root = append(members{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"$id", SchemaURL},
		{"title", "Penstock pipelines file"},
	}, root...)
	b, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("pipeline: write the schema: %v", err)) // it is made of strings and numbers
	}
	return append(b, '\n')
}

// members is a JSON object that keeps its order.
type members []member

type member struct {
	name  string
	value any
}

// MarshalJSON writes the members in their order.
func (m members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, v := range []any{x.name, x.value} {
			if j > 0 {
				b.WriteByte(':')
			}
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(v); err != nil {
				return nil, fmt.Errorf("write %s: %w", x.name, err)
			}
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func schemaOf(f *field) members {
	var m members
	add := func(name string, v any) { m = append(m, member{name, v}) }
	doc := f.doc
	if f.def != "" {
		doc += " Default: " + f.def + "."
	}
	if doc != "" {
		add("description", strings.TrimSpace(doc))
	}
	switch f.kind {
	case text:
		if f.expr == templated { // 5 and true are taken as they are written
			add("type", []string{"string", "number", "boolean"})
		} else {
			add("type", "string")
		}
		switch {
		case len(f.enum) > 0:
			add("enum", f.enum)
		case f.rule != nil:
			add("pattern", f.rule.re.String())
		case f.required:
			add("minLength", 1)
		}
	case whole:
		add("type", "integer")
		add("minimum", f.min)
		if f.max > 0 {
			add("maximum", f.max)
		}
	case truth:
		add("type", "boolean")
	case duration:
		add("type", "string")
		pattern := `([0-9]+d)?([0-9.]+(ns|us|µs|ms|s|m|h))*`
		if len(f.enum) > 0 {
			pattern = "(" + strings.Join(f.enum, "|") + "|" + pattern + ")"
		}
		add("pattern", "^"+pattern+"$")
	case list:
		add("type", "array")
		if f.minItems > 0 {
			add("minItems", f.minItems)
		}
		add("maxItems", f.maxItems)
		add("items", schemaOf(f.item))
	case mapping:
		add("type", "object")
		add("maxProperties", f.maxItems)
		add("propertyNames", members{{"pattern", f.keyRule.re.String()}})
		add("additionalProperties", schemaOf(f.item))
	case object:
		add("type", "object")
		var properties members
		var required []string
		for _, c := range f.fields {
			properties = append(properties, member{c.name, schemaOf(c)})
			if c.required {
				required = append(required, c.name)
			}
		}
		add("properties", properties)
		if len(required) > 0 {
			add("required", required)
		}
		if len(f.oneOf) > 0 {
			var choices []members
			for _, name := range f.oneOf {
				choices = append(choices, members{{"required", []string{name}}})
			}
			add("oneOf", choices)
		}
		add("additionalProperties", false)
	}
	return m
}

const (
	referenceBegin = "<!-- The rest up to the end mark is written by go generate ./pipeline. -->\n"
	referenceEnd   = "<!-- End of what go generate ./pipeline writes. -->\n"
)

// UpdateReference replaces the generated part of the reference page.
func UpdateReference(page []byte) ([]byte, error) {
	before, rest, ok := bytes.Cut(page, []byte(referenceBegin))
	_, after, ok2 := bytes.Cut(rest, []byte(referenceEnd))
	if !ok || !ok2 {
		return nil, fmt.Errorf("find the generated part: the page does not have the marks %q and %q", strings.TrimSpace(referenceBegin), strings.TrimSpace(referenceEnd))
	}
	return bytes.Join([][]byte{before, []byte(referenceBegin), reference(), []byte(referenceEnd), after}, nil), nil
}

func reference() []byte {
	var b bytes.Buffer
	b.WriteString("\n### Top level\n\n")
	writeFields(&b, fileFields.fields, "")
	sections := []struct {
		title, intro string
		fields       []*field
		path         string
	}{
		{"Triggers: `on`", "A list. Each entry has one of `storage`, `pubsub` and `event`, and may have `when`.", triggerFields.fields, "on[]."},
		{"Steps: `steps`", "A list.", stepFields.fields, "steps[]."},
		{"Jobs: `dataflow`", "", dataflowFields, "dataflow."},
		{"Environment: `dataflow.environment`", "The fields of Dataflow's launch requests, under Dataflow's own names. None takes `${ }`.", flexEnvironment, "environment."},
	}
	for _, s := range sections {
		fmt.Fprintf(&b, "\n### %s\n\n", s.title)
		if s.intro != "" {
			fmt.Fprintf(&b, "%s\n\n", s.intro)
		}
		writeFields(&b, s.fields, "")
	}
	b.WriteString("\n### What expressions see\n")
	kinds := []struct {
		title string
		kind  events.Kind
	}{
		{"`event` of a `storage` trigger", events.KindStorage},
		{"`event` of a `pubsub` trigger", events.KindPubSub},
		{"`event` of an `event` trigger", events.KindGeneric},
		{"`event` of an `event` trigger for `" + events.TypeJobStatusChanged + "`", events.KindJobStatus},
	}
	for _, k := range kinds {
		fields := eventFields[k.kind]
		writeVariables(&b, k.title, fields[:len(fields)-len(commonFields)], "and the fields of every event, below.")
	}
	writeVariables(&b, "`event` of every trigger", commonFields, "")
	writeVariables(&b, "`run`", runFields, "")
	writeVariables(&b, "`steps.NAME`, or `steps[\"NAME\"]`", stepResultFields, "")
	b.WriteByte('\n')
	return b.Bytes()
}

func writeVariables(b *bytes.Buffer, title string, fields []variable, also string) {
	fmt.Fprintf(b, "\n#### %s\n\n| field | type | meaning |\n|---|---|---|\n", title)
	for _, f := range fields {
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", f.name, celTypeName(f.celType), f.doc)
	}
	if also != "" {
		fmt.Fprintf(b, "\n…%s\n", also)
	}
}

func celTypeName(t *cel.Type) string {
	if t == cel.DynType {
		return "any"
	}
	return strings.ReplaceAll(cel.FormatCELType(t), "google.protobuf.Timestamp", "timestamp")
}

// writeFields writes one table for fields, those of objects that have no section of their own in line.
func writeFields(b *bytes.Buffer, fields []*field, prefix string) {
	if prefix == "" {
		b.WriteString("| field | type | meaning |\n|---|---|---|\n")
	}
	for _, f := range fields {
		doc := f.doc
		switch {
		case f.required:
			doc += " **Required.**"
		case f.def != "":
			doc += " Default: " + f.def + "."
		}
		if len(f.enum) > 0 && f.kind == text {
			doc += " One of `" + strings.Join(f.enum, "`, `") + "`."
		}
		if f.example != "" {
			doc += " Example: `" + f.example + "`"
		}
		fmt.Fprintf(b, "| `%s%s` | %s | %s |\n", prefix, f.name, typeName(f), strings.ReplaceAll(doc, "|", `\|`))
		if f.kind == object && f.name != "dataflow" && f.name != "environment" {
			writeFields(b, f.fields, prefix+f.name+".")
		}
	}
}

func typeName(f *field) string {
	switch f.kind {
	case whole:
		if f.max > 0 {
			return fmt.Sprintf("number, %d to %d", f.min, f.max)
		}
		return "number"
	case truth:
		return "`true` or `false`"
	case duration:
		words := ""
		for _, w := range f.enum {
			words += "`" + w + "` or "
		}
		return fmt.Sprintf("%sduration, %s to %s", words, formatDuration(time.Duration(f.min)), formatDuration(time.Duration(f.max)))
	case list:
		return "list"
	case object:
		return "object"
	case mapping:
		return "names to text with `${ }`"
	}
	switch f.expr {
	case templated:
		return "text with `${ }`"
	case expressive:
		return "CEL"
	}
	return "text"
}
