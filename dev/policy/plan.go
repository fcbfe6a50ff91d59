// Package policy checks a Terraform plan of a deployment against what must be true of
// every deployment, whatever its variables say: nothing public, no rights beyond need,
// nothing that can lose an event.
//
// Each rule has a twin, a change that breaks it. Prove breaks a plan by each twin and
// says which rules saw it, so that a rule which no longer catches anything is found.
package policy

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/penstock/penstock/pipeline"
)

// Plan is what a plan would make, and the pipelines files that it was made from.
type Plan struct {
	Resources []*Resource
	// Pipelines are the files; JobLocation is the region of steps that name none.
	Pipelines   []*pipeline.Pipeline
	JobLocation string
}

// Resource is one resource as it would be after the plan.
type Resource struct {
	Address string
	Type    string
	// Values are its attributes; nested blocks are lists of maps. What is known only
	// once it is applied is Unknown instead.
	Values map[string]any
}

// unknown is an attribute that is known only once it is applied.
type unknown struct{}

// Read reads what `terraform show -json` says of a plan. Resources that the plan
// deletes are left out.
func Read(r io.Reader) (*Plan, error) {
	var doc struct {
		FormatVersion string `json:"format_version"`
		Changes       []struct {
			Address string `json:"address"`
			Mode    string `json:"mode"`
			Type    string `json:"type"`
			Change  struct {
				After   map[string]any `json:"after"`
				Unknown any            `json:"after_unknown"`
			} `json:"change"`
		} `json:"resource_changes"`
	}
	if err := json.NewDecoder(r).Decode(&doc); err != nil {
		return nil, fmt.Errorf("read the plan: %w; it must be what `terraform show -json PLAN` prints", err)
	}
	// https://developer.hashicorp.com/terraform/internals/json-format
	if !strings.HasPrefix(doc.FormatVersion, "1.") {
		return nil, fmt.Errorf("read the plan: its format is %q and 1.x is known; use a terraform that writes 1.x", doc.FormatVersion)
	}
	p := &Plan{}
	for _, c := range doc.Changes {
		if c.Mode != "managed" || c.Change.After == nil {
			continue
		}
		values, _ := overlay(c.Change.After, c.Change.Unknown).(map[string]any)
		p.Resources = append(p.Resources, &Resource{Address: c.Address, Type: c.Type, Values: values})
	}
	if len(p.Resources) == 0 {
		return nil, fmt.Errorf("read the plan: it makes nothing, so there is nothing to check; plan against an empty state")
	}
	return p, nil
}

// overlay puts unknown where the second tree, which has the form of the first, says true.
func overlay(value, unknowns any) any {
	switch u := unknowns.(type) {
	case bool:
		if u {
			return unknown{}
		}
	case map[string]any:
		m, ok := value.(map[string]any)
		if !ok {
			m = map[string]any{}
		}
		for name, of := range u {
			m[name] = overlay(m[name], of)
		}
		return m
	case []any:
		l, _ := value.([]any)
		for i, of := range u {
			if i < len(l) {
				l[i] = overlay(l[i], of)
			} else {
				l = append(l, overlay(nil, of))
			}
		}
		return l
	}
	return value
}

// of lists the resources of the given types.
func (p *Plan) of(types ...string) []*Resource {
	var found []*Resource
	for _, r := range p.Resources {
		for _, t := range types {
			if r.Type == t {
				found = append(found, r)
			}
		}
	}
	return found
}

// get returns the attribute at a path such as "push_config.0.push_endpoint", or nil.
func (r *Resource) get(path string) any {
	var v any = r.Values
	for step := range strings.SplitSeq(path, ".") {
		switch of := v.(type) {
		case map[string]any:
			v = of[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(of) {
				return nil
			}
			v = of[i]
		default:
			return nil
		}
	}
	return v
}

// text is a known text, else empty.
func (r *Resource) text(path string) string {
	s, _ := r.get(path).(string)
	return s
}

// number is a known number, else zero.
func (r *Resource) number(path string) float64 {
	n, _ := r.get(path).(float64)
	return n
}

// list is the blocks, or the elements, at a path.
func (r *Resource) list(path string) []any {
	l, _ := r.get(path).([]any)
	return l
}

// has says whether an attribute is given, be it known or not.
func (r *Resource) has(path string) bool {
	switch v := r.get(path).(type) {
	case nil:
		return false
	case string:
		return v != ""
	default:
		return true
	}
}

// texts lists every text inside a value.
func texts(v any) []string {
	switch of := v.(type) {
	case string:
		return []string{of}
	case map[string]any:
		var all []string
		for _, e := range of {
			all = append(all, texts(e)...)
		}
		return all
	case []any:
		var all []string
		for _, e := range of {
			all = append(all, texts(e)...)
		}
		return all
	}
	return nil
}

// clone copies a plan, so that the copy can be broken.
func (p *Plan) clone() *Plan {
	c := *p
	c.Resources = make([]*Resource, len(p.Resources))
	for i, r := range p.Resources {
		values, _ := cloneValue(r.Values).(map[string]any)
		c.Resources[i] = &Resource{Address: r.Address, Type: r.Type, Values: values}
	}
	return &c
}

func cloneValue(v any) any {
	switch of := v.(type) {
	case map[string]any:
		m := make(map[string]any, len(of))
		for k, e := range of {
			m[k] = cloneValue(e)
		}
		return m
	case []any:
		l := make([]any, len(of))
		for i, e := range of {
			l[i] = cloneValue(e)
		}
		return l
	}
	return v
}
