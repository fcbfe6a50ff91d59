package weather

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"strconv"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/penstock/penstock/examples/pipelines/lines"
)

// Clean checks rows of observations as they arrive, writes the good ones and diverts the bad ones with their reasons.
//
// The rejects are written first, then the share of bad rows is judged, then the output is written: an output that exists has passed, and a job that
// failed for its bad rows has left the list of them.
type Clean struct {
	// Input is an object of raw rows, or a pattern (see objects.Match).
	Input string
	// Station is the station that the rows belong to.
	Station string
	// Output is the object for the good rows, under CleanHeader, by date.
	Output string
	// Rejects is the object for the bad rows, under RejectsHeader.
	Rejects string
	// MaxBadRatio is the share of bad rows, 0 to 1, above which the job fails and writes no output.
	MaxBadRatio float64
}

// RejectsHeader is the first line of the file of bad rows: where the row was, why it is bad, and the row itself.
const RejectsHeader = "object,line,reason,row"

// Row is a line on its way: an observation, or bad for a reason.
type Row struct {
	Line        lines.Line
	Observation Observation
	// Reason is empty for a good row.
	Reason string
}

// CSV is a bad row as a line under [RejectsHeader].
func (r Row) CSV() string {
	return record(r.Line.Object, strconv.FormatInt(r.Line.Number, 10), r.Reason, r.Line.Text)
}

// Flags declares the parameters as flags on fs.
func (c *Clean) Flags(fs *flag.FlagSet) {
	fs.StringVar(&c.Input, "input", "", "object of raw rows, gs://bucket/object; * ** and ? match several")
	fs.StringVar(&c.Station, "station", "", "station that the rows belong to")
	fs.StringVar(&c.Output, "output", "", "object to write the good rows to")
	fs.StringVar(&c.Rejects, "rejects", "", "object to write the bad rows to, each with its reason")
	fs.Float64Var(&c.MaxBadRatio, "max_bad_ratio", 0.05, "share of bad rows above which the job fails, 0 to 1")
}

// Build adds the pipeline to s.
func (c *Clean) Build(s beam.Scope) error {
	if err := required("input", c.Input, "station", c.Station, "output", c.Output, "rejects", c.Rejects); err != nil {
		return err
	}
	if !(c.MaxBadRatio >= 0 && c.MaxBadRatio <= 1) {
		return fmt.Errorf("--max_bad_ratio is %v; it is a share, from 0 to 1", c.MaxBadRatio)
	}
	if c.Output == c.Rejects {
		return fmt.Errorf("--output and --rejects are the same object, %s", c.Output)
	}
	raw, receipts := lines.Read(s, c.Input, RawHeader)
	good, bad := Validate(s, c.Station, raw)
	counts := beam.Flatten(s, beam.ParDo(s, oneObservation, good), beam.ParDo(s, oneRow, bad))
	accounted := lines.Account(s, beam.Create(s, c.Rejects), receipts, counts)
	rejected := lines.Write(s.Scope("Rejects"), accounted, RejectsHeader, beam.ParDo(s, rejectCSV, bad))
	approved := beam.ParDo(s.Scope("Judge"), &judgeFn{Output: c.Output, MaxBadRatio: c.MaxBadRatio}, rejected,
		beam.SideInput{Input: good}, beam.SideInput{Input: bad})
	lines.Write(s.Scope("Output"), approved, CleanHeader, beam.ParDo(s, observationCSV, good))
	return nil
}

// Validate takes a PCollection<lines.Line> apart into good rows, a PCollection<Observation>, and bad ones, a PCollection<Row>. A day may occur once:
// of several rows that are good in themselves, the first in order of object and line stays and the others are bad. It counts rows_read, rows_good and
// rows_bad.
func Validate(s beam.Scope, station string, raw beam.PCollection) (good, bad beam.PCollection) {
	s = s.Scope("Validate")
	parsed, bad := beam.ParDo2(s, &parseFn{Station: station}, raw)
	good, repeated := beam.ParDo2(s, &firstFn{}, beam.GroupByKey(s, parsed))
	return good, beam.Flatten(s, bad, repeated)
}

func init() {
	register.DoFn4x0[context.Context, lines.Line, func(string, Row), func(Row)](&parseFn{})
	register.DoFn5x0[context.Context, string, func(*Row) bool, func(Observation), func(Row)](&firstFn{})
	register.DoFn3x2[string, func(*Observation) bool, func(*Row) bool, string, error](&judgeFn{})
	register.Function1x1(rejectCSV)
	register.Function1x1(observationCSV)
	register.Function1x1(oneObservation)
	register.Function1x1(oneRow)
	register.Emitter2[string, Row]()
	register.Emitter1[Row]()
	register.Emitter1[Observation]()
	register.Iter1[Row]()
	register.Iter1[Observation]()
}

var (
	rowsRead = beam.NewCounter("weather", "rows_read")
	rowsGood = beam.NewCounter("weather", "rows_good")
	rowsBad  = beam.NewCounter("weather", "rows_bad")
	rowBytes = beam.NewDistribution("weather", "row_bytes")
)

// parseFn emits rows that are good in themselves under their date, and bad ones apart.
type parseFn struct {
	Station string
}

func (f *parseFn) ProcessElement(ctx context.Context, line lines.Line, good func(string, Row), bad func(Row)) {
	rowsRead.Inc(ctx, 1)
	rowBytes.Update(ctx, int64(len(line.Text)))
	observation, err := ParseRaw(f.Station, line.Text)
	if err != nil {
		rowsBad.Inc(ctx, 1)
		bad(Row{Line: line, Reason: err.Error()})
		return
	}
	good(observation.Date, Row{Line: line, Observation: observation})
}

type firstFn struct{}

func (*firstFn) ProcessElement(ctx context.Context, date string, rows func(*Row) bool, good func(Observation), bad func(Row)) {
	var all []Row
	first := 0
	for row := (Row{}); rows(&row); {
		all = append(all, row)
		if before(row.Line, all[first].Line) {
			first = len(all) - 1
		}
	}
	for i, row := range all {
		if i == first {
			rowsGood.Inc(ctx, 1)
			good(row.Observation)
			continue
		}
		rowsBad.Inc(ctx, 1)
		row.Reason = fmt.Sprintf("date %s is taken by line %d of %s", date, all[first].Line.Number, all[first].Line.Object)
		bad(row)
	}
}

func before(a, b lines.Line) bool {
	if a.Object != b.Object {
		return a.Object < b.Object
	}
	return a.Number < b.Number
}

// judgeFn passes on the name of the output when few enough rows are bad.
type judgeFn struct {
	Output      string
	MaxBadRatio float64
}

func (f *judgeFn) ProcessElement(rejects string, good func(*Observation) bool, bad func(*Row) bool) (string, error) {
	var nGood, nBad int
	for o := (Observation{}); good(&o); {
		nGood++
	}
	var first Row
	for row := (Row{}); bad(&row); {
		if nBad++; nBad == 1 || before(row.Line, first.Line) {
			first = row
		}
	}
	if nBad == 0 || float64(nBad) <= f.MaxBadRatio*float64(nGood+nBad) {
		return f.Output, nil
	}
	return "", fmt.Errorf("%d of %d rows are bad, more than max_bad_ratio %v allows; the first is line %d of %s: %s; all are in %s",
		nBad, nGood+nBad, f.MaxBadRatio, first.Line.Number, first.Line.Object, first.Reason, rejects)
}

func rejectCSV(r Row) string              { return r.CSV() }
func observationCSV(o Observation) string { return o.CSV() }
func oneObservation(Observation) int64    { return 1 }
func oneRow(Row) int64                    { return 1 }

// required reports which of the named parameters are empty; it takes name, value pairs.
func required(pairs ...string) error {
	var missing []string
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == "" {
			missing = append(missing, "--"+pairs[i])
		}
	}
	if len(missing) > 0 {
		return errors.New("missing " + strings.Join(missing, ", "))
	}
	return nil
}
