package runs_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/penstock/penstock/runs"
)

func TestSummaryIsCutToWhatTheServerTakes(t *testing.T) {
	for name, purpose := range map[string]string{
		"short":             "Load orders.",
		"long":              strings.Repeat("x", 5000),
		"long, two bytes":   strings.Repeat("ü", 5000),
		"grows by encoding": strings.Repeat("<", 5000),
		"quotes":            strings.Repeat("\"\n", 300),
	} {
		got := runs.Summary(purpose)
		encoded, err := json.Marshal(got)
		if err != nil || len(encoded) > 400 || !strings.HasPrefix(purpose, got) || (len(purpose) < 50 && got != purpose) || len(encoded) < 12 {
			t.Errorf("%s: %d bytes as encoded (%v)", name, len(encoded), err)
		}
	}
}
