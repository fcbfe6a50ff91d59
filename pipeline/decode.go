package pipeline

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"
)

// reader turns a file's YAML into values that the field descriptions allow, and collects every problem on the way.
type reader struct {
	file     string
	lines    []string
	problems Problems
}

// value is a checked YAML node. Only the part that its field's kind names is set; a value that had a problem is nil in its
// parent, so that whoever reads it further sees it as absent.
type value struct {
	node  *yaml.Node
	key   *yaml.Node // of a field or entry of a mapping
	text  string
	whole int64
	truth bool
	span  time.Duration
	named map[string]*value // of an object or mapping
	order []string          // its names in the order of the file
	items []*value          // of a list
	// present are the fields of an object that the file has, usable or not: a field with a problem of its own is not also missing.
	present map[string]bool
}

func (r *reader) report(p Position, severity Severity, hint, format string, args ...any) {
	r.problems = append(r.problems, Problem{File: r.file, Line: p.Line, Col: p.Col, Severity: severity, Message: fmt.Sprintf(format, args...), Hint: hint})
}

func (r *reader) fail(n *yaml.Node, hint, format string, args ...any) {
	r.report(r.at(n), Error, hint, format, args...)
}

func (r *reader) at(n *yaml.Node) Position { return Position{r.file, n.Line, n.Column} }

// sorted returns the problems in the order of the file, each once.
func (r *reader) sorted() Problems {
	slices.SortStableFunc(r.problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col), cmp.Compare(a.Message, b.Message))
	})
	return slices.CompactFunc(r.problems, func(a, b Problem) bool { return a.Line == b.Line && a.Col == b.Col && a.Message == b.Message })
}

// load parses the YAML of a file and refuses what a pipelines file has no use for: further documents, aliases, anchors, merge
// keys and tags. An alias is refused before anything expands it.
func (r *reader) load(src []byte) *yaml.Node {
	whole := Position{File: r.file}
	if len(src) > maxFileSize {
		r.report(whole, Error, "one file holds one pipeline", "the file has more than %d KiB", maxFileSize>>10)
		return nil
	}
	if i := firstInvalid(src); i >= 0 {
		line := 1 + strings.Count(string(src[:i]), "\n")
		r.report(Position{r.file, line, 1}, Error, "save the file as UTF-8", "the line is not valid UTF-8")
		return nil
	}
	r.lines = strings.Split(strings.ReplaceAll(string(src), "\r\n", "\n"), "\n")
	var documents []yaml.Node
	if err := yaml.Load(src, &documents, yaml.WithAllDocuments(), yaml.WithUniqueKeys(false)); err != nil {
		r.syntax(err)
		return nil
	}
	if len(documents) == 0 || len(documents[0].Content) == 0 {
		r.report(whole, Error, "run `penstock init` for a first one", "the file is empty")
		return nil
	}
	if len(documents) > 1 {
		r.fail(&documents[1], "give each pipeline a file of its own", "the file has a second document")
	}
	root := documents[0].Content[0]
	if !r.plain(root, 0) {
		return nil
	}
	return root
}

func firstInvalid(src []byte) int {
	if utf8.Valid(src) {
		return -1
	}
	for i := 0; i < len(src); {
		c, n := utf8.DecodeRune(src[i:])
		if c == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

var markRE = regexp.MustCompile(`(?:at |line )(\d+)(?::(\d+))?`)

func (r *reader) syntax(err error) {
	p, message := Position{File: r.file}, err.Error()
	var one *yaml.LoadError
	if errors.As(err, &one) {
		message = one.Message
		p.Line, p.Col = one.Mark.Line, one.Mark.Column
	} else if m := markRE.FindStringSubmatch(message); m != nil {
		p.Line, _ = strconv.Atoi(m[1]) // digits
		p.Col, _ = strconv.Atoi(m[2])
	}
	if p.Line > 0 {
		p.Line = min(p.Line, len(r.lines))
		p.Col = max(p.Col, 1)
	}
	hint := "look at indentation and quotes there and in the line before"
	if p.Line > 0 && strings.Contains(r.lines[p.Line-1], "${") {
		hint = `put a value with ${ } in quotes: YAML reads ": ", " #", and inside { } and [ ] its braces, as its own`
	}
	r.report(p, Error, hint, "not valid YAML: %s", message)
}

// plain refuses the parts of YAML that are not in the pipelines file, all over the tree.
func (r *reader) plain(n *yaml.Node, depth int) bool {
	ok := true
	switch {
	case depth > 20:
		r.fail(n, "", "nested too deep")
		return false
	case n.Kind == yaml.AliasNode:
		r.fail(n, "write the value out", "YAML aliases are not allowed")
		return false
	case n.Anchor != "":
		r.fail(n, "remove it: aliases are not allowed either", "YAML anchors are not allowed")
		ok = false
	case n.Style&yaml.TaggedStyle != 0:
		r.fail(n, "remove it: each field has its own type", "YAML tags are not allowed")
		ok = false
	}
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "<<" && n.Content[i].Style == 0 {
				r.fail(n.Content[i], "write the fields out", "YAML merge keys are not allowed")
				ok = false
			}
		}
	}
	for _, c := range n.Content {
		ok = r.plain(c, depth+1) && ok
	}
	return ok
}

// read checks a node against its description. where names it in messages.
func (r *reader) read(f *field, n *yaml.Node, where string) *value {
	v := &value{node: n}
	switch f.kind {
	case object, mapping:
		if n.Kind != yaml.MappingNode {
			r.mistyped(n, where, "names and values")
			return nil
		}
		if f.kind == object {
			r.readObject(f, v, where)
		} else {
			r.readMapping(f, v, where)
		}
	case list:
		if n.Kind != yaml.SequenceNode {
			r.mistyped(n, where, "a list")
			return nil
		}
		if len(n.Content) < f.minItems {
			r.fail(n, "", "%s is empty", where)
		}
		if len(n.Content) > f.maxItems {
			r.fail(n, "", "%s has %d entries, more than %d", where, len(n.Content), f.maxItems)
			return nil
		}
		for i, c := range n.Content {
			if item := r.read(f.item, c, fmt.Sprintf("%s[%d]", where, i)); item != nil {
				v.items = append(v.items, item)
			}
		}
	default:
		if !r.readScalar(f, v, where) {
			return nil
		}
	}
	return v
}

func (r *reader) mistyped(n *yaml.Node, where, want string) {
	hint := ""
	if want == "a list" {
		hint = "begin each entry with a dash, or write [a, b]"
	}
	r.fail(n, hint, "%s takes %s, not %s", where, want, describe(n))
}

func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "names and values"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "nothing"
	}
	return "the text " + quote(n.Value)
}

// pairs calls each for every usable entry of a mapping, reporting keys that are not text or come twice.
func (r *reader) pairs(n *yaml.Node, where string, each func(key, val *yaml.Node)) {
	seen := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			r.fail(key, "", "a name in %s is not text", where)
			continue
		}
		if line, twice := seen[key.Value]; twice {
			r.fail(key, fmt.Sprintf("it is set in line %d already", line), "%s comes twice in %s", quote(key.Value), where)
			continue
		}
		seen[key.Value] = key.Line
		each(key, val)
	}
}

func (r *reader) readObject(f *field, v *value, where string) {
	v.named, v.present = map[string]*value{}, map[string]bool{}
	byName := map[string]*field{}
	var known []string
	for _, c := range f.fields {
		byName[c.name] = c
		known = append(known, c.name)
	}
	r.pairs(v.node, where, func(key, val *yaml.Node) {
		c, ok := byName[key.Value]
		if why, refused := f.refused[key.Value]; refused {
			r.fail(key, why, "%s is refused in %s", key.Value, where)
			return
		}
		if !ok {
			r.fail(key, suggest(key.Value, known), "unknown field %s in %s", quote(key.Value), where)
			return
		}
		v.present[key.Value] = true
		if got := r.read(c, val, within(where, key.Value)); got != nil {
			got.key = key
			v.named[key.Value] = got
			v.order = append(v.order, key.Value)
		}
	})
	for _, c := range f.fields {
		if c.required && !v.present[c.name] {
			hint := "add it"
			if c.example != "" {
				hint = fmt.Sprintf("add it, for example %s: %s", c.name, c.example)
			}
			r.fail(v.node, hint, "%s is missing in %s", c.name, where)
		}
	}
	if len(f.oneOf) > 0 {
		var has []string
		for _, name := range f.oneOf {
			if v.present[name] {
				has = append(has, name)
			}
		}
		if len(has) != 1 {
			got := "none"
			if len(has) > 1 {
				got = strings.Join(has, " and ")
			}
			r.fail(v.node, "write one of them", "%s takes exactly one of %s, and has %s", where, strings.Join(f.oneOf, ", "), got)
		}
	}
}

func within(where, name string) string {
	if where == "the file" {
		return name
	}
	return where + "." + name
}

func (r *reader) readMapping(f *field, v *value, where string) {
	v.named = map[string]*value{}
	if n := len(v.node.Content) / 2; n > f.maxItems {
		r.fail(v.node, "", "%s has %d entries, more than %d", where, n, f.maxItems)
		return
	}
	r.pairs(v.node, where, func(key, val *yaml.Node) {
		if strings.Contains(key.Value, "${") {
			r.fail(key, whyStatic, "${ } may not stand in a name in %s", where)
			return
		}
		if f.keyRule != nil && !f.keyRule.re.MatchString(key.Value) {
			r.fail(key, f.keyRule.hint, "%s in %s is not %s", quote(key.Value), where, f.keyRule.says)
			return
		}
		if got := r.read(f.item, val, within(where, key.Value)); got != nil {
			got.key = key
			v.named[key.Value] = got
			v.order = append(v.order, key.Value)
		}
	})
}

func (r *reader) readScalar(f *field, v *value, where string) bool {
	n := v.node
	want := map[kind]string{text: "text", whole: "a whole number", truth: "true or false", duration: "a duration"}[f.kind]
	if n.Kind != yaml.ScalarNode || n.ShortTag() == "!!null" && n.Style == 0 {
		hint := ""
		switch {
		case f.kind == text && n.Kind == yaml.MappingNode && n.Style&yaml.FlowStyle != 0, f.kind == text && n.Kind == yaml.SequenceNode && n.Style&yaml.FlowStyle != 0:
			hint = "put the text in quotes"
		case f.kind == text && n.Kind == yaml.ScalarNode:
			hint = `write "" for empty text`
		}
		r.fail(n, hint, "%s takes %s, not %s", where, want, describe(n))
		return false
	}
	if utf8.RuneCountInString(n.Value) > maxTextLength {
		r.fail(n, "", "%s has more than %d characters", where, maxTextLength)
		return false
	}
	if f.expr == static && unescaped(n.Value) {
		r.fail(n, cmp.Or(f.why, whyStatic), "${ } may not stand in %s", where)
		return false
	}
	switch f.kind {
	case text:
		return r.readText(f, v, where)
	case whole:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		if err != nil || n.Style != 0 {
			r.fail(n, "", "%s takes a whole number, not %s", where, describe(n))
			return false
		}
		if i < f.min || f.max > 0 && i > f.max {
			r.fail(n, "", "%s is %d, outside %d to %d", where, i, f.min, f.max)
			return false
		}
		v.whole = i
	case truth:
		if n.Value != "true" && n.Value != "false" || n.Style != 0 {
			r.fail(n, "", "%s takes true or false, not %s", where, describe(n))
			return false
		}
		v.truth = n.Value == "true"
	case duration:
		if slices.Contains(f.enum, n.Value) {
			return true
		}
		d, err := parseDuration(n.Value)
		if err != nil {
			r.fail(n, "write "+strings.Join(append(slices.Clone(f.enum), "a duration such as 90s, 45m, 2h, 1h30m or 3d"), ", or "), "%s takes a duration, not %s", where, describe(n))
			return false
		}
		if int64(d) < f.min || f.max > 0 && int64(d) > f.max {
			r.fail(n, "", "%s is %s, outside %s to %s", where, formatDuration(d), formatDuration(time.Duration(f.min)), formatDuration(time.Duration(f.max)))
			return false
		}
		v.span = d
	}
	return true
}

func (r *reader) readText(f *field, v *value, where string) bool {
	n := v.node
	v.text = n.Value
	if f.expr != templated {
		if tag := n.ShortTag(); n.Style == 0 && (tag == "!!int" || tag == "!!float" || tag == "!!bool") {
			r.fail(n, "put it in quotes", "%s takes text, not %s", where, n.Value)
			return false
		}
		if strings.TrimSpace(v.text) == "" {
			hint := "leave it out"
			if f.required || f.name == "" {
				hint = ""
			}
			r.fail(n, hint, "%s is empty", where)
			return false
		}
	}
	if len(f.enum) > 0 && !slices.Contains(f.enum, v.text) {
		r.fail(n, cmp.Or(suggest(v.text, f.enum), "write one of "+strings.Join(f.enum, ", ")), "%s is %s, which it cannot be", where, quote(v.text))
		return false
	}
	if f.rule != nil && !f.rule.re.MatchString(v.text) {
		r.fail(n, f.rule.hint, "%s is %s, not %s", where, quote(v.text), f.rule.says)
		return false
	}
	return true
}

var daysRE = regexp.MustCompile(`^(\d{1,4})d(.*)$`)

// parseDuration reads Go's durations, with d for 24 hours in front.
func parseDuration(s string) (time.Duration, error) {
	var days time.Duration
	if m := daysRE.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1]) // at most four digits
		days = time.Duration(n) * 24 * time.Hour
		if m[2] == "" {
			return days, nil
		}
		s = m[2]
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("parse duration %q: %w", s, err)
	}
	return days + d, nil
}

func formatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	switch {
	case d >= day && d%day == 0:
		return fmt.Sprintf("%dd", d/day)
	case d%time.Hour == 0:
		return fmt.Sprintf("%dh", d/time.Hour)
	case d%time.Minute == 0:
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.String()
}

// unescaped says whether text holds a ${ that is not escaped as $${.
func unescaped(s string) bool {
	for i := 0; ; {
		j := strings.Index(s[i:], "${")
		if j < 0 {
			return false
		}
		if i+j == 0 || s[i+j-1] != '$' {
			return true
		}
		i += j + 2
	}
}

// quote shows text on one line, cut short.
func quote(s string) string {
	const most = 80
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return strconv.Quote(s)
}

// suggest names the known word nearest to the one written, or all of them.
func suggest(word string, known []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, k := range known {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return "did you mean " + best + "?"
	}
	if len(known) == 0 {
		return ""
	}
	return "it may have " + strings.Join(known, ", ")
}

// distance counts the single-character changes, and swaps of neighbours, from a to b.
func distance(a, b string) int {
	if len(a) > 64 || len(b) > 64 {
		return 64
	}
	prev2, prev, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(prev[j]+1, row[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], prev2[j-2]+1)
			}
		}
		prev2, prev, row = prev, row, prev2
	}
	return prev[len(b)]
}
