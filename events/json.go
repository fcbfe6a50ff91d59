package events

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const (
	// maxDepth bounds the nesting of objects and arrays in anything that is decoded.
	maxDepth = 64

	// maxMembers bounds one object: to tell members given twice costs memory, 500 MB for the most that 16 MiB can hold.
	maxMembers = 1 << 16
)

// checkJSON refuses what JSON readers take in different ways: invalid UTF-8 and lone surrogates (which encoding/json
// replaces, so that two names become one), members given twice (of which the first or the last wins), and deep nesting.
// RFC 7493 (I-JSON) forbids the same.
func checkJSON(field string, data []byte) error {
	if !utf8.Valid(data) {
		return malformed(field, "the JSON is not UTF-8")
	}
	if !json.Valid(data) {
		var v json.RawMessage
		err := json.Unmarshal(data, &v)
		if err == nil {
			err = fmt.Errorf("invalid JSON")
		}
		return malformed(field, "not JSON: %s", quote(err.Error()))
	}
	w := walker{data: data}
	if err := w.value(0); err != nil {
		return err.in(field)
	}
	return nil
}

// walker walks over JSON that is known to be valid.
type walker struct {
	data []byte
	pos  int
}

func (w *walker) space() {
	for w.pos < len(w.data) {
		switch w.data[w.pos] {
		case ' ', '\t', '\r', '\n':
			w.pos++
		default:
			return
		}
	}
}

func (w *walker) value(depth int) *Error {
	w.space()
	switch w.data[w.pos] {
	case '"':
		_, err := w.str()
		return err
	case '{':
		return w.object(depth + 1)
	case '[':
		return w.array(depth + 1)
	default: // a number, true, false or null
		for w.pos < len(w.data) && strings.IndexByte(" \t\r\n,]}", w.data[w.pos]) < 0 {
			w.pos++
		}
		return nil
	}
}

func (w *walker) object(depth int) *Error {
	if depth > maxDepth {
		return malformed("", "the JSON is nested more than %d deep", maxDepth)
	}
	var few [32][]byte // most objects are small: no map for them
	names := few[:0]
	var many map[string]struct{}
	w.pos++
	for count := 1; ; count++ {
		raw, err := w.member()
		if raw == nil || err != nil {
			return err
		}
		if count > maxMembers {
			return malformed("", "an object has more than %d members", maxMembers)
		}
		name := memberName(raw)
		var again bool
		switch {
		case many != nil:
			_, again = many[string(name)]
			many[string(name)] = struct{}{}
		case len(names) < cap(few[:]):
			again = slices.ContainsFunc(names, func(n []byte) bool { return bytes.Equal(n, name) })
			names = append(names, name)
		default:
			many = make(map[string]struct{}, 4*len(names))
			for _, n := range names {
				many[string(n)] = struct{}{}
			}
			_, again = many[string(name)]
			many[string(name)] = struct{}{}
		}
		if again {
			return malformed(clip(string(name)), "the member is there more than once")
		}
		if err := w.value(depth); err != nil {
			return err.in(clip(string(name)))
		}
	}
}

// member walks to the value of an object's next member and returns its name with quotes; nil at the object's end.
func (w *walker) member() ([]byte, *Error) {
	w.space()
	if w.data[w.pos] == ',' {
		w.pos++
		w.space()
	}
	if w.data[w.pos] == '}' {
		w.pos++
		return nil, nil
	}
	raw, err := w.str()
	if err != nil {
		return nil, err
	}
	w.space()
	w.pos++ // the colon
	w.space()
	return raw, nil
}

func (w *walker) array(depth int) *Error {
	if depth > maxDepth {
		return malformed("", "the JSON is nested more than %d deep", maxDepth)
	}
	w.pos++
	for {
		w.space()
		switch w.data[w.pos] {
		case ']':
			w.pos++
			return nil
		case ',':
			w.pos++
			continue
		}
		if err := w.value(depth); err != nil {
			return err
		}
	}
}

// str walks over a string and returns it with its quotes.
func (w *walker) str() ([]byte, *Error) {
	start := w.pos
	for w.pos++; w.data[w.pos] != '"'; w.pos++ {
		if w.data[w.pos] != '\\' {
			continue
		}
		if w.pos++; w.data[w.pos] != 'u' {
			continue
		}
		unit := hexUnit(w.data[w.pos+1:])
		w.pos += 4
		switch {
		case unit&0xfc00 == 0xdc00:
			return nil, malformed("", "a string holds half a surrogate pair, which is no character")
		case unit&0xfc00 == 0xd800:
			next := w.data[w.pos+1:]
			if len(next) < 6 || next[0] != '\\' || next[1] != 'u' || hexUnit(next[2:])&0xfc00 != 0xdc00 {
				return nil, malformed("", "a string holds half a surrogate pair, which is no character")
			}
			w.pos += 6
		}
	}
	w.pos++
	return w.data[start:w.pos], nil
}

func hexUnit(b []byte) int {
	return unhex(b[0])<<12 | unhex(b[1])<<8 | unhex(b[2])<<4 | unhex(b[3])
}

func memberName(raw []byte) []byte {
	if bytes.IndexByte(raw, '\\') < 0 {
		return raw[1 : len(raw)-1]
	}
	var name string
	if err := json.Unmarshal(raw, &name); err != nil {
		return raw
	}
	return []byte(name)
}

func join(path, name string) string {
	switch {
	case path == "":
		return name
	case name == "":
		return path
	}
	return path + "." + name
}

// object reads the fields of a JSON object by the rules of protocol buffers' JSON form: names in camelCase or snake_case,
// 64-bit integers as numbers or strings, enums as names or numbers, null for what is not there, unknown fields ignored.
// A field that is there under both names must have one value. Names are exact: encoding/json would fold their case.
// The first error sticks; reads after it return zeros.
type object struct {
	path    string
	members []member
	err     error
}

type member struct{ name, value []byte }

// readObject checks data and reads it as an object.
func readObject(path string, data []byte) (*object, error) {
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, malformed(path, "the %s is empty; it must be a JSON object", where(path))
	}
	if err := checkJSON(path, data); err != nil {
		return nil, err
	}
	return newObject(path, data)
}

// newObject reads data that has been checked.
func newObject(path string, data []byte) (*object, error) {
	if data = bytes.TrimSpace(data); data[0] != '{' {
		return nil, malformed(path, "the %s is %s; it must be a JSON object", where(path), kindOfJSON(data))
	}
	o := &object{path: path, members: make([]member, 0, 24)}
	w := walker{data: data}
	for w.pos++; ; {
		raw, err := w.member()
		if err != nil {
			return nil, err
		}
		if raw == nil {
			return o, nil
		}
		start := w.pos
		if err := w.value(0); err != nil {
			return nil, err
		}
		o.members = append(o.members, member{memberName(raw), data[start:w.pos]})
	}
}

func where(path string) string {
	if path == "" {
		return "body"
	}
	return "field"
}

func (o *object) field(name string) string { return join(o.path, name) }

func (o *object) has(name string) bool { return o.raw(name) != nil }

func (o *object) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// raw returns the member of that camelCase name, or of the same name in snake_case; nil when absent or null.
func (o *object) raw(name string) []byte {
	var camel, snake []byte
	for _, m := range o.members {
		switch {
		case isNull(m.value):
		case string(m.name) == name:
			camel = m.value
		case isSnakeCase(m.name, name):
			snake = m.value
		}
	}
	if camel == nil {
		return snake
	}
	if snake != nil && !sameValue(camel, snake) {
		o.fail(malformed(o.field(name), "the field is %s, and %s in snake_case; they must agree", quote(string(camel)), quote(string(snake))))
	}
	return camel
}

// sameValue compares two members: scalars as what they say, so that 5 is "5", others by their text.
func sameValue(a, b []byte) bool {
	return bytes.Equal(a, b) || scalar(a) != "" && scalar(a) == scalar(b)
}

func scalar(raw []byte) string {
	switch raw[0] {
	case '"':
		s := ""
		_ = json.Unmarshal(raw, &s) // checked before
		return s
	case '{', '[':
		return ""
	}
	return string(raw)
}

// isSnakeCase reports whether snake is the snake_case form of a camelCase name: content_type of contentType.
func isSnakeCase(snake []byte, camel string) bool {
	if len(snake) <= len(camel) {
		return false
	}
	i := 0
	for j := range len(camel) {
		c := camel[j]
		if 'A' <= c && c <= 'Z' {
			if i >= len(snake) || snake[i] != '_' {
				return false
			}
			i++
			c += 'a' - 'A'
		}
		if i >= len(snake) || snake[i] != c {
			return false
		}
		i++
	}
	return i == len(snake)
}

func (o *object) str(name string) string {
	raw := o.raw(name)
	if raw == nil {
		return ""
	}
	s, err := jsonString(raw)
	if err != nil {
		o.fail(err.in(o.field(name)))
	}
	return s
}

// required is str for a field that must be there and not empty.
func (o *object) required(name string) string {
	s := o.str(name)
	if s == "" {
		o.fail(malformed(o.field(name), "the field is missing or empty"))
	}
	return s
}

func (o *object) boolean(name string) bool {
	raw := o.raw(name)
	switch string(raw) {
	case "true":
		return true
	case "", "false":
		return false
	}
	o.fail(malformed(o.field(name), "the field is %s, not a boolean", kindOfJSON(raw)))
	return false
}

func (o *object) integer(name string) int64 {
	raw := o.raw(name)
	if raw == nil {
		return 0
	}
	n, err := parseInt(raw)
	if err != nil {
		o.fail(malformed(o.field(name), "%s is not a 64-bit integer", quote(string(raw))))
	}
	return n
}

func (o *object) timestamp(name string) time.Time {
	t, err := parseTime(o.str(name))
	if err != nil {
		o.fail(err.in(o.field(name)))
	}
	return t
}

// enum returns the name of an enum's value, from a name or a number. names are those of the numbers from 0; what is past
// them stays a number.
func (o *object) enum(name string, names []string) string {
	raw := o.raw(name)
	if raw == nil || raw[0] == '"' {
		return o.str(name)
	}
	n, err := parseInt(raw)
	if err != nil {
		o.fail(malformed(o.field(name), "the field is %s, neither an enum's name nor its number", kindOfJSON(raw)))
		return ""
	}
	if 0 <= n && n < int64(len(names)) {
		return names[n]
	}
	return strconv.FormatInt(n, 10)
}

// stringMap returns nil for an empty map: the two cannot be told apart after a round trip.
func (o *object) stringMap(name string) map[string]string {
	sub := o.object(name)
	if sub == nil || len(sub.members) == 0 {
		return nil
	}
	m := make(map[string]string, len(sub.members))
	for _, member := range sub.members {
		k := string(member.name)
		s, err := jsonString(member.value)
		if err != nil {
			o.fail(err.in(join(sub.path, clip(k))))
			return nil
		}
		m[k] = s
	}
	return m
}

// base64 returns nil for an empty value. Standard and URL alphabets are taken, with and without padding.
func (o *object) base64(name string) []byte {
	s := o.str(name)
	if s == "" {
		return nil
	}
	enc := base64.RawStdEncoding
	if strings.ContainsAny(s, "-_") {
		enc = base64.RawURLEncoding
	}
	b, err := enc.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		o.fail(malformed(o.field(name), "the field is not base64: %s", quote(err.Error())))
		return nil
	}
	return b
}

// object returns the object in a field, nil when it is absent.
func (o *object) object(name string) *object {
	raw := o.raw(name)
	if raw == nil {
		return nil
	}
	sub, err := newObject(o.field(name), raw)
	if err != nil {
		o.fail(err)
		return nil
	}
	return sub
}

func jsonString(raw []byte) (string, *Error) {
	if len(raw) == 0 || raw[0] != '"' {
		return "", malformed("", "the value is %s, not a string", kindOfJSON(raw))
	}
	if bytes.IndexByte(raw, '\\') < 0 {
		return string(raw[1 : len(raw)-1]), nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return "", malformed("", "not a JSON string: %s", quote(err.Error()))
	}
	return s, nil
}

// parseInt reads a whole number of 64 bits, quoted or not, exactly: no float comes between.
func parseInt(raw []byte) (int64, error) {
	if len(raw) >= 2 && raw[0] == '"' {
		raw = raw[1 : len(raw)-1]
	}
	return strconv.ParseInt(string(raw), 10, 64)
}

func isNull(raw []byte) bool { return len(raw) == 0 || string(raw) == "null" }

func kindOfJSON(raw []byte) string {
	if len(raw) == 0 {
		return "missing"
	}
	switch raw[0] {
	case '"':
		return "a string"
	case '{':
		return "an object"
	case '[':
		return "an array"
	case 't', 'f':
		return "a boolean"
	case 'n':
		return "null"
	}
	return "a number"
}
