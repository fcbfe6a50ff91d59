package weather

import (
	"strings"
	"testing"
)

func TestRawRow(t *testing.T) {
	for _, row := range []struct{ name, line, clean, reason string }{
		{name: "an ordinary day", line: "2012-01-02,10.9,10.6,2.8,4.5,rain", clean: "oslo,2012-01-02,10.9,10.6,2.8,4.5,rain"},
		{name: "below zero by less than a degree", line: "2012-01-02,0.0,0.6,-0.5,4.5,snow", clean: "oslo,2012-01-02,0.0,0.6,-0.5,4.5,snow"},
		{name: "whole numbers gain their decimal", line: "2012-02-29,0,13,5,4,sun", clean: "oslo,2012-02-29,0.0,13.0,5.0,4.0,sun"},
		{name: "quoted columns", line: `"2012-01-02","1.0","2.0","1.0","1.0","fog"`, clean: "oslo,2012-01-02,1.0,2.0,1.0,1.0,fog"},

		{name: "no such day", line: "2013-02-29,0.0,1.0,0.0,1.0,sun", reason: `date "2013-02-29" is not a day as YYYY-MM-DD`},
		{name: "day the American way", line: "01/02/2012,0.0,1.0,0.0,1.0,sun", reason: `date "01/02/2012" is not a day as YYYY-MM-DD`},
		{name: "a column too few", line: "2012-01-02,0.0,1.0,0.0,1.0", reason: "5 columns, want 6"},
		{name: "a column too many", line: "2012-01-02,0.0,1.0,0.0,1.0,sun,sun", reason: "7 columns, want 6"},
		{name: "a quote that does not end", line: `2012-01-02,"0.0,1.0,0.0,1.0,sun`, reason: `not CSV: extraneous or missing " in quoted-field in column 32`},
		{name: "no measure", line: "2012-01-02,0.0,,0.0,1.0,sun", reason: `temp_max "" is not a number with one decimal`},
		{name: "text for a measure", line: "2012-01-02,none,1.0,0.0,1.0,sun", reason: `precipitation "none" is not a number with one decimal`},
		{name: "a measure finer than it is recorded", line: "2012-01-02,0.05,1.0,0.0,1.0,sun", reason: `precipitation "0.05" is not a number with one decimal`},
		{name: "two signs", line: "2012-01-02,0.0,1.0,--5.0,1.0,sun", reason: `temp_min "--5.0" is not a number with one decimal`},
		{name: "not a number, as floats go", line: "2012-01-02,0.0,NaN,0.0,1.0,sun", reason: `temp_max "NaN" is not a number with one decimal`},
		{name: "a number past all bounds", line: "2012-01-02,99999999999999999999.0,1.0,0.0,1.0,sun", reason: `precipitation "99999999999999999999.0" is not a number that an observation can have`},
		{name: "negative rain", line: "2012-01-02,-0.1,1.0,0.0,1.0,sun", reason: "precipitation -0.1 is outside 0.0 to 2000.0"},
		{name: "absolute zero", line: "2012-01-02,0.0,1.0,-273.1,1.0,sun", reason: "temp_min -273.1 is outside -90.0 to 60.0"},
		{name: "minimum above maximum", line: "2012-01-02,0.0,1.0,1.1,1.0,sun", reason: "temp_min 1.1 is above temp_max 1.0"},
		{name: "unknown weather", line: "2012-01-02,0.0,1.0,0.0,1.0,frogs", reason: `weather "frogs" is none of drizzle, fog, rain, snow, sun`},
	} {
		t.Run(row.name, func(t *testing.T) {
			observation, err := ParseRaw("oslo", row.line)
			if row.reason != "" {
				if err == nil || err.Error() != row.reason {
					t.Fatalf("reason is %v, want %s", err, row.reason)
				}
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if got := observation.CSV(); got != row.clean {
				t.Errorf("clean row is %s, want %s", got, row.clean)
			}
			if again, err := ParseClean(observation.CSV()); err != nil || again != observation {
				t.Errorf("the clean row reads back as %+v, %v; want %+v", again, err, observation)
			}
		})
	}
}

func TestStationOfAnyName(t *testing.T) {
	for _, station := range []string{"São Paulo", `"quoted", with comma`, "=1+1", "../up", "{{}}"} {
		o, err := ParseRaw(station, "2012-01-02,10.9,10.6,2.8,4.5,rain")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseClean(o.CSV()); err != nil || got.Station != station {
			t.Errorf("station %q reads back as %q, %v", station, got.Station, err)
		}
	}
}

func FuzzRawRow(f *testing.F) {
	f.Add("2012-01-02,10.9,10.6,2.8,4.5,rain")
	f.Add(`2012-01-02,"1.0`)
	f.Fuzz(func(t *testing.T, line string) {
		o, err := ParseRaw("s", line)
		if err != nil {
			if strings.TrimSpace(err.Error()) == "" {
				t.Fatal("refused without a reason")
			}
			return
		}
		if again, err := ParseClean(o.CSV()); err != nil || again != o {
			t.Fatalf("%q was taken as %+v, which reads back as %+v, %v", line, o, again, err)
		}
	})
}
