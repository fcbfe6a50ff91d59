package pipeline

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"go.yaml.in/yaml/v4"

	"github.com/penstock/penstock/events"
)

// Parse reads one pipelines file. file is the name to use in problems and errors. Every problem is reported at once; the
// pipeline is nil if any of them is an Error. Warnings may come with a usable pipeline.
func Parse(file string, src []byte) (*Pipeline, Problems) {
	r := &reader{file: file}
	p := r.parse(src)
	problems := r.sorted()
	if problems.HasErrors() {
		return nil, problems
	}
	return p, problems
}

func (r *reader) parse(src []byte) *Pipeline {
	root := r.load(src)
	if root == nil {
		return nil
	}
	top := r.read(fileFields, root, "the file")
	if top == nil {
		return nil
	}
	sum := sha256.Sum256(src)
	p := &Pipeline{File: r.file, Name: top.get("name").text, Purpose: strings.TrimSpace(top.get("purpose").text), Owner: top.get("owner").text,
		Version: Version{Hash: hex.EncodeToString(sum[:])}}
	if name := top.get("name"); name.node != nil {
		p.namePosition = r.at(name.node)
	}
	if p.Name == "sweep" {
		r.fail(top.get("name").node, "it names Penstock's own workflows: choose another", "a pipeline cannot be called sweep")
	}
	if len(p.Owner) > maxTextLength/8 || len(p.Purpose) > maxTextLength/4 {
		r.fail(root, "say it in a sentence", "purpose or owner is too long")
	}

	var scopes []scope
	for _, item := range top.get("on").items {
		t, s := r.trigger(item)
		p.On = append(p.On, t)
		if s.kind != "" {
			scopes = append(scopes, s)
		}
	}
	if key := top.get("key"); key.node != nil {
		p.Key = r.templated(key, scopes, place{where: "key", sees: []string{"event", "object"}})
		if strings.TrimSpace(key.text) == "" {
			r.fail(key.node, "leave key out for one run an event", "key is empty")
		}
	}
	p.Steps = r.steps(top.get("steps"), scopes)
	if w := top.get("workflow"); w.node != nil {
		p.Workflow = workflow(w)
	}
	if s := top.get("signal"); s.node != nil {
		p.Signal = &Signal{Name: s.get("name").text}
		if id := s.get("workflowId"); id.node != nil {
			p.Signal.WorkflowID = r.templated(id, scopes, place{where: "signal.workflowId", sees: []string{"event", "object", "run"}})
			r.checkWorkflowID(p.Signal.WorkflowID)
		}
		if start := s.get("start"); start.node != nil {
			p.Signal.Start = workflow(start)
		}
	}
	if d := top.get("dedupe"); d.node != nil {
		p.Dedupe = &Dedupe{Keep: d.get("keep").span}
		for _, other := range []string{"workflow", "signal"} {
			if top.present[other] {
				r.fail(d.key, "remove it: what "+other+" starts knows nothing of the ledger", "dedupe is for pipelines with steps, and this one has %s", other)
			}
		}
	}
	r.checkKey(p)
	return p
}

var absent = &value{}

// get returns a field of an object; one that is absent, or had a problem, is an empty value without a node.
func (v *value) get(name string) *value {
	if got, ok := v.named[name]; ok {
		return got
	}
	return absent
}

func workflow(v *value) *Workflow {
	return &Workflow{Type: v.get("type").text, TaskQueue: v.get("taskQueue").text}
}

// trigger reads one entry of on. The scope has no kind if the trigger is of no use to check expressions by.
func (r *reader) trigger(v *value) (Trigger, scope) {
	t := Trigger{Position: r.at(v.node)}
	s := scope{trigger: t.Position}
	if storage := v.get("storage"); storage.node != nil {
		t.Storage = &StorageTrigger{Bucket: storage.get("bucket").text, Object: storage.get("object").text, Kinds: []string{"finalized"}}
		if kinds := storage.get("kinds"); kinds.node != nil {
			t.Storage.Kinds = nil
			for _, k := range kinds.items {
				if slices.Contains(t.Storage.Kinds, k.text) {
					r.report(r.at(k.node), Warning, "", "%s is listed twice", k.text)
					continue
				}
				t.Storage.Kinds = append(t.Storage.Kinds, k.text)
			}
		}
		s.kind = events.KindStorage
		if object := storage.get("object"); object.node != nil {
			pattern, bad := parsePattern(object.text)
			if bad != nil {
				r.report(r.locator(object.node)(bad.offset), Error, bad.hint, "object pattern: %s", bad.message)
				s.anyCapture = true
			} else {
				t.Storage.pattern, s.captures = pattern, pattern.captures
			}
		}
	} else if pubsub := v.get("pubsub"); pubsub.node != nil {
		t.PubSub = &PubSubTrigger{Topic: pubsub.get("topic").text, ID: pubsub.get("id").text}
		s.kind = events.KindPubSub
		if id := pubsub.get("id"); id.node != nil {
			t.identity = r.compile(id.text, []scope{s}, place{where: "id", sees: []string{"event"}}, r.locator(id.node))
		}
	} else if event := v.get("event"); event.node != nil {
		t.Event = &EventTrigger{Type: event.get("type").text, Source: event.get("source").text}
		s.kind = kindOf(t.Event.Type)
		if typed := event.get("type"); typed.node != nil {
			switch s.kind {
			case events.KindStorage:
				r.fail(typed.node, "write a storage trigger: storage: {bucket: …}", "an event trigger does not take %s", t.Event.Type)
			case events.KindPubSub:
				r.fail(typed.node, "write a pubsub trigger: pubsub: {topic: …}", "an event trigger does not take %s", t.Event.Type)
			}
		}
	}
	if when := v.get("when"); when.node != nil && s.kind != "" {
		t.When = when.text
		t.when = r.compile(when.text, []scope{s}, place{where: "when", sees: []string{"event", "object"}, result: []*cel.Type{cel.BoolType}, resultA: "true or false"}, r.locator(when.node))
	}
	return t, s
}

func kindOf(eventType string) events.Kind {
	switch eventType {
	case events.TypeStorageFinalized, events.TypeStorageDeleted, events.TypeStorageArchived, events.TypeStorageMetadataUpdated:
		return events.KindStorage
	case events.TypePubSubMessagePublished:
		return events.KindPubSub
	case events.TypeJobStatusChanged:
		return events.KindJobStatus
	}
	return events.KindGeneric
}

func (r *reader) steps(v *value, scopes []scope) []Step {
	var steps []Step
	lines := map[string]int{}
	for _, item := range v.items {
		name := item.get("name")
		if name.node != nil {
			if line, twice := lines[name.text]; twice {
				r.fail(name.node, fmt.Sprintf("line %d has it already", line), "two steps are called %s", name.text)
			} else {
				lines[name.text] = name.node.Line
			}
		}
	}
	needs := r.needs(v.items, lines)
	for _, item := range v.items {
		name := item.get("name").text
		s := Step{Name: name, Timeout: item.get("timeout").span, Retry: Retry{Attempts: 1, Backoff: time.Minute, MaxBackoff: 30 * time.Minute}}
		for _, n := range item.get("needs").items {
			if !slices.Contains(s.Needs, n.text) {
				s.Needs = append(s.Needs, n.text)
			}
		}
		retry := item.get("retry")
		if a := retry.get("attempts"); a.node != nil {
			s.Retry.Attempts = int(a.whole)
		}
		if b := retry.get("backoff"); b.node != nil {
			s.Retry.Backoff = b.span
			s.Retry.MaxBackoff = max(s.Retry.MaxBackoff, b.span)
		}
		if b := retry.get("maxBackoff"); b.node != nil {
			if s.Retry.MaxBackoff = b.span; b.span < s.Retry.Backoff {
				r.fail(b.node, "", "maxBackoff %s is below backoff %s", formatDuration(b.span), formatDuration(s.Retry.Backoff))
			}
		}
		var hidden []string
		for other := range lines {
			if !slices.Contains(needs[name], other) {
				hidden = append(hidden, other)
			}
		}
		slices.Sort(hidden)
		r.dataflow(&s, item.get("dataflow"), scopes, needs[name], hidden)
		steps = append(steps, s)
	}
	return steps
}

// needs checks the graph and returns the steps that each one needs, also indirectly.
func (r *reader) needs(items []*value, lines map[string]int) map[string][]string {
	names := make([]string, 0, len(lines))
	for name := range lines {
		names = append(names, name)
	}
	slices.Sort(names)
	direct := map[string][]string{}
	for _, item := range items {
		name := item.get("name").text
		for _, n := range item.get("needs").items {
			switch _, exists := lines[n.text]; {
			case n.text == name:
				r.fail(n.node, "remove it", "step %s needs itself", name)
			case !exists:
				r.fail(n.node, suggest(n.text, slices.DeleteFunc(slices.Clone(names), func(o string) bool { return o == name })), "step %s needs %s, which there is not", name, n.text)
			default:
				direct[name] = append(direct[name], n.text)
			}
		}
	}
	all := map[string][]string{}
	for _, name := range names {
		var reach func(string)
		reach = func(n string) {
			for _, next := range direct[n] {
				if !slices.Contains(all[name], next) {
					all[name] = append(all[name], next)
					reach(next)
				}
			}
		}
		reach(name)
	}
	told := map[string]bool{}
	for _, item := range items {
		name := item.get("name").text
		if !slices.Contains(all[name], name) || told[name] {
			continue
		}
		// Told at the first step of the circle only.
		circle := circleOf(name, direct)
		for _, n := range circle {
			told[n] = true
		}
		r.fail(item.get("needs").node, "remove one of these needs", "the steps need each other in a circle: %s", strings.Join(append(circle, name), " needs "))
	}
	for name, reach := range all { // a step in a circle sees itself as little as any other
		all[name] = slices.DeleteFunc(reach, func(n string) bool { return n == name })
	}
	return all
}

// circleOf returns the shortest way from a step back to itself, without the step at its end.
func circleOf(name string, direct map[string][]string) []string {
	ways := [][]string{{name}}
	seen := map[string]bool{}
	for len(ways) > 0 {
		way := ways[0]
		ways = ways[1:]
		for _, next := range direct[way[len(way)-1]] {
			if next == name {
				return way
			}
			if !seen[next] {
				seen[next] = true
				ways = append(ways, append(slices.Clone(way), next))
			}
		}
	}
	return []string{name}
}

func (r *reader) dataflow(s *Step, v *value, scopes []scope, needed, hidden []string) {
	if v.node == nil {
		return
	}
	d := &s.Dataflow
	*d = Dataflow{Template: v.get("template").text, Classic: v.get("classic").truth, Location: v.get("location").text, Streaming: v.get("streaming").truth}
	at := place{sees: variables, steps: needed, self: s.Name}
	at.hidden = slices.DeleteFunc(slices.Clone(hidden), func(n string) bool { return n == s.Name })
	for _, name := range v.get("parameters").order {
		item := v.get("parameters").get(name)
		at.where = "parameter " + name
		if d.Parameters == nil {
			d.Parameters = map[string]Value{}
		}
		d.Parameters[name] = r.templated(item, scopes, at)
		r.checkParameter(name, item, d.Parameters[name])
	}
	for _, name := range v.get("labels").order {
		item := v.get("labels").get(name)
		at.where = "label " + name
		if d.Labels == nil {
			d.Labels = map[string]Value{}
		}
		d.Labels[name] = r.templated(item, scopes, at)
		switch {
		case strings.HasPrefix(name, "penstock") || strings.HasPrefix(name, "goog-"):
			r.fail(item.key, "choose another name", "label %s: names that begin with penstock or goog- are taken", name)
		case !d.Labels[name].dynamic() && !unescaped(item.text) && !labelValueRule.re.MatchString(item.text):
			r.fail(item.node, labelValueRule.hint, "label %s is %s, not %s", name, quote(item.text), labelValueRule.says)
		}
	}
	r.environment(d, v.get("environment"))
	if s.Retry.Attempts > 1 && d.Streaming && s.Timeout == 0 {
		r.report(r.at(v.get("streaming").node), Warning, "set timeout: it bounds the time until the job runs", "streaming step %s is tried again only when its job fails: one that never comes to run waits for ever", s.Name)
	}
}

func (r *reader) environment(d *Dataflow, v *value) {
	for _, name := range v.order {
		f := v.get(name)
		switch only := environmentNames[name]; {
		case only == flexOnly && d.Classic:
			r.fail(f.key, "remove it", "%s is for flex templates, and this one is classic", name)
		case only == classicOnly && !d.Classic:
			r.fail(f.key, "remove it, or set classic: true", "%s is for classic templates, and this one is not", name)
		}
		if d.Environment == nil {
			d.Environment = map[string]any{}
		}
		switch description := environmentField(name); description.kind {
		case whole:
			d.Environment[name] = f.whole
		case truth:
			d.Environment[name] = f.truth
		case list:
			items := []string{}
			for _, item := range f.items {
				items = append(items, item.text)
				r.checkOption(name, item)
			}
			d.Environment[name] = items
		default:
			d.Environment[name] = f.text
		}
	}
	if num, most := v.get("numWorkers"), v.get("maxWorkers"); num.node != nil && most.node != nil && num.whole > most.whole {
		r.fail(num.node, "", "numWorkers %d is above maxWorkers %d", num.whole, most.whole)
	}
	if a, b := v.get("workerRegion"), v.get("workerZone"); a.node != nil && b.node != nil {
		r.fail(b.node, "write one of them", "Dataflow takes workerRegion or workerZone, not both")
	}
	if f := v.get("flexrsGoal"); f.node != nil && d.Streaming {
		r.fail(f.key, "remove it", "flexrsGoal is for batch jobs, and this one streams")
	}
	if f := v.get("streamingMode"); f.node != nil && !d.Streaming {
		r.fail(f.key, "set streaming: true, or remove it", "streamingMode is for streaming jobs, and this one is not")
	}
}

func environmentField(name string) *field {
	for _, f := range flexEnvironment {
		if f.name == name {
			return f
		}
	}
	return &field{}
}

// locator finds bytes of a scalar's value in the file. YAML's quotes, escapes, folds and indentation lie between the two, so it
// walks both side by side; where they part in a way it does not know, the rest is at the last place that it did.
func (r *reader) locator(n *yaml.Node) func(offset int) Position {
	return func(offset int) Position {
		w := walker{lines: r.lines, line: n.Line - 1, col: n.Column - 1, style: n.Style}
		w.begin()
		last := Position{r.file, n.Line, n.Column}
		for i, c := range n.Value {
			if !w.find(c) {
				return last
			}
			last = Position{r.file, w.line + 1, w.col + 1}
			if i >= offset {
				return last
			}
			w.next(c)
			if i+utf8.RuneLen(c) >= len(n.Value) {
				last.Line, last.Col = w.line+1, w.col+1 // the end of the value
			}
		}
		return last
	}
}

// walker is a place in the lines of a file. line and col count from 0, col in characters.
type walker struct {
	lines     []string
	line, col int
	style     yaml.Style
	runes     []rune // of the line
	at        int    // the line that runes holds, plus one
}

func (w *walker) begin() {
	switch {
	case w.style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0:
		w.line, w.col = w.line+1, 0
	case w.style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0:
		w.col++
	}
}

func (w *walker) row() []rune {
	if w.at != w.line+1 {
		w.runes, w.at = nil, w.line+1
		if w.line < len(w.lines) {
			w.runes = []rune(w.lines[w.line])
		}
	}
	return w.runes
}

// find moves to where the character c of the value stands.
func (w *walker) find(c rune) bool {
	if c == ' ' || c == '\t' || c == '\n' {
		return true
	}
	for w.line < len(w.lines) {
		row := w.row()
		if w.col >= len(row) {
			w.line, w.col = w.line+1, 0
			continue
		}
		switch at := row[w.col]; {
		case at == '\\' && w.style&yaml.DoubleQuotedStyle != 0:
			if w.col+1 == len(row) { // an escaped line end
				w.line, w.col = w.line+1, 0
				continue
			}
			return true
		case at == c:
			return true
		case at == ' ' || at == '\t':
			w.col++
		default:
			return false
		}
	}
	return false
}

// next moves past the character c of the value.
func (w *walker) next(c rune) {
	row := w.row()
	if w.col >= len(row) {
		return // a line end, which find steps over
	}
	at := row[w.col]
	switch {
	case at == '\\' && w.style&yaml.DoubleQuotedStyle != 0 && w.col+1 < len(row):
		w.col += 2 + map[rune]int{'x': 2, 'u': 4, 'U': 8}[row[w.col+1]]
	case at == '\'' && w.style&yaml.SingleQuotedStyle != 0:
		w.col += 2
	case at == c:
		w.col++
	}
}
