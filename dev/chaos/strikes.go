package chaos

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/penstock/penstock/dev/faults"
)

// strikes are the lines that the fault lab has logged so far, in the order of time.
func (b *Bench) strikes() ([]faults.Injected, error) {
	logs, err := filepath.Glob(filepath.Join(b.Folder, "state", "logs", "*faults.jsonl"))
	if err != nil {
		return nil, fmt.Errorf("find the logs of faults: %w", err)
	}
	var all []faults.Injected
	for _, file := range logs {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read the log of faults: %w", err)
		}
		for line := range bytes.Lines(text) {
			var i faults.Injected
			// The last line may be half of one, which is being written or was cut off by a kill.
			if json.Unmarshal(line, &i) == nil {
				all = append(all, i)
			}
		}
	}
	slices.SortStableFunc(all, func(x, y faults.Injected) int { return x.Time.Compare(y.Time) })
	return all, nil
}

// struck are how many different jobs, or objects, a rule struck since then.
func struck(strikes []faults.Injected, rule string, since time.Time) int {
	subjects := map[string]bool{}
	for _, s := range strikes {
		if s.Rule == rule && !s.Time.Before(since) {
			subjects[s.Job+s.Subject] = true
		}
	}
	return len(subjects)
}

// jobsOf is a rule's pattern for the jobs of a pipelineOf.
func jobsOf(pipeline string) string { return Deployment + "-" + pipeline + "-" + only + "-*" }
