// Package lines is text in Cloud Storage as Beam collections: one element a line.
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
	register.DoFn3x1[context.Context, string, func(string), error](&matchFn{})
	register.DoFn3x1[context.Context, string, func(Line), error](&readFn{})
	register.DoFn3x2[context.Context, string, func(*string) bool, string, error](&writeFn{})
	register.Emitter1[string]()
	register.Emitter1[Line]()
	register.Iter1[string]()
}

// MaxLength is the longest line that is read, in bytes. A longer one fails the job.
const MaxLength = 1 << 20

// Line is one line of an object.
type Line struct {
	// Object is the name that the line was read from.
	Object string
	// Number counts from 1.
	Number int64
	// Text is without its line ending; bytes that are not UTF-8 are replaced.
	Text string
}

// Read reads the lines of every object that pattern matches (see [objects.Match]) as a PCollection<Line>. Nothing that matches, and an object that
// is missing, fail the job.
func Read(s beam.Scope, pattern string) beam.PCollection {
	s = s.Scope("lines.Read")
	// Reshuffle lets the runner read the objects in parallel: without it the match and the reads are one fused step.
	matched := beam.Reshuffle(s, beam.ParDo(s, &matchFn{}, beam.Create(s, pattern)))
	return beam.ParDo(s, &readFn{}, matched)
}

// Write writes a PCollection<string> to one object: the header, then the lines in their order as text, so that the same lines always give the same
// object. names is a PCollection<string> with the object's name. The result is that name again once the object is there: what must happen after it takes
// the result as input. The object is complete or absent (see [objects.Write]), and there even when there are no lines. All lines are held in memory.
func Write(s beam.Scope, names beam.PCollection, header string, text beam.PCollection) beam.PCollection {
	return beam.ParDo(s.Scope("lines.Write"), &writeFn{Header: header}, names, beam.SideInput{Input: text})
}

type matchFn struct{}

func (*matchFn) ProcessElement(ctx context.Context, pattern string, emit func(string)) error {
	names, err := objects.Match(ctx, pattern)
	if err != nil {
		return err
	}
	for _, name := range names {
		emit(name)
	}
	return nil
}

type readFn struct{}

func (*readFn) ProcessElement(ctx context.Context, name string, emit func(Line)) error {
	r, err := objects.Open(ctx, name)
	if err != nil {
		return err
	}
	defer r.Close()
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, MaxLength)
	var number int64
	for scanner.Scan() {
		number++
		emit(Line{Object: name, Number: number, Text: strings.ToValidUTF8(scanner.Text(), "\uFFFD")})
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read %s after line %d: %w", name, number, err)
	}
	return nil
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
