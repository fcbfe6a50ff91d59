// Package lines is tables of text in Cloud Storage as Beam collections: one element a row.
//
// What is written accounts for everything that was read. That is not left to the runner: Prism, Beam's local one, takes a bundle that failed as one without
// output, and may run the steps after it before it stops the job. A step that writes on such a day would publish half a result, so [Read] gives receipts beside the
// rows, and [Account] lets a write happen only when as many rows arrived as were read.
package lines

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/penstock/penstock/examples/pipelines/objects"
)

func init() {
	register.DoFn4x1[context.Context, string, func(string), func(Receipt), error](&matchFn{})
	register.DoFn4x1[context.Context, string, func(Line), func(Receipt), error](&readFn{})
	register.DoFn3x2[string, func(*Receipt) bool, func(*int64) bool, string, error](&accountFn{})
	register.DoFn3x2[context.Context, string, func(*string) bool, string, error](&writeFn{})
	register.Emitter1[string]()
	register.Emitter1[Line]()
	register.Emitter1[Receipt]()
	register.Iter1[string]()
	register.Iter1[int64]()
	register.Iter1[Receipt]()
}

// MaxLength is the longest line that is read, in bytes. A longer one fails the job.
const MaxLength = 1 << 20

// Line is one row of an object, where it stands.
type Line struct {
	// Object is the name that the line was read from.
	Object string
	// Number counts the object's lines from 1.
	Number int64
	// Text is without its line ending; bytes that are not UTF-8 are replaced.
	Text string
}

// Receipt says that an object was found, or that it was read. Receipts are for [Account].
type Receipt struct {
	Found, Read int64
	// Rows is how many rows the object gave when it was read.
	Rows int64
}

// Read reads the rows of every object that pattern matches (see [objects.Match]) as a PCollection<Line>, with a PCollection<Receipt>. Each object must begin with the
// header, which is not a row, and neither are empty lines and lines that begin with #. Nothing that matches, an object that is missing, and one of another
// layout fail the job.
func Read(s beam.Scope, pattern, header string) (rows, receipts beam.PCollection) {
	s = s.Scope("lines.Read")
	names, found := beam.ParDo2(s, &matchFn{}, beam.Create(s, pattern))
	// Reshuffle lets the runner read the objects in parallel: without it the match and the reads are one fused step.
	rows, read := beam.ParDo2(s, &readFn{Header: header}, beam.Reshuffle(s, names))
	return rows, beam.Flatten(s, found, read)
}

// Account passes on names, a PCollection<string>, when the sum of counts, a PCollection<int64>, is the number of rows that the receipts speak of. Otherwise
// it fails the job. counts is taken from what is about to be written.
func Account(s beam.Scope, names, receipts, counts beam.PCollection) beam.PCollection {
	return beam.ParDo(s.Scope("lines.Account"), &accountFn{}, names, beam.SideInput{Input: receipts}, beam.SideInput{Input: counts})
}

// Write writes a PCollection<string> to one object: the header, then the lines in their order as text, so that the same lines always give the same
// object. names is a PCollection<string> with the object's name. The result is that name again once the object is there: what must happen after it takes
// the result as input. The object is complete or absent (see [objects.Write]), and there even when there are no lines. All lines are held in memory.
func Write(s beam.Scope, names beam.PCollection, header string, text beam.PCollection) beam.PCollection {
	return beam.ParDo(s.Scope("lines.Write"), &writeFn{Header: header}, names, beam.SideInput{Input: text})
}

type matchFn struct{}

func (*matchFn) ProcessElement(ctx context.Context, pattern string, names func(string), found func(Receipt)) error {
	all, err := objects.Match(ctx, pattern)
	if err != nil {
		return err
	}
	for _, name := range all {
		names(name)
		found(Receipt{Found: 1})
	}
	return nil
}

type readFn struct {
	Header string
}

func (f *readFn) ProcessElement(ctx context.Context, name string, emit func(Line), read func(Receipt)) error {
	r, err := objects.Open(ctx, name)
	if err != nil {
		return err
	}
	defer r.Close()
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, MaxLength)
	var number, rows int64
	for scanner.Scan() {
		number++
		text := strings.ToValidUTF8(scanner.Text(), "\uFFFD")
		switch {
		case number == 1:
			// A file of another layout is one mistake, not as many as it has rows. Spreadsheets begin a file with a byte order mark.
			if text := strings.TrimPrefix(text, "\uFEFF"); text != f.Header {
				return fmt.Errorf("%s begins with %.200q; want the header %q", name, text, f.Header)
			}
		case text == "", text[0] == '#':
		default:
			rows++
			emit(Line{Object: name, Number: number, Text: text})
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read %s after line %d: %w", name, number, err)
	}
	if number == 0 {
		return fmt.Errorf("%s is empty; want at least the header %q", name, f.Header)
	}
	read(Receipt{Read: 1, Rows: rows})
	return nil
}

type accountFn struct{}

func (*accountFn) ProcessElement(name string, receipts func(*Receipt) bool, counts func(*int64) bool) (string, error) {
	var all Receipt
	for r := (Receipt{}); receipts(&r); {
		all.Found += r.Found
		all.Read += r.Read
		all.Rows += r.Rows
	}
	var arrived int64
	for n := int64(0); counts(&n); {
		arrived += n
	}
	if all.Found == 0 || all.Found != all.Read || all.Rows != arrived {
		return "", fmt.Errorf("%s is not written: %d of %d objects were read, and %d of their %d rows arrived; an earlier step of the job failed, see its first error",
			name, all.Read, all.Found, arrived, all.Rows)
	}
	return name, nil
}

type writeFn struct {
	Header string
}

func (f *writeFn) ProcessElement(ctx context.Context, name string, text func(*string) bool) (string, error) {
	var all []string
	for line := ""; text(&line); {
		all = append(all, line)
	}
	slices.Sort(all)
	return name, objects.Write(ctx, name, func(w io.Writer) error {
		buffered := bufio.NewWriter(w)
		if f.Header != "" {
			fmt.Fprintln(buffered, f.Header)
		}
		for _, line := range all {
			fmt.Fprintln(buffered, line)
		}
		return buffered.Flush()
	})
}
