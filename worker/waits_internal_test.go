package worker

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"testing"
	"time"
)

func TestTheLogTellsHowLongTasksWaited(t *testing.T) {
	var out bytes.Buffer
	w := newWaits("dev", slog.New(slog.NewJSONHandler(&out, nil)))
	record := func(timer string, waits ...time.Duration) {
		for _, d := range waits {
			w.WithTags(map[string]string{"activity_type": "Any"}).Timer(timer).Record(d)
		}
	}
	told := func() (lines []map[string]any) {
		out.Reset()
		w.tell()
		for line := range bytes.Lines(out.Bytes()) {
			var fields map[string]any
			if err := json.Unmarshal(line, &fields); err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fields)
		}
		return lines
	}

	record("temporal_activity_schedule_to_start_latency", 20*time.Millisecond, 90*time.Second, -time.Millisecond)
	record("temporal_activity_execution_latency", time.Hour)
	w.Counter("temporal_request").Inc(1)
	w.Gauge("temporal_num_pollers").Update(1)
	lines := told()
	if len(lines) != 1 || lines[0]["taskKind"] != "activity" || lines[0]["tasks"] != 3.0 || lines[0]["longestWaitSeconds"] != 90.0 || lines[0]["deployment"] != "dev" {
		t.Errorf("told %v", lines)
	}

	record("temporal_workflow_task_schedule_to_start_latency", time.Second)
	if lines := told(); len(lines) != 1 || lines[0]["taskKind"] != "workflow" || lines[0]["longestWaitSeconds"] != 1.0 {
		t.Errorf("then told %v, want of what came since alone", lines)
	}
	if lines := told(); lines != nil {
		t.Errorf("told %v of no tasks", lines)
	}
}
