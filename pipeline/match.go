package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/penstock/penstock/events"
)

// Set is the pipelines of a folder, indexed by the events that they want. It does not change, and is safe for concurrent use.
type Set struct {
	pipelines []*Pipeline // by name
	byName    map[string]*Pipeline
	storage   map[bucketChange]*prefixes
	topics    map[string][]trigger // by full name, or by ID
	types     map[string]map[string][]trigger
}

type bucketChange struct {
	bucket string
	change events.Change
}

// trigger points at one trigger of one pipeline of the set.
type trigger struct{ pipeline, on int }

// prefixes finds the triggers whose object pattern can match a name: those whose literal prefix the name begins with. It takes
// one look into a map for each length that a prefix has, however many patterns there are.
type prefixes struct {
	lengths []int
	byText  map[string][]trigger
}

// NewSet indexes pipelines that Parse returned. Of several with one name, the first counts.
func NewSet(pipelines []*Pipeline) *Set {
	s := &Set{byName: map[string]*Pipeline{}, storage: map[bucketChange]*prefixes{}, topics: map[string][]trigger{}, types: map[string]map[string][]trigger{}}
	for _, p := range pipelines {
		if s.byName[p.Name] == nil {
			s.byName[p.Name] = p
			s.pipelines = append(s.pipelines, p)
		}
	}
	slices.SortFunc(s.pipelines, func(a, b *Pipeline) int { return cmp.Compare(a.Name, b.Name) })
	for i, p := range s.pipelines {
		for j := range p.On {
			s.index(&p.On[j], trigger{i, j})
		}
	}
	for _, p := range s.storage {
		slices.Sort(p.lengths)
		p.lengths = slices.Compact(p.lengths)
	}
	return s
}

func (s *Set) index(t *Trigger, at trigger) {
	switch {
	case t.Storage != nil:
		prefix := ""
		if t.Storage.pattern != nil {
			prefix = t.Storage.pattern.prefix
		}
		for _, k := range t.Storage.Kinds {
			of := bucketChange{t.Storage.Bucket, events.Change(k)}
			if s.storage[of] == nil {
				s.storage[of] = &prefixes{byText: map[string][]trigger{}}
			}
			s.storage[of].lengths = append(s.storage[of].lengths, len(prefix))
			s.storage[of].byText[prefix] = append(s.storage[of].byText[prefix], at)
		}
	case t.PubSub != nil:
		s.topics[t.PubSub.Topic] = append(s.topics[t.PubSub.Topic], at)
	case t.Event != nil:
		if s.types[t.Event.Type] == nil {
			s.types[t.Event.Type] = map[string][]trigger{}
		}
		s.types[t.Event.Type][t.Event.Source] = append(s.types[t.Event.Type][t.Event.Source], at)
	}
}

// Pipelines returns the pipelines of the set in the order of their names. The caller must not change the slice.
func (s *Set) Pipelines() []*Pipeline { return s.pipelines }

// Pipeline returns the pipeline of that name, or nil.
func (s *Set) Pipeline(name string) *Pipeline { return s.byName[name] }

// Match returns the pipelines that the event is for, in the order of their names. Their `when` is not evaluated yet.
func (s *Set) Match(e *events.Event) []Match {
	candidates := s.candidates(e)
	if len(candidates) == 0 {
		return nil
	}
	slices.SortFunc(candidates, func(a, b trigger) int { return cmp.Or(cmp.Compare(a.pipeline, b.pipeline), cmp.Compare(a.on, b.on)) })
	var matches []Match
	for _, c := range candidates {
		p := s.pipelines[c.pipeline]
		captures, ok := p.On[c.on].wants(e)
		if !ok {
			continue
		}
		if n := len(matches); n > 0 && matches[n-1].Pipeline == p {
			matches[n-1].others = append(matches[n-1].others, alternative{&p.On[c.on], captures})
			continue
		}
		matches = append(matches, Match{Pipeline: p, Trigger: &p.On[c.on], Captures: captures, Event: e})
	}
	return matches
}

func (s *Set) candidates(e *events.Event) []trigger {
	var found []trigger
	switch e.Kind {
	case events.KindStorage:
		if p := s.storage[bucketChange{e.Storage.Bucket, e.Storage.Change}]; p != nil {
			for _, n := range p.lengths {
				if n > len(e.Storage.Name) {
					break
				}
				found = append(found, p.byText[e.Storage.Name[:n]]...)
			}
		}
	case events.KindPubSub:
		found = append(found, s.topics[e.PubSub.Topic]...)
		if id := topicID(e.PubSub.Topic); id != e.PubSub.Topic {
			found = append(found, s.topics[id]...)
		}
	default:
		if bySource := s.types[e.Type]; bySource != nil {
			found = append(found, bySource[""]...)
			if e.Source != "" {
				found = append(found, bySource[e.Source]...)
			}
		}
	}
	return found
}

func topicID(topic string) string { return topic[strings.LastIndexByte(topic, '/')+1:] }

// wants says whether the trigger is for the event, `when` left aside, and what its object pattern captures.
func (t *Trigger) wants(e *events.Event) (captures map[string]string, ok bool) {
	switch {
	case t.Storage != nil && e.Kind == events.KindStorage:
		if t.Storage.Bucket != e.Storage.Bucket || !slices.Contains(t.Storage.Kinds, string(e.Storage.Change)) {
			return nil, false
		}
		return t.Storage.pattern.match(e.Storage.Name)
	case t.PubSub != nil && e.Kind == events.KindPubSub:
		return nil, t.PubSub.Topic == e.PubSub.Topic || t.PubSub.Topic == topicID(e.PubSub.Topic)
	case t.Event != nil && e.Kind != events.KindStorage && e.Kind != events.KindPubSub:
		return nil, t.Event.Type == e.Type && (t.Event.Source == "" || t.Event.Source == e.Source)
	}
	return nil, false
}

// Mismatch says why the trigger is not for the event, `when` left aside; it is empty if the trigger is for it.
func (t *Trigger) Mismatch(e *events.Event) string {
	if _, ok := t.wants(e); ok {
		return ""
	}
	switch {
	case t.Storage != nil && e.Kind == events.KindStorage:
		switch {
		case t.Storage.Bucket != e.Storage.Bucket:
			return fmt.Sprintf("the bucket is %s, and the trigger wants %s", e.Storage.Bucket, t.Storage.Bucket)
		case !slices.Contains(t.Storage.Kinds, string(e.Storage.Change)):
			return fmt.Sprintf("the object was %s, and the trigger wants %s", e.Storage.Change, strings.Join(t.Storage.Kinds, ", "))
		}
		return fmt.Sprintf("the object's name %s does not match %s", quote(e.Storage.Name), t.Storage.Object)
	case t.PubSub != nil && e.Kind == events.KindPubSub:
		return fmt.Sprintf("the topic is %s, and the trigger wants %s", e.PubSub.Topic, t.PubSub.Topic)
	case t.Event != nil && e.Kind != events.KindStorage && e.Kind != events.KindPubSub:
		if t.Event.Type != e.Type {
			return fmt.Sprintf("the type is %s, and the trigger wants %s", quote(e.Type), t.Event.Type)
		}
		return fmt.Sprintf("the source is %s, and the trigger wants %s", quote(e.Source), t.Event.Source)
	}
	return fmt.Sprintf("it is a %s event, and the trigger wants another kind", e.Kind)
}

// Match is an event that a pipeline wants.
type Match struct {
	Pipeline *Pipeline
	Trigger  *Trigger          // the first of the pipeline's that wants it
	Captures map[string]string // of that trigger's object pattern; nil without captures
	Event    *events.Event

	others []alternative // further triggers of the pipeline that want it
}

type alternative struct {
	trigger  *Trigger
	captures map[string]string
}
