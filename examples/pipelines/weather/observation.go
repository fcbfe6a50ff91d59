// Package weather holds the example pipelines over daily weather observations: clean, summarise and publish-report.
package weather

import (
	"encoding/csv"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
)

func init() {
	beam.RegisterType(reflect.TypeFor[Observation]())
	beam.RegisterType(reflect.TypeFor[Row]())
}

// RawHeader is the first line of a file of observations as it arrives.
const RawHeader = "date,precipitation,temp_max,temp_min,wind,weather"

// CleanHeader is the first line of a file that clean has written.
const CleanHeader = "station," + RawHeader

// Kinds are the values of an observation's weather, in the order of the summary's columns.
var Kinds = []string{"drizzle", "fog", "rain", "snow", "sun"}

// Observation is the weather of one day at one station. Measures are whole tenths of their unit, the precision in which they are recorded: sums of them are exact,
// and so do not depend on the order in which a runner adds.
type Observation struct {
	Station string
	// Date is YYYY-MM-DD.
	Date string
	// Precipitation is in tenths of a millimetre.
	Precipitation int64
	// TempMax and TempMin are in tenths of a degree Celsius.
	TempMax, TempMin int64
	// Wind is in tenths of the source's unit: its documentation says kilometres per hour.
	Wind int64
	// Weather is one of [Kinds].
	Weather string
}

// CSV is the observation as a line under [CleanHeader].
func (o Observation) CSV() string {
	return record(o.Station, o.Date, formatTenths(o.Precipitation), formatTenths(o.TempMax), formatTenths(o.TempMin), formatTenths(o.Wind), o.Weather)
}

// Month is the observation's month, YYYY-MM.
func (o Observation) Month() string { return o.Date[:len("2006-01")] }

// ParseRaw reads a line under [RawHeader]. The error is the reason why the row is bad, for people: it names the column and the value.
func ParseRaw(station, line string) (Observation, error) {
	fields, err := splitCSV(line, len(strings.Split(RawHeader, ",")))
	if err != nil {
		return Observation{}, err
	}
	return parse(station, fields)
}

// ParseClean reads a line under [CleanHeader].
func ParseClean(line string) (Observation, error) {
	fields, err := splitCSV(line, len(strings.Split(CleanHeader, ",")))
	if err != nil {
		return Observation{}, err
	}
	if fields[0] == "" {
		return Observation{}, errors.New("station is empty")
	}
	return parse(fields[0], fields[1:])
}

// Limits of what is believed: the records of the World Meteorological Organization (-89.2 and 56.7 °C, 1,825 mm in a day, gusts of 408 km/h), rounded outwards.
const (
	coldest, hottest = -900, 600
	wettest          = 20_000
	windiest         = 4_100
)

func parse(station string, fields []string) (o Observation, err error) {
	o.Station = station
	if _, err := time.Parse(time.DateOnly, fields[0]); err != nil {
		return Observation{}, fmt.Errorf("date %q is not a day as YYYY-MM-DD", fields[0])
	}
	o.Date = fields[0]
	for _, measure := range []struct {
		name     string
		field    string
		into     *int64
		min, max int64
	}{
		{"precipitation", fields[1], &o.Precipitation, 0, wettest},
		{"temp_max", fields[2], &o.TempMax, coldest, hottest},
		{"temp_min", fields[3], &o.TempMin, coldest, hottest},
		{"wind", fields[4], &o.Wind, 0, windiest},
	} {
		if *measure.into, err = parseTenths(measure.field); err != nil {
			return Observation{}, fmt.Errorf("%s %w", measure.name, err)
		}
		if v := *measure.into; v < measure.min || v > measure.max {
			return Observation{}, fmt.Errorf("%s %s is outside %s to %s", measure.name, measure.field, formatTenths(measure.min), formatTenths(measure.max))
		}
	}
	if o.TempMin > o.TempMax {
		return Observation{}, fmt.Errorf("temp_min %s is above temp_max %s", fields[3], fields[2])
	}
	if !slices.Contains(Kinds, fields[5]) {
		return Observation{}, fmt.Errorf("weather %q is none of %s", fields[5], strings.Join(Kinds, ", "))
	}
	o.Weather = fields[5]
	return o, nil
}

func splitCSV(line string, want int) ([]string, error) {
	r := csv.NewReader(strings.NewReader(line))
	r.FieldsPerRecord = -1
	fields, err := r.Read()
	if parseErr := new(csv.ParseError); errors.As(err, &parseErr) {
		return nil, fmt.Errorf("not CSV: %w in column %d", parseErr.Err, parseErr.Column)
	}
	if err != nil {
		return nil, fmt.Errorf("not CSV: %w", err)
	}
	if len(fields) != want {
		return nil, fmt.Errorf("%d columns, want %d", len(fields), want)
	}
	return fields, nil
}

// record is one line of CSV, quoted where it must be.
func record(fields ...string) string {
	var b strings.Builder
	w := csv.NewWriter(&b)
	// Writing to a Builder cannot fail.
	_ = w.Write(fields)
	w.Flush()
	return strings.TrimSuffix(b.String(), "\n")
}

// parseTenths reads a decimal number with at most one digit after the point.
func parseTenths(s string) (int64, error) {
	whole, tenth, hasPoint := strings.Cut(s, ".")
	if hasPoint && len(tenth) != 1 {
		return 0, fmt.Errorf("%q is not a number with one decimal", s)
	}
	if !hasPoint {
		tenth = "0"
	}
	digits := strings.TrimPrefix(whole, "-")
	if digits == "" || strings.Trim(digits+tenth, "0123456789") != "" {
		return 0, fmt.Errorf("%q is not a number with one decimal", s)
	}
	v, err := strconv.ParseInt(whole+tenth, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number that an observation can have", s)
	}
	return v, nil
}

func formatTenths(v int64) string {
	sign := ""
	if v < 0 {
		sign, v = "-", -v
	}
	return fmt.Sprintf("%s%d.%d", sign, v/10, v%10)
}
