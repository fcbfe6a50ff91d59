package dataflow_test

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/penstock/penstock/dataflow"
)

func TestState(t *testing.T) {
	const (
		active = iota
		over
		success
	)
	for state, want := range map[dataflow.State]int{
		dataflow.StateUnknown: active, dataflow.StateStopped: active, dataflow.StateQueued: active, dataflow.StatePending: active,
		dataflow.StateRunning: active, dataflow.StatePausing: active, dataflow.StatePaused: active, dataflow.StateDraining: active,
		dataflow.StateCancelling: active, dataflow.StateCleaningUp: active, "JOB_STATE_INVENTED_TOMORROW": active, "": active,
		dataflow.StateFailed: over, dataflow.StateCancelled: over, dataflow.StateDrained: over, dataflow.StateUpdated: over,
		dataflow.StateDone: success,
	} {
		if got := state.Terminal(); got != (want != active) {
			t.Errorf("%q.Terminal() = %v", state, got)
		}
		if got := state.Succeeded(); got != (want == success) {
			t.Errorf("%q.Succeeded() = %v", state, got)
		}
	}
}

func TestParseState(t *testing.T) {
	for in, want := range map[string]dataflow.State{
		"JOB_STATE_DONE": dataflow.StateDone, "DONE": dataflow.StateDone, "": dataflow.StateUnknown, "JOB_STATE_ODD": "JOB_STATE_ODD", "ODD": "JOB_STATE_ODD",
	} {
		if got := dataflow.ParseState(in); got != want {
			t.Errorf("ParseState(%q) = %q, want %q", in, got, want)
		}
	}
	if got := dataflow.StateCleaningUp.Short(); got != "RESOURCE_CLEANING_UP" {
		t.Errorf("Short() = %q", got)
	}
}

func TestNewer(t *testing.T) {
	at := func(second int) time.Time { return time.Date(2026, 11, 22, 6, 0, second, 0, time.UTC) }
	see := func(id string, s dataflow.State, second int) dataflow.Observed {
		return dataflow.Observed{JobID: id, State: s, StateTime: at(second)}
	}
	for name, tt := range map[string]struct {
		known, seen dataflow.Observed
		want        bool
	}{
		"nothing known":                   {dataflow.Observed{}, see("a", dataflow.StatePending, 1), true},
		"nothing seen":                    {dataflow.Observed{}, dataflow.Observed{}, false},
		"later":                           {see("a", dataflow.StatePending, 1), see("a", dataflow.StateRunning, 2), true},
		"late news":                       {see("a", dataflow.StateRunning, 2), see("a", dataflow.StatePending, 1), false},
		"the same again":                  {see("a", dataflow.StateRunning, 2), see("a", dataflow.StateRunning, 2), false},
		"the same instant, further along": {see("a", dataflow.StatePending, 2), see("a", dataflow.StateRunning, 2), true},
		"the same instant, further back":  {see("a", dataflow.StateRunning, 2), see("a", dataflow.StatePending, 2), false},
		"back to running, later":          {see("a", dataflow.StatePaused, 2), see("a", dataflow.StateRunning, 3), true},
		"over":                            {see("a", dataflow.StateRunning, 2), see("a", dataflow.StateDone, 3), true},
		"over, by a time that lies back":  {see("a", dataflow.StateRunning, 2), see("a", dataflow.StateFailed, 1), true},
		"after the end":                   {see("a", dataflow.StateDone, 3), see("a", dataflow.StateRunning, 4), false},
		"another end":                     {see("a", dataflow.StateDone, 3), see("a", dataflow.StateCancelled, 4), false},
		"another job":                     {see("a", dataflow.StateRunning, 2), see("b", dataflow.StateDone, 3), false},
		"an unknown state, later":         {see("a", dataflow.StateRunning, 2), see("a", "JOB_STATE_ODD", 3), true},
		"no time, something known":        {see("a", dataflow.StateRunning, 2), dataflow.Observed{JobID: "a", State: dataflow.StateDraining}, false},
	} {
		if got := dataflow.Newer(tt.known, tt.seen); got != tt.want {
			t.Errorf("%s: Newer(%v, %v) = %v", name, tt.known, tt.seen, got)
		}
	}
}

// Status events come in any order, twice or never: whatever is seen of a history, what is known in the end is the
// latest of what was seen.
func TestNewerInAnyOrder(t *testing.T) {
	var history []dataflow.Observed
	start := time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)
	for i, s := range []dataflow.State{
		dataflow.StateQueued, dataflow.StatePending, dataflow.StateRunning, "JOB_STATE_ODD", dataflow.StateCancelling, dataflow.StateCancelled,
	} {
		history = append(history, dataflow.Observed{JobID: "a", State: s, StateTime: start.Add(time.Duration(i) * time.Minute)})
	}
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		var known dataflow.Observed
		latest := -1
		for range 1 + r.IntN(12) {
			i := r.IntN(len(history))
			latest = max(latest, i)
			if dataflow.Newer(known, history[i]) {
				known = history[i]
			}
		}
		if known != history[latest] {
			t.Fatalf("seed %d: known %v, the latest seen is %v", seed, known, history[latest])
		}
	}
}
