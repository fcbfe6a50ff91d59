package demo

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// year is one file of the weather example.
type year struct {
	name    string // the object's, such as seattle-2012.csv
	year    string
	source  string // the observations as they came from NOAA, with their header
	spoiled string // rows that were made up, to be appended; empty: none
	bad     int    // how many rows spoiled holds
	figures string // what summarise must write, worked out here without Beam
	rain    float64
}

// upload is what lands in the bucket.
func (y year) upload() string { return y.source + y.spoiled }

func (y year) rows() int { return strings.Count(y.source, "\n") - 1 }

// spoiledYear is the one that gets the made-up rows.
const spoiledYear = "2014"

// readYears reads the years of examples/weather/data.
func readYears(weather string) ([]year, error) {
	paths, err := filepath.Glob(filepath.Join(weather, "data", "seattle-*.csv"))
	if err != nil {
		return nil, fmt.Errorf("find the observations: %w", err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("there are no observations in %s; the checkout is not complete", filepath.Join(weather, "data"))
	}
	years := make([]year, 0, len(paths))
	for _, path := range paths {
		source, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the observations: %w", err)
		}
		y := year{name: filepath.Base(path), source: string(source)}
		y.year = strings.TrimSuffix(strings.TrimPrefix(y.name, "seattle-"), ".csv")
		if y.year == spoiledYear {
			spoiled, err := os.ReadFile(filepath.Join(weather, "data", "spoiled", "seattle-"+spoiledYear+"-additions.csv"))
			if err != nil {
				return nil, fmt.Errorf("read the spoiled rows: %w", err)
			}
			y.spoiled = string(spoiled)
			for line := range strings.Lines(y.spoiled) {
				if !strings.HasPrefix(line, "#") {
					y.bad++
				}
			}
		}
		if y.figures, y.rain, err = monthly(y.source); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		years = append(years, y)
	}
	return years, nil
}

// monthly works out the figures that summarise must arrive at from the untouched
// rows, in a loop and with floats where the pipeline has Beam and whole tenths.
func monthly(source string) (summary string, rain float64, err error) {
	rows, err := csv.NewReader(strings.NewReader(source)).ReadAll()
	if err != nil {
		return "", 0, fmt.Errorf("read the rows: %w", err)
	}
	type month struct {
		days              int
		rain, temperature float64
		coldest, hottest  float64
		kinds             map[string]int
	}
	months := map[string]*month{}
	for _, row := range rows[1:] {
		var measures [3]float64 // precipitation, temp_max, temp_min
		for i := range measures {
			if measures[i], err = strconv.ParseFloat(row[i+1], 64); err != nil {
				return "", 0, fmt.Errorf("row of %s: %w", row[0], err)
			}
		}
		name := row[0][:len("2012-01")]
		m := months[name]
		if m == nil {
			m = &month{coldest: math.Inf(1), hottest: math.Inf(-1), kinds: map[string]int{}}
			months[name] = m
		}
		m.days++
		m.rain += measures[0]
		m.temperature += measures[1] + measures[2]
		m.hottest, m.coldest = max(m.hottest, measures[1]), min(m.coldest, measures[2])
		m.kinds[row[5]]++
		rain += measures[0]
	}
	var b bytes.Buffer
	b.WriteString("station,month,days,precipitation,temp_mean,temp_min,temp_max,drizzle,fog,rain,snow,sun\n")
	for _, name := range slices.Sorted(maps.Keys(months)) {
		m := months[name]
		// The mean of the days' means, to a tenth, halves away from zero.
		tenths := math.Round(math.Round(m.temperature*10) / float64(2*m.days))
		fmt.Fprintf(&b, "seattle,%s,%d,%.1f,%.1f,%.1f,%.1f", name, m.days, m.rain, tenths/10, m.coldest, m.hottest)
		for _, kind := range []string{"drizzle", "fog", "rain", "snow", "sun"} {
			fmt.Fprintf(&b, ",%d", m.kinds[kind])
		}
		b.WriteString("\n")
	}
	return b.String(), rain, nil
}
