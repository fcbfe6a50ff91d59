package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// printer writes what commands answer, as a table, plainly or as JSON.
//
// Whatever it writes may hold names that strangers chose: what a terminal would take as a command is escaped.
type printer struct {
	w      io.Writer
	json   bool
	width  int // of the terminal; 0: nothing is cut
	colour bool
}

func newPrinter(std IO, output string) (*printer, error) {
	p := &printer{w: std.Out}
	switch output {
	case "json":
		p.json = true
	case "plain":
	case "", "table":
		p.width = std.Width
		p.colour = std.Width > 0 && std.Getenv("NO_COLOR") == "" && std.Getenv("TERM") != "dumb" // https://no-color.org
	default:
		return nil, fmt.Errorf("output %q is none of table, plain and json", output)
	}
	return p, nil
}

// clean makes a name safe to show on one line: control characters, invisible ones and bytes that are no UTF-8 are escaped as
// in a Go string.
func clean(s string) string {
	if strings.IndexFunc(s, unsafe) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unsafe(r):
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

func unsafe(r rune) bool { return !unicode.IsPrint(r) }

// lines is clean for a text of several lines.
func lines(s string) string {
	parts := strings.Split(s, "\n")
	for i := range parts {
		parts[i] = clean(strings.ReplaceAll(strings.TrimSuffix(parts[i], "\r"), "\t", "    "))
	}
	return strings.Join(parts, "\n")
}

// document writes v as one JSON document.
func (p *printer) document(v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode the answer as JSON: %w", err)
	}
	return p.write(escapeJSON(b.Bytes()))
}

// escapeJSON escapes what a terminal would not show as it is and encoding/json leaves alone. It occurs in strings only.
func escapeJSON(doc []byte) []byte {
	if bytes.IndexFunc(doc, func(r rune) bool { return r != '\n' && unsafe(r) }) < 0 {
		return doc
	}
	var b bytes.Buffer
	for _, r := range string(doc) {
		switch {
		case r == '\n' || !unsafe(r):
			b.WriteRune(r)
		case r > 0xFFFF:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xD800+(r>>10), 0xDC00+(r&0x3FF))
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.Bytes()
}

func (p *printer) write(b []byte) error {
	if _, err := p.w.Write(b); err != nil {
		return fmt.Errorf("write the answer: %w", err)
	}
	return nil
}

// printf writes text that is ours; names in it go through clean.
func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.w, format, args...) }

// Colours of words that tell good from bad.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	dim    = "2"
	bold   = "1"
)

func (p *printer) paint(colour, s string) string {
	if !p.colour || colour == "" || s == "" {
		return s
	}
	return "\x1b[" + colour + "m" + s + "\x1b[0m"
}

// column is a column of a table.
type column struct {
	title string
	// shrink says that the column may be cut where the terminal is too narrow.
	shrink bool
	paint  func(cell string) string // its colour
}

const gap = "  "

// table writes rows under their titles, as wide as they are or as the terminal lets them be.
func (p *printer) table(columns []column, rows [][]string) {
	widths := make([]int, len(columns))
	for i, c := range columns {
		widths[i] = utf8.RuneCountInString(c.title)
	}
	for _, row := range rows {
		for i := range row {
			row[i] = clean(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	if p.width > 0 {
		fit(widths, columns, p.width)
	}
	line := func(cells []string, paint func(i int, cell string) string) {
		var b strings.Builder
		for i, cell := range cells {
			cell = cut(cell, widths[i])
			pad := widths[i] - utf8.RuneCountInString(cell)
			b.WriteString(paint(i, cell))
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", pad) + gap)
			}
		}
		fmt.Fprintln(p.w, strings.TrimRight(b.String(), " "))
	}
	titles := make([]string, len(columns))
	for i, c := range columns {
		titles[i] = c.title
	}
	line(titles, func(_ int, cell string) string { return p.paint(dim, cell) })
	for _, row := range rows {
		line(row, func(i int, cell string) string {
			if columns[i].paint == nil {
				return cell
			}
			return p.paint(columns[i].paint(row[i]), cell)
		})
	}
}

// fit takes from the widest column that may shrink until the table fits, or none can give more.
func fit(widths []int, columns []column, total int) {
	const least = 10
	for {
		sum, widest := len(gap)*(len(widths)-1), -1
		for i, w := range widths {
			sum += w
			if columns[i].shrink && w > least && (widest < 0 || w > widths[widest]) {
				widest = i
			}
		}
		if sum <= total || widest < 0 {
			return
		}
		widths[widest]--
	}
}

// cut shortens s to n characters. Of a name both ends tell something: the middle goes.
func cut(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	head := (n - 1) / 2
	return string(r[:head]) + "…" + string(r[len(r)-(n-1-head):])
}
