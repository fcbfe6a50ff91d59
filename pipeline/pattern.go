package pipeline

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// objectPattern is a compiled object pattern: a doublestar glob with named captures. It becomes a regular expression of Go's
// kind, which takes time linear in the name whatever the name and the pattern hold.
type objectPattern struct {
	re       *regexp.Regexp
	captures []string // in the order of the pattern
	prefix   string   // what every matching name begins with
	named    bool     // no part of a name varies but the captures
}

type patternError struct {
	offset        int // in the pattern, in bytes
	message, hint string
}

const (
	maxPatternLength = 1024 // as long as an object's name can be
	maxCaptures      = 20
)

var captureRE = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_]{0,39}(\*\*)?$`)

// parsePattern compiles an object pattern:
//
//   - any characters but /
//     **           as a whole segment: any number of segments
//     ?            one character but /
//     [a-z] [^a-z] one character of a class, or not of it
//     {a,b}        alternatives, which may hold patterns
//     {name}       one or more characters but /, captured
//     {name**}     one or more characters, / too, captured
//     \x           the character x
func parsePattern(pattern string) (*objectPattern, *patternError) {
	if len(pattern) > maxPatternLength {
		return nil, &patternError{0, fmt.Sprintf("it has more than %d bytes", maxPatternLength), ""}
	}
	if !utf8.ValidString(pattern) {
		return nil, &patternError{0, "it is not valid UTF-8", ""}
	}
	if strings.ContainsAny(pattern, "\r\n") {
		return nil, &patternError{strings.IndexAny(pattern, "\r\n"), "an object's name has no line ends", ""}
	}
	if pattern == "" {
		return nil, &patternError{0, "it is empty", "leave object out to match every object"}
	}
	c := patternCompiler{pattern: pattern, named: true}
	if bad := c.sequence(0); bad != nil {
		return nil, bad
	}
	re, err := regexp.Compile(`^(?s:` + c.out.String() + `)$`)
	if err != nil {
		return nil, &patternError{0, "it is too large", "write a simpler one, and the rest in when"}
	}
	return &objectPattern{re: re, captures: c.captures, prefix: literalPrefix(pattern), named: c.named}, nil
}

// match returns the captures of a name that the pattern matches.
func (p *objectPattern) match(name string) (map[string]string, bool) {
	if p == nil {
		return nil, true
	}
	if len(p.captures) == 0 {
		return nil, p.re.MatchString(name)
	}
	m := p.re.FindStringSubmatch(name)
	if m == nil {
		return nil, false
	}
	captures := make(map[string]string, len(p.captures))
	for i, c := range p.captures {
		captures[c] = m[i+1]
	}
	return captures, true
}

type patternCompiler struct {
	pattern  string
	i        int
	out      strings.Builder
	captures []string
	named    bool
	afterCap bool // the last thing was a capture
}

// sequence compiles up to the end, or in alternatives (depth > 0) up to their next comma or brace.
func (c *patternCompiler) sequence(depth int) *patternError {
	start := c.i
	for c.i < len(c.pattern) {
		ch := c.pattern[c.i]
		wasCapture := c.afterCap
		c.afterCap = false
		switch {
		case depth > 0 && (ch == ',' || ch == '}'):
			return nil
		case ch == '*':
			c.named = false
			if bad := c.stars(start, depth); bad != nil {
				return bad
			}
		case ch == '?':
			c.named = false
			c.out.WriteString(`[^/]`)
			c.i++
		case ch == '[':
			c.named = false
			if bad := c.class(); bad != nil {
				return bad
			}
		case ch == '{':
			if bad := c.braces(depth, wasCapture); bad != nil {
				return bad
			}
		case ch == '\\':
			if c.i+1 == len(c.pattern) {
				return &patternError{c.i, `a \ stands at its end`, `write \\ for the character itself`}
			}
			c.i++
			c.literal()
		default:
			c.literal()
		}
	}
	if depth > 0 {
		return &patternError{start - 1, "a { is not closed", `write \{ for the character itself`}
	}
	return nil
}

func (c *patternCompiler) literal() {
	_, n := utf8.DecodeRuneInString(c.pattern[c.i:])
	c.out.WriteString(regexp.QuoteMeta(c.pattern[c.i : c.i+n]))
	c.i += n
}

// stars compiles * and **. A ** that is a whole segment stands for any number of segments, none too: with the slash before it
// at the end of a pattern, with the one after it elsewhere.
func (c *patternCompiler) stars(start, depth int) *patternError {
	begin := c.i
	for c.i < len(c.pattern) && c.pattern[c.i] == '*' {
		c.i++
	}
	if c.i-begin > 1 && depth > 0 {
		return &patternError{begin, "** stands in alternatives", "write a trigger for each"}
	}
	atStart := begin == start || c.pattern[begin-1] == '/'
	atEnd := c.i == len(c.pattern) || c.pattern[c.i] == '/'
	if c.i-begin != 2 || !atStart || !atEnd {
		if c.i-begin > 1 {
			return &patternError{begin, "** stands beside other characters", "make it a segment of its own: a/**/b; one * matches within a segment"}
		}
		c.out.WriteString(`[^/]*`)
		return nil
	}
	if c.i < len(c.pattern) { // **/
		c.i++
		if rest := c.pattern[c.i:]; rest == "**" || strings.HasPrefix(rest, "**/") {
			return nil // any number of segments twice is any number of segments
		}
		c.out.WriteString(`(?:[^/]*/)*`)
		return nil
	}
	if s := c.out.String(); begin > start && strings.HasSuffix(s, "/") { // /** at the end: the slash was written already
		s = strings.TrimSuffix(c.out.String(), "/")
		c.out.Reset()
		c.out.WriteString(s + `(?:/.*)?`)
		return nil
	}
	c.out.WriteString(`.*`)
	return nil
}

func (c *patternCompiler) class() *patternError {
	begin := c.i
	c.i++
	negated := c.i < len(c.pattern) && (c.pattern[c.i] == '^' || c.pattern[c.i] == '!')
	if negated {
		c.i++
	}
	var set strings.Builder
	next := func() (rune, bool) {
		if c.i < len(c.pattern) && c.pattern[c.i] == '\\' {
			c.i++
		}
		for _, r := range c.pattern[c.i:] {
			c.i += len(string(r))
			return r, true
		}
		return 0, false
	}
	for first := true; ; first = false {
		if c.i >= len(c.pattern) {
			return &patternError{begin, "a [ is not closed", `write \[ for the character itself`}
		}
		if c.pattern[c.i] == ']' {
			if first {
				return &patternError{begin, "a class is empty", `write \[ for the character itself`}
			}
			c.i++
			break
		}
		lo, ok := next()
		hi := lo
		if ok && c.i+1 < len(c.pattern) && c.pattern[c.i] == '-' && c.pattern[c.i+1] != ']' {
			c.i++
			hi, ok = next()
		}
		if !ok {
			continue // the end, told above
		}
		if hi < lo {
			return &patternError{begin, fmt.Sprintf("the range %c-%c is upside down", lo, hi), ""}
		}
		fmt.Fprintf(&set, `\x{%x}-\x{%x}`, lo, hi)
	}
	// The class never matches a slash, whatever is in it.
	if negated {
		c.out.WriteString(`[^/` + set.String() + `]`)
		return nil
	}
	re, err := regexp.Compile(`[` + set.String() + `]`)
	if err != nil {
		return &patternError{begin, "the class cannot be read", ""}
	}
	if re.MatchString("/") {
		return &patternError{begin, "a class holds the character /", "a class matches within a segment"}
	}
	c.out.WriteString(`[` + set.String() + `]`)
	return nil
}

// braces compiles {name}, {name**} or {a,b}. A comma, or a brace within, makes it alternatives.
func (c *patternCompiler) braces(depth int, afterCapture bool) *patternError {
	begin := c.i
	end := strings.IndexAny(c.pattern[begin+1:], `{},\`)
	if end >= 0 && c.pattern[begin+1+end] == '}' {
		name := c.pattern[begin+1 : begin+1+end]
		c.i = begin + 1 + end + 1
		m := captureRE.FindStringSubmatch(name)
		switch {
		case m == nil:
			return &patternError{begin, fmt.Sprintf("{%s} is neither a capture nor alternatives", name), `a capture's name has letters, digits and _; alternatives have a comma; \{ is the character itself`}
		case depth > 0:
			return &patternError{begin, fmt.Sprintf("the capture {%s} stands in alternatives", name), "a capture is always there: move it out"}
		case afterCapture:
			return &patternError{begin, fmt.Sprintf("the capture {%s} follows another", name), "put text between them, to tell where one ends"}
		case slices.Contains(c.captures, strings.TrimSuffix(name, "**")):
			return &patternError{begin, fmt.Sprintf("the capture {%s} comes twice", name), "give each a name of its own"}
		case len(c.captures) == maxCaptures:
			return &patternError{begin, fmt.Sprintf("it has more than %d captures", maxCaptures), ""}
		}
		c.captures = append(c.captures, strings.TrimSuffix(name, "**"))
		c.afterCap = true
		if m[1] != "" {
			c.out.WriteString(`(.+)`)
		} else {
			c.out.WriteString(`([^/]+)`)
		}
		return nil
	}
	if depth >= 5 {
		return &patternError{begin, "alternatives are nested too deep", ""}
	}
	c.named = false
	c.out.WriteString(`(?:`)
	c.i++
	for {
		if bad := c.sequence(depth + 1); bad != nil {
			return bad
		}
		c.i++
		if c.pattern[c.i-1] == '}' {
			c.out.WriteString(`)`)
			return nil
		}
		c.out.WriteString(`|`)
	}
}

// literalPrefix is what every name that the pattern matches begins with.
func literalPrefix(pattern string) string {
	var b strings.Builder
	for i := 0; i < len(pattern); i++ {
		switch pattern[i] {
		case '\\':
			if i++; i < len(pattern) {
				b.WriteByte(pattern[i])
			}
			continue
		case '*':
			if strings.HasPrefix(pattern[i:], "**") { // a/** matches a too
				return strings.TrimSuffix(b.String(), "/")
			}
			return b.String()
		case '?', '[', '{':
			return b.String()
		}
		b.WriteByte(pattern[i])
	}
	return b.String()
}
