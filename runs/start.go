package runs

import (
	"encoding/json"
	"unicode/utf8"

	"github.com/penstock/penstock/pipeline"
)

// About is what a run's memo tells of it.
type About struct {
	Pipeline, Purpose, Owner, Key, Identity string
	Config                                  pipeline.Version
}

// Memo is the memo that a run is started with.
func Memo(a About) map[string]any {
	return map[string]any{
		MemoIdentity: a.Identity,
		MemoKey:      a.Key,
		MemoPipeline: a.Pipeline,
		MemoConfig:   a.Config,
		MemoPurpose:  a.Purpose,
		MemoOwner:    a.Owner,
	}
}

// TypeOf is the type of the workflow that runs the steps.
func TypeOf(steps []pipeline.PlannedStep) string {
	for i := range steps {
		if steps[i].Job.Streaming {
			return TypeStreamingRun
		}
	}
	return TypeRun
}

// maxSummary is the most bytes of a summary as encoded that the server takes: its limit.userMetadataSummarySize.
const maxSummary = 400

// Summary cuts a purpose to what the server takes as a run's static summary.
func Summary(purpose string) string {
	purpose = cut(purpose, maxSummary)
	for {
		encoded, err := json.Marshal(purpose)
		if err != nil || len(encoded) <= maxSummary {
			return purpose
		}
		purpose = cut(purpose, len(purpose)-max(1, (len(encoded)-maxSummary)/6))
	}
}

// cut shortens valid UTF-8 to at most n bytes.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}
