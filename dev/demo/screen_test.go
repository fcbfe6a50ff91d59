package demo

import (
	"os"
	"strings"
	"testing"
)

func TestScreen(t *testing.T) {
	tell := func(s *Screen) {
		s.Print("first")
		s.Live("one runs", "two runs")
		s.Print("%s", s.paint(good, "one is over"))
		s.Live("two runs")
		s.Live()
		s.Print("%s all is well", s.mark(true))
	}
	for _, c := range []struct {
		name           string
		inPlace, color bool
		want           string
	}{
		{
			name: "a file has the story alone", color: true,
			want: "first\none is over\nok     all is well\n",
		},
		{
			name: "a terminal's lines are replaced", inPlace: true,
			want: "first\n" +
				"\x1b[?7lone runs\x1b[?7h\n\x1b[?7ltwo runs\x1b[?7h\n" +
				"\x1b[2A\x1b[Jone is over\n\x1b[?7lone runs\x1b[?7h\n\x1b[?7ltwo runs\x1b[?7h\n" +
				"\x1b[2A\x1b[J\x1b[?7ltwo runs\x1b[?7h\n" +
				"\x1b[1A\x1b[J" + "✓ all is well\n",
		},
		{
			name: "colours where they are wanted", inPlace: true, color: true,
			want: "first\n" +
				"\x1b[?7lone runs\x1b[?7h\n\x1b[?7ltwo runs\x1b[?7h\n" +
				"\x1b[2A\x1b[J\x1b[32mone is over\x1b[0m\n\x1b[?7lone runs\x1b[?7h\n\x1b[?7ltwo runs\x1b[?7h\n" +
				"\x1b[2A\x1b[J\x1b[?7ltwo runs\x1b[?7h\n" +
				"\x1b[1A\x1b[J" + "\x1b[32m✓\x1b[0m all is well\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out strings.Builder
			tell(NewScreen(&out, c.inPlace, c.color))
			if out.String() != c.want {
				t.Errorf("wrote\n%q\nwant\n%q", out.String(), c.want)
			}
		})
	}
}

// Were the demo to work its figures out wrongly, it would blame the pipelines.
func TestFiguresAreThoseOnRecord(t *testing.T) {
	years, err := readYears("../../examples/weather")
	if err != nil {
		t.Fatal(err)
	}
	rows, bad := 0, 0
	for _, y := range years {
		rows, bad = rows+y.rows(), bad+y.bad
		if y.year != spoiledYear {
			continue
		}
		want, err := os.ReadFile("../../examples/pipelines/weather/testdata/seattle-2014-summary.csv")
		if err != nil {
			t.Fatal(err)
		}
		if err := same(y.figures, string(want)); err != nil {
			t.Error(err)
		}
	}
	if rows != 1461 || bad != 8 {
		t.Errorf("%d rows and %d spoiled ones, want 1461 and 8", rows, bad)
	}
}

func TestComparisonNamesTheFirstDifference(t *testing.T) {
	for _, c := range []struct{ name, got, want, says string }{
		{name: "equal", got: "a\nb\n", want: "a\nb\n"},
		{name: "another line", got: "a\nx\n", want: "a\nb\n", says: `line 2 is "x", want "b"`},
		{name: "a line is missing", got: "a\n", want: "a\nb\n", says: `line 2 is "", want "b"`},
		{name: "the last end of line is missing", got: "a\nb", want: "a\nb\n", says: "1 lines, want 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			said := ""
			if err := same(c.got, c.want); err != nil {
				said = err.Error()
			}
			if said != c.says {
				t.Errorf("said %q, want %q", said, c.says)
			}
		})
	}
}
