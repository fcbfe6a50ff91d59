package weather

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/io/filesystem/local"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/passert"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/testing/ptest"

	"github.com/penstock/penstock/examples/pipelines/lines"
)

func TestMain(m *testing.M) { ptest.Main(m) }

func TestValidate(t *testing.T) {
	const object = "gs://landing/daily/oslo-2012.csv"
	for _, c := range []struct {
		name string
		rows string
		good []string
		bad  []string
	}{
		{
			name: "bad rows are diverted with place and reason",
			rows: "2012-01-01,0.0,1.0,0.0,1.0,sun\n2012-01-02,0.0,1.0,2.0,1.0,sun\nno, commas",
			good: []string{"oslo,2012-01-01,0.0,1.0,0.0,1.0,sun"},
			bad: []string{
				object + `,3,temp_min 2.0 is above temp_max 1.0,"2012-01-02,0.0,1.0,2.0,1.0,sun"`,
				object + `,4,"2 columns, want 6","no, commas"`,
			},
		},
		{
			name: "of several rows for a day the first stays",
			rows: "2012-01-01,0.0,1.0,0.0,1.0,sun\n2012-01-02,0.0,1.0,0.0,1.0,fog\n2012-01-01,5.0,1.0,0.0,1.0,rain",
			good: []string{"oslo,2012-01-01,0.0,1.0,0.0,1.0,sun", "oslo,2012-01-02,0.0,1.0,0.0,1.0,fog"},
			bad:  []string{object + `,4,date 2012-01-01 is taken by line 2 of ` + object + `,"2012-01-01,5.0,1.0,0.0,1.0,rain"`},
		},
		{
			name: "a bad row does not take its day",
			rows: "2012-01-01,none,1.0,0.0,1.0,sun\n2012-01-01,5.0,1.0,0.0,1.0,rain",
			good: []string{"oslo,2012-01-01,5.0,1.0,0.0,1.0,rain"},
			bad:  []string{object + `,2,"precipitation ""none"" is not a number with one decimal","2012-01-01,none,1.0,0.0,1.0,sun"`},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var raw []any
			for i, text := range strings.Split(c.rows, "\n") {
				raw = append(raw, lines.Line{Object: object, Number: int64(i + 2), Text: text})
			}
			result := ptest.BuildAndRun(t, func(s beam.Scope) {
				good, bad := Validate(s, "oslo", beam.Create(s, raw...))
				equal(s, beam.ParDo(s, observationCSV, good), c.good)
				equal(s, beam.ParDo(s, rejectCSV, bad), c.bad)
			})
			for name, want := range map[string]int{"rows_read": len(c.good) + len(c.bad), "rows_good": len(c.good), "rows_bad": len(c.bad)} {
				if got := counter(result, name); got != int64(want) {
					t.Errorf("counter %s is %d, want %d", name, got, want)
				}
			}
		})
	}
}

func TestMonths(t *testing.T) {
	for _, c := range []struct {
		name string
		days []Observation
		want []string
	}{
		{
			name: "one day is its own mean",
			days: []Observation{{Station: "oslo", Date: "2012-01-01", Precipitation: 15, TempMax: 30, TempMin: -10, Weather: "snow"}},
			want: []string{"oslo,2012-01,1,1.5,1.0,-1.0,3.0,0,0,0,1,0"},
		},
		{
			name: "a month's days together, kind by kind",
			days: []Observation{
				{Station: "oslo", Date: "2012-01-01", Precipitation: 1, TempMax: 10, TempMin: 0, Weather: "drizzle"},
				{Station: "oslo", Date: "2012-01-02", Precipitation: 2, TempMax: 20, TempMin: 1, Weather: "fog"},
				{Station: "oslo", Date: "2012-01-03", Precipitation: 3, TempMax: 30, TempMin: 2, Weather: "rain"},
				{Station: "oslo", Date: "2012-01-31", Precipitation: 4, TempMax: 40, TempMin: 3, Weather: "sun"},
			},
			want: []string{"oslo,2012-01,4,1.0,1.3,0.0,4.0,1,1,1,0,1"},
		},
		{
			name: "months and stations apart",
			days: []Observation{
				{Station: "oslo", Date: "2012-01-31", Weather: "sun"},
				{Station: "oslo", Date: "2012-02-01", Weather: "sun"},
				{Station: "oslo", Date: "2013-01-31", Weather: "sun"},
				{Station: "oslo,n", Date: "2012-01-31", Weather: "sun"},
			},
			want: []string{
				"oslo,2012-01,1,0.0,0.0,0.0,0.0,0,0,0,0,1", "oslo,2012-02,1,0.0,0.0,0.0,0.0,0,0,0,0,1", "oslo,2013-01,1,0.0,0.0,0.0,0.0,0,0,0,0,1",
				`"oslo,n",2012-01,1,0.0,0.0,0.0,0.0,0,0,0,0,1`,
			},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			ptest.BuildAndRun(t, func(s beam.Scope) {
				equal(s, beam.ParDo(s, figuresCSV, Months(s, beam.CreateList(s, c.days))), c.want)
			})
		})
	}
}

func TestMeanRoundsHalvesAwayFromZero(t *testing.T) {
	for _, c := range []struct{ days, sum, want int64 }{{0, 0, 0}, {1, 3, 2}, {1, -3, -2}, {2, 5, 1}, {2, -5, -1}, {2, 6, 2}, {31, 62, 1}} {
		if got := (Figures{Days: c.days, TempSum: c.sum}).TempMean(); got != c.want {
			t.Errorf("mean of %d over %d days is %d, want %d", c.sum, c.days, got, c.want)
		}
	}
}

// The real data, from a landed file to the page, with the spoiled rows added as the demo does.
func TestYearFromRawRowsToReport(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	raw := read(t, "../../weather/data/seattle-2014.csv") + read(t, "../../weather/data/spoiled/seattle-2014-additions.csv")
	if err := os.WriteFile(at("raw.csv"), []byte(raw), 0o600); err != nil {
		t.Fatal(err)
	}

	result := runPipeline(t, &Clean{Input: at("raw.csv"), Station: "seattle", Output: at("clean.csv"), Rejects: at("rejects.csv"), MaxBadRatio: 0.05})
	for name, want := range map[string]int64{"rows_read": 373, "rows_good": 365, "rows_bad": 8} {
		if got := counter(result, name); got != want {
			t.Errorf("counter %s is %d, want %d", name, got, want)
		}
	}
	clean := strings.Split(strings.TrimSuffix(read(t, at("clean.csv")), "\n"), "\n")
	source := strings.Split(strings.TrimSuffix(read(t, "../../weather/data/seattle-2014.csv"), "\n"), "\n")
	if len(clean) != len(source) {
		t.Fatalf("clean wrote %d lines, want %d", len(clean), len(source))
	}
	for i, line := range source[1:] {
		if want := "seattle," + line; clean[i+1] != want {
			t.Fatalf("clean line %d is %q, want %q", i+2, clean[i+1], want)
		}
	}
	if rejects := read(t, at("rejects.csv")); strings.Count(rejects, "\n") != 1+8 {
		t.Errorf("rejects are\n%s\nwant a header and 8 rows", rejects)
	}

	runPipeline(t, &Summarise{Input: at("clean.csv"), Output: at("summary.csv")})
	if got, want := read(t, at("summary.csv")), read(t, "testdata/seattle-2014-summary.csv"); got != want {
		t.Errorf("summary is\n%s\nwant\n%s", got, want)
	}

	runPipeline(t, &PublishReport{Input: at("summary.csv"), Station: "seattle", Year: "2014", Output: at("report.md")})
	if got, want := read(t, at("report.md")), read(t, "testdata/seattle-2014-report.md"); got != want {
		t.Errorf("report is\n%s\nwant\n%s", got, want)
	}
}

func TestFailingJobs(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{
		"half.csv":    RawHeader + "\n2012-01-01,0.0,1.0,0.0,1.0,sun\nrubbish\n",
		"other.csv":   "id,name\n1,x\n",
		"clean.csv":   CleanHeader + "\noslo,2012-01-01,0.0,1.0,0.0,1.0,hail\n",
		"empty.csv":   "",
		"summary.csv": SummaryHeader + "\noslo,2012-01,31,0.0,0.0,0.0,0.0,0,0,0,0,31\n",
	} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name     string
		pipeline interface{ Build(beam.Scope) error }
		says     string
	}{
		{
			name:     "too many bad rows",
			pipeline: &Clean{Input: at("half.csv"), Station: "oslo", Output: at("out"), Rejects: at("rejects"), MaxBadRatio: 0.4},
			says:     "1 of 2 rows are bad, more than max_bad_ratio 0.4 allows; the first is line 3 of " + at("half.csv") + ": 1 columns, want 6; all are in " + at("rejects"),
		},
		{
			name:     "a file of another layout",
			pipeline: &Clean{Input: at("other.csv"), Station: "oslo", Output: at("out"), Rejects: at("no-rejects")},
			says:     at("other.csv") + ` begins with "id,name"; want the header "` + RawHeader + `"`,
		},
		{
			name:     "an empty file",
			pipeline: &Clean{Input: at("empty.csv"), Station: "oslo", Output: at("out"), Rejects: at("no-rejects")},
			says:     at("empty.csv") + " is empty",
		},
		{
			name:     "a file that is not there",
			pipeline: &Clean{Input: at("absent.csv"), Station: "oslo", Output: at("out"), Rejects: at("no-rejects")},
			says:     at("absent.csv") + ": no such file",
		},
		{
			name:     "a pattern that matches nothing",
			pipeline: &Summarise{Input: at("*.parquet"), Output: at("out")},
			says:     "nothing matches " + at("*.parquet"),
		},
		{
			name:     "rows that clean did not write",
			pipeline: &Summarise{Input: at("clean.csv"), Output: at("out")},
			says:     "line 2 of " + at("clean.csv") + `: weather "hail" is none of`,
		},
		{
			name:     "a year without figures",
			pipeline: &PublishReport{Input: at("summary.csv"), Station: "oslo", Year: "2013", Output: at("out")},
			says:     `no figures for station "oslo" in 2013`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, s := beam.NewPipelineWithRoot()
			if err := c.pipeline.Build(s); err != nil {
				t.Fatalf("refused before it ran: %v", err)
			}
			if err := ptest.Run(p); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the job's error is %v, want one that says %q", err, c.says)
			}
			for _, object := range []string{"out", "no-rejects"} {
				if _, err := os.Stat(at(object)); err == nil {
					t.Errorf("a job that failed wrote %s", object)
				}
			}
		})
	}
	if _, err := os.Stat(at("rejects")); err != nil {
		t.Errorf("a job that failed for its bad rows must leave the list of them: %v", err)
	}
}

func TestImpossibleParameters(t *testing.T) {
	for _, c := range []struct {
		name     string
		pipeline interface{ Build(beam.Scope) error }
		says     string
	}{
		{"clean: nothing given", &Clean{}, "missing --input, --station, --output, --rejects"},
		{"clean: a percentage for a share", &Clean{Input: "i", Station: "s", Output: "o", Rejects: "r", MaxBadRatio: 5}, "--max_bad_ratio is 5; it is a share, from 0 to 1"},
		{"clean: one object for both outputs", &Clean{Input: "i", Station: "s", Output: "o", Rejects: "o"}, "--output and --rejects are the same object, o"},
		{"summarise: nothing given", &Summarise{}, "missing --input, --output"},
		{"publish-report: a year that is none", &PublishReport{Input: "i", Station: "s", Year: "12", Output: "o"}, `--year is "12"; want four digits`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := c.pipeline.Build(beam.NewPipeline().Root()); err == nil || err.Error() != c.says {
				t.Errorf("got %v, want %s", err, c.says)
			}
		})
	}
}

func runPipeline(t *testing.T, pipeline interface{ Build(beam.Scope) error }) beam.PipelineResult {
	t.Helper()
	return ptest.BuildAndRun(t, func(s beam.Scope) {
		if err := pipeline.Build(s); err != nil {
			t.Fatal(err)
		}
	})
}

// equal asserts that a PCollection<string> holds the wanted lines, in any order.
func equal(s beam.Scope, got beam.PCollection, want []string) {
	if len(want) == 0 {
		passert.Empty(s, got)
		return
	}
	passert.EqualsList(s, got, want)
}

func counter(result beam.PipelineResult, name string) int64 {
	var sum int64
	for _, c := range result.Metrics().AllMetrics().Counters() {
		if c.Name() == name {
			sum += c.Result()
		}
	}
	return sum
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
