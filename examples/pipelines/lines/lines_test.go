package lines

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/passert"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/ptest"
)

func init() {
	register.Function1x1(textOf)
	register.Function1x1(one)
}

func textOf(l Line) string { return l.Text }
func one(Line) int64       { return 1 }

func TestMain(m *testing.M) { ptest.Main(m) }

func TestRows(t *testing.T) {
	for _, c := range []struct {
		name string
		text string
		rows []any
	}{
		{name: "header alone", text: "a,b\n"},
		{name: "last line without an ending", text: "a,b\n1,2\n3,4", rows: []any{"1,2", "3,4"}},
		{name: "line endings of Windows", text: "a,b\r\n1,2\r\n", rows: []any{"1,2"}},
		{name: "comments and empty lines are not rows", text: "a,b\n# a note\n\n1,2\n", rows: []any{"1,2"}},
		{name: "a byte order mark before the header", text: "\uFEFFa,b\n1,2\n", rows: []any{"1,2"}},
		{name: "bytes that are not UTF-8", text: "a,b\n\xff\xfe,2\n", rows: []any{"\uFFFD,2"}},
		{name: "the header again is a row", text: "a,b\na,b\n", rows: []any{"a,b"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "in.csv")
			if err := os.WriteFile(name, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			ptest.BuildAndRun(t, func(s beam.Scope) {
				rows, receipts := Read(s, name, "a,b")
				text := beam.ParDo(s, textOf, rows)
				passert.EqualsList(s, Account(s, beam.Create(s, "out"), receipts, beam.ParDo(s, one, rows)), []string{"out"})
				if len(c.rows) == 0 {
					passert.Empty(s, text)
					return
				}
				passert.Equals(s, text, c.rows...)
			})
		})
	}
}

func TestAccount(t *testing.T) {
	for _, c := range []struct {
		name     string
		receipts []Receipt
		counts   []int64
		refused  string
	}{
		{name: "all arrived", receipts: []Receipt{{Found: 1}, {Found: 1}, {Read: 1, Rows: 3}, {Read: 1, Rows: 4}}, counts: []int64{5, 2}},
		{name: "an object without rows", receipts: []Receipt{{Found: 1}, {Read: 1}}, counts: []int64{0}},
		{name: "nothing was found", receipts: []Receipt{{}}, counts: []int64{0}, refused: "0 of 0 objects were read"},
		{name: "an object was not read", receipts: []Receipt{{Found: 1}, {Found: 1}, {Read: 1, Rows: 3}}, counts: []int64{3}, refused: "1 of 2 objects were read, and 3 of their 3 rows arrived"},
		{name: "rows were lost on the way", receipts: []Receipt{{Found: 1}, {Read: 1, Rows: 3}}, counts: []int64{2}, refused: "1 of 1 objects were read, and 2 of their 3 rows arrived"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, s := beam.NewPipelineWithRoot()
			names := Account(s, beam.Create(s, "out"), beam.CreateList(s, c.receipts), beam.CreateList(s, c.counts))
			passert.EqualsList(s, names, []string{"out"})
			err := ptest.Run(p)
			if c.refused == "" && err != nil {
				t.Fatalf("refused: %v", err)
			}
			if c.refused != "" && (err == nil || !strings.Contains(err.Error(), "out is not written: "+c.refused)) {
				t.Fatalf("got %v, want an error that says %q", err, c.refused)
			}
		})
	}
}

func TestWriteGivesTheSameBytesForTheSameLines(t *testing.T) {
	for _, c := range []struct {
		name  string
		lines []string
		want  string
	}{
		{name: "no lines", lines: nil, want: "a,b\n"},
		{name: "in order of text", lines: []string{"2,b", "10,a", "1,c"}, want: "a,b\n1,c\n10,a\n2,b\n"},
		{name: "repeated lines stay", lines: []string{"x", "x"}, want: "a,b\nx\nx\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "folder", "out.csv")
			ptest.BuildAndRun(t, func(s beam.Scope) {
				Write(s, beam.Create(s, name), "a,b", beam.CreateList(s, c.lines))
			})
			got, err := os.ReadFile(name)
			if err != nil || string(got) != c.want {
				t.Errorf("wrote %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
