package weather

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/register"

	"github.com/penstock/penstock/examples/pipelines/lines"
	"github.com/penstock/penstock/examples/pipelines/objects"
)

// PublishReport writes one page about a year at a station from its monthly figures: what an upstream system asks for when it knows that they are complete.
type PublishReport struct {
	// Input is an object that summarise wrote, or a pattern (see objects.Match).
	Input string
	// Station is the station to report on.
	Station string
	// Year is the year to report on, YYYY.
	Year string
	// Output is the object for the page, in Markdown.
	Output string
}

// Flags declares the parameters as flags on fs.
func (p *PublishReport) Flags(fs *flag.FlagSet) {
	fs.StringVar(&p.Input, "input", "", "object of monthly figures, gs://bucket/object; * ** and ? match several")
	fs.StringVar(&p.Station, "station", "", "station to report on")
	fs.StringVar(&p.Year, "year", "", "year to report on, YYYY")
	fs.StringVar(&p.Output, "output", "", "object to write the report to")
}

var fourDigits = regexp.MustCompile(`^[0-9]{4}$`)

// Build adds the pipeline to s.
func (p *PublishReport) Build(s beam.Scope) error {
	if err := required("input", p.Input, "station", p.Station, "year", p.Year, "output", p.Output); err != nil {
		return err
	}
	if !fourDigits.MatchString(p.Year) {
		return fmt.Errorf("--year is %q; want four digits", p.Year)
	}
	rows, receipts := lines.Read(s, p.Input, SummaryHeader)
	figures := beam.ParDo(s, parseSummaryLine, rows)
	accounted := lines.Account(s, beam.Create(s, p.Output), receipts, beam.ParDo(s, oneFigures, figures))
	beam.ParDo0(s, &publishFn{Station: p.Station, Year: p.Year}, accounted, beam.SideInput{Input: figures})
	return nil
}

func init() {
	register.Function2x1(parseSummaryLine)
	register.Function1x1(oneFigures)
	register.DoFn3x1[context.Context, string, func(*Figures) bool, error](&publishFn{})
	register.Emitter1[Figures]()
	register.Iter1[Figures]()
}

// ParseFigures reads a line under [SummaryHeader]. The mean that it states stands for the sum of temperatures, which it does not.
func ParseFigures(line string) (Figures, error) {
	fields, err := splitCSV(line, len(strings.Split(SummaryHeader, ",")))
	if err != nil {
		return Figures{}, err
	}
	f := Figures{Station: fields[0], Month: fields[1]}
	var mean int64
	var errs []error
	columns := strings.Split(SummaryHeader, ",")
	for i, into := range []*int64{&f.Days, &f.Precipitation, &mean, &f.TempMin, &f.TempMax, &f.Drizzle, &f.Fog, &f.Rain, &f.Snow, &f.Sun} {
		var err error
		if field := fields[2+i]; slices.Contains([]*int64{&f.Precipitation, &mean, &f.TempMin, &f.TempMax}, into) {
			*into, err = parseTenths(field)
		} else if *into, err = strconv.ParseInt(field, 10, 64); err != nil {
			err = fmt.Errorf("%q is not a count", field)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %w", columns[2+i], err))
		}
	}
	f.TempSum = mean * 2 * f.Days
	return f, errors.Join(errs...)
}

func parseSummaryLine(line lines.Line, emit func(Figures)) error {
	f, err := ParseFigures(line.Text)
	if err != nil {
		return fmt.Errorf("line %d of %s: %w; was it written by summarise?", line.Number, line.Object, err)
	}
	emit(f)
	return nil
}

func oneFigures(Figures) int64 { return 1 }

type publishFn struct {
	Station, Year string
}

func (p *publishFn) ProcessElement(ctx context.Context, name string, figures func(*Figures) bool) error {
	var months []Figures
	for f := (Figures{}); figures(&f); {
		if f.Station == p.Station && strings.HasPrefix(f.Month, p.Year+"-") {
			months = append(months, f)
		}
	}
	if len(months) == 0 {
		return fmt.Errorf("no figures for station %q in %s; has that year been summarised?", p.Station, p.Year)
	}
	return objects.Write(ctx, name, func(w io.Writer) error {
		_, err := io.WriteString(w, page(p.Station, p.Year, months))
		return err
	})
}

func page(station, year string, months []Figures) string {
	slices.SortFunc(months, func(a, b Figures) int { return strings.Compare(a.Month, b.Month) })
	all := months[0]
	wettest, warmest, coldest := months[0], months[0], months[0]
	for _, m := range months[1:] {
		all = all.Plus(m)
		if m.Precipitation > wettest.Precipitation {
			wettest = m
		}
		if m.TempMean() > warmest.TempMean() {
			warmest = m
		}
		if m.TempMean() < coldest.TempMean() {
			coldest = m
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# The weather at %s in %s\n\n", station, year)
	fmt.Fprintf(&b, "%d days were observed, in %d months.\n\n", all.Days, len(months))
	fmt.Fprintf(&b, "- Precipitation: %s mm, the most in %s (%s mm).\n", formatTenths(all.Precipitation), wettest.Month, formatTenths(wettest.Precipitation))
	fmt.Fprintf(&b, "- Temperature: %s °C to %s °C, %s °C in the mean.\n", formatTenths(all.TempMin), formatTenths(all.TempMax), formatTenths(all.TempMean()))
	fmt.Fprintf(&b, "- Warmest month: %s (%s °C); coldest: %s (%s °C).\n", warmest.Month, formatTenths(warmest.TempMean()), coldest.Month, formatTenths(coldest.TempMean()))
	fmt.Fprintf(&b, "- Days of drizzle %d, fog %d, rain %d, snow %d, sun %d.\n", all.Drizzle, all.Fog, all.Rain, all.Snow, all.Sun)
	return b.String()
}
