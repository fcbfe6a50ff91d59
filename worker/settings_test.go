package worker_test

import (
	"strings"
	"testing"
	"time"

	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/worker"
)

func TestSettingsOfTheSweep(t *testing.T) {
	for name, tc := range map[string]struct {
		env     map[string]string
		orphans runs.OrphanRule
		overdue time.Duration
		timing  worker.Timing
		wrong   string // what the error names
	}{
		"the defaults": {nil, "", 24 * time.Hour, worker.Timing{}, ""},
		"everything set": {map[string]string{
			"PENSTOCK_ORPHANS": "cancel", "PENSTOCK_OVERDUE": "6h", "PENSTOCK_ORPHAN_RECHECK": "3s", "PENSTOCK_SWEEP_GATHER": "250ms",
		}, runs.OrphansCancel, 6 * time.Hour, worker.Timing{OrphanRecheck: 3 * time.Second, Gather: 250 * time.Millisecond}, ""},
		"no run is overdue": {map[string]string{"PENSTOCK_OVERDUE": "off"}, "", 0, worker.Timing{}, ""},
		"no such rule":      {map[string]string{"PENSTOCK_ORPHANS": "shoot"}, "", 0, worker.Timing{}, "PENSTOCK_ORPHANS"},
		"no duration":       {map[string]string{"PENSTOCK_OVERDUE": "soon"}, "", 0, worker.Timing{}, "PENSTOCK_OVERDUE"},
		"a recheck at once": {map[string]string{"PENSTOCK_ORPHAN_RECHECK": "0s"}, "", 0, worker.Timing{}, "PENSTOCK_ORPHAN_RECHECK"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := worker.SettingsFromEnv(func(key string) string { return tc.env[key] })
			if tc.wrong != "" {
				if err == nil || !strings.Contains(err.Error(), tc.wrong) {
					t.Errorf("error %v, want one that names %s", err, tc.wrong)
				}
				return
			}
			if err != nil || s.Orphans != tc.orphans || s.Overdue != tc.overdue || s.Timing != tc.timing {
				t.Errorf("settings %+v, error %v", s, err)
			}
		})
	}
}
