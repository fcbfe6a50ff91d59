package rest

import (
	"errors"
	"fmt"
	"strings"
)

// fieldMask is a partial response as the system parameter `fields` selects it: "jobs(id,name),nextPageToken", "jobs/id", "*". A mask without members takes all.
type fieldMask map[string]fieldMask

// maxFields bounds the nesting of a selection.
const maxFields = 20

func parseFields(s string) (fieldMask, error) {
	p := fieldParser{rest: s}
	m, err := p.list(0)
	if err == nil && p.rest != "" {
		err = fmt.Errorf("there is text after the end: %q", p.rest)
	}
	return m, err
}

type fieldParser struct{ rest string }

func (p *fieldParser) list(depth int) (fieldMask, error) {
	if depth > maxFields {
		return nil, errors.New("it is nested too deeply")
	}
	out := fieldMask{}
	for {
		if err := p.path(out, depth); err != nil {
			return nil, err
		}
		if !strings.HasPrefix(p.rest, ",") {
			return out, nil
		}
		p.rest = p.rest[1:]
	}
}

func (p *fieldParser) path(into fieldMask, depth int) error {
	p.rest = strings.TrimLeft(p.rest, " ")
	end := strings.IndexAny(p.rest, ",/.() ")
	if end < 0 {
		end = len(p.rest)
	}
	name := p.rest[:end]
	if name == "" {
		return errors.New("a field's name is missing")
	}
	p.rest = strings.TrimLeft(p.rest[end:], " ")
	// A field that is selected whole stays whole when a part of it is selected too.
	child, seen := into[name]
	whole := seen && len(child) == 0
	if child == nil {
		child = fieldMask{}
		into[name] = child
	}
	switch {
	case strings.HasPrefix(p.rest, "/"), strings.HasPrefix(p.rest, "."):
		if depth > maxFields {
			return errors.New("it is nested too deeply")
		}
		p.rest = p.rest[1:]
		if err := p.path(child, depth+1); err != nil {
			return err
		}
	case strings.HasPrefix(p.rest, "("):
		p.rest = p.rest[1:]
		parts, err := p.list(depth + 1)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(p.rest, ")") {
			return errors.New("a closing parenthesis is missing")
		}
		p.rest = strings.TrimLeft(p.rest[1:], " ")
		for k, v := range parts {
			child[k] = v
		}
	default:
		whole = true
	}
	if whole {
		clear(child)
	}
	return nil
}

// apply returns what the mask selects of a JSON value; a list is selected element by element.
func (m fieldMask) apply(value any) any {
	if len(m) == 0 {
		return value
	}
	switch v := value.(type) {
	case []any:
		out := make([]any, 0, len(v))
		for _, e := range v {
			out = append(out, m.apply(e))
		}
		return out
	case map[string]any:
		out := map[string]any{}
		for name, child := range v {
			sub, ok := m[name]
			if !ok {
				sub, ok = m["*"]
			}
			if ok {
				out[name] = sub.apply(child)
			}
		}
		return out
	}
	return value
}
