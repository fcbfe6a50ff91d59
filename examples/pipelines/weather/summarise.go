package weather

import (
	"flag"
	"fmt"
	"strconv"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/penstock/penstock/examples/pipelines/lines"
)

// Summarise reads what clean wrote and gives the figures of each month at each station.
type Summarise struct {
	// Input is an object of clean rows, or a pattern (see objects.Match).
	Input string
	// Output is the object for the figures, under SummaryHeader, by station and month.
	Output string
}

// SummaryHeader is the first line of a summary.
const SummaryHeader = "station,month,days,precipitation,temp_mean,temp_min,temp_max,drizzle,fog,rain,snow,sun"

// Flags declares the parameters as flags on fs.
func (p *Summarise) Flags(fs *flag.FlagSet) {
	fs.StringVar(&p.Input, "input", "", "object of clean rows, gs://bucket/object; * ** and ? match several")
	fs.StringVar(&p.Output, "output", "", "object to write the monthly figures to")
}

// Build adds the pipeline to s.
func (p *Summarise) Build(s beam.Scope) error {
	if err := required("input", p.Input, "output", p.Output); err != nil {
		return err
	}
	rows, receipts := lines.Read(s, p.Input, CleanHeader)
	months := Months(s, beam.ParDo(s, parseCleanLine, rows))
	// Each row is a day of one month.
	accounted := lines.Account(s, beam.Create(s, p.Output), receipts, beam.ParDo(s, daysOf, months))
	lines.Write(s, accounted, SummaryHeader, beam.ParDo(s, figuresCSV, months))
	return nil
}

// Months takes a PCollection<Observation> to a PCollection<Figures>, one for each station and month that has a day.
func Months(s beam.Scope, observations beam.PCollection) beam.PCollection {
	s = s.Scope("Months")
	return beam.DropKey(s, beam.CombinePerKey(s, &figuresFn{}, beam.ParDo(s, byMonth, observations)))
}

// Figures are what is known of one month at one station; the zero value is a month without a day. Measures are in tenths, as in [Observation].
type Figures struct {
	Station string
	// Month is YYYY-MM.
	Month string
	// Days is how many days were observed.
	Days int64
	// Precipitation is the month's total.
	Precipitation int64
	// TempMin and TempMax are the month's extremes.
	TempMin, TempMax int64
	// TempSum is the sum of the days' maxima and minima, two for a day: the mean temperature, by the convention of meteorologists, is that of each day's extremes.
	TempSum int64
	// Drizzle, Fog, Rain, Snow and Sun are the days of each kind.
	Drizzle, Fog, Rain, Snow, Sun int64
}

// TempMean is the mean temperature in tenths of a degree, halves rounded away from zero; 0 for a month without a day.
func (f Figures) TempMean() int64 {
	n := 2 * f.Days
	switch {
	case n == 0:
		return 0
	case f.TempSum < 0:
		return (f.TempSum - n/2) / n
	}
	return (f.TempSum + n/2) / n
}

// Plus is the figures of both, days of one month at one station.
func (f Figures) Plus(g Figures) Figures {
	if f.Days == 0 {
		return g
	}
	if g.Days == 0 {
		return f
	}
	f.Days += g.Days
	f.Precipitation += g.Precipitation
	f.TempMin = min(f.TempMin, g.TempMin)
	f.TempMax = max(f.TempMax, g.TempMax)
	f.TempSum += g.TempSum
	f.Drizzle += g.Drizzle
	f.Fog += g.Fog
	f.Rain += g.Rain
	f.Snow += g.Snow
	f.Sun += g.Sun
	return f
}

// CSV is the figures as a line under [SummaryHeader].
func (f Figures) CSV() string {
	count := func(n int64) string { return strconv.FormatInt(n, 10) }
	return record(f.Station, f.Month, count(f.Days), formatTenths(f.Precipitation), formatTenths(f.TempMean()), formatTenths(f.TempMin), formatTenths(f.TempMax),
		count(f.Drizzle), count(f.Fog), count(f.Rain), count(f.Snow), count(f.Sun))
}

func figuresOf(o Observation) Figures {
	f := Figures{
		Station: o.Station, Month: o.Month(), Days: 1, Precipitation: o.Precipitation,
		TempMin: o.TempMin, TempMax: o.TempMax, TempSum: o.TempMin + o.TempMax,
	}
	switch o.Weather {
	case "drizzle":
		f.Drizzle = 1
	case "fog":
		f.Fog = 1
	case "rain":
		f.Rain = 1
	case "snow":
		f.Snow = 1
	case "sun":
		f.Sun = 1
	}
	return f
}

func init() {
	register.Function2x1(parseCleanLine)
	register.Function1x2(byMonth)
	register.Function1x1(figuresCSV)
	register.Function1x1(daysOf)
	register.Combiner2[Figures, Observation](&figuresFn{})
	register.Emitter1[Observation]()
}

type figuresFn struct{}

func (*figuresFn) CreateAccumulator() Figures                     { return Figures{} }
func (*figuresFn) AddInput(f Figures, o Observation) Figures      { return f.Plus(figuresOf(o)) }
func (*figuresFn) MergeAccumulators(f Figures, g Figures) Figures { return f.Plus(g) }
func (*figuresFn) ExtractOutput(f Figures) Figures                { return f }

func byMonth(o Observation) (string, Observation) {
	return record(o.Station, o.Month()), o
}

func figuresCSV(f Figures) string { return f.CSV() }
func daysOf(f Figures) int64      { return f.Days }

// parseCleanLine fails the job on a bad row: clean has checked them all, so this is not a file that clean wrote.
func parseCleanLine(line lines.Line, emit func(Observation)) error {
	o, err := ParseClean(line.Text)
	if err != nil {
		return fmt.Errorf("line %d of %s: %w; was it written by clean?", line.Number, line.Object, err)
	}
	emit(o)
	return nil
}
