package pipeline

import "github.com/penstock/penstock/events"

// MatchPattern matches a name against a pattern without captures; ok is false for another pattern or a bad one.
func MatchPattern(pattern, name string) (matches, ok bool) {
	p, bad := parsePattern(pattern)
	if bad != nil || len(p.captures) > 0 {
		return false, false
	}
	_, matches = p.match(name)
	return matches, true
}

// Candidates counts the triggers that matching looks at.
func Candidates(s *Set, e *events.Event) int { return len(s.candidates(e)) }
