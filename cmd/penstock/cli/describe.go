package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/service"
)

func (a *app) describeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "describe RUN",
		Short: "Show what became of a run, and why",
		Long: `Show a run: its steps, its jobs with their links, what it waits for or why it failed.

RUN is a run ID with or without the deployment before it, the beginning of one that no
other run has, or PIPELINE/KEY. A run that Temporal has forgotten is read from the
ledger that PENSTOCK_LEDGER names; its run ID is to be given in full, or PIPELINE/KEY.`,
		Args: cobra.ExactArgs(1),
	}
	deployment := a.flagDeployment(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		archive := a.ledger(cmd.Context())
		if archive != nil {
			defer func() { _ = archive.Close() }() // only read from
		}
		s, done, err := a.serviceWith(cmd.Context(), *deployment, archive)
		if err != nil {
			return err
		}
		defer done()
		d, err := s.Describe(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		if a.out.json {
			return a.out.document(d)
		}
		a.printDescription(d, time.Now())
		return nil
	}
	return cmd
}

func (a *app) printDescription(d service.Description, now time.Time) {
	a.field("", "run", d.RunID)
	a.field("", "pipeline", d.Pipeline)
	a.field("", "purpose", d.Purpose)
	a.field("", "owner", d.Owner)
	a.field("", "key", d.Key)
	if d.Identity != d.Key {
		a.field("", "started by", d.Identity)
	}
	a.painted("", "outcome", outcomeColour(d.Outcome), string(d.Outcome))
	a.painted("", "error", red, d.Error)
	a.field("", "begun", moment(d.Begun))
	if !d.Ended.IsZero() {
		a.field("", "ended", moment(d.Ended))
	}
	a.field("", "duration", took(d.Duration(now)))
	if d.Config.Hash != "" {
		config := d.Config.Hash[:min(len(d.Config.Hash), 12)]
		if !d.Config.ChangedAt.IsZero() {
			config += ", of " + moment(d.Config.ChangedAt)
		}
		if d.Config.ChangedBy != "" {
			config += ", by " + d.Config.ChangedBy
		}
		a.field("", "config", config)
	}
	if d.Source == service.SourceLedger {
		a.field("", "source", "the ledger: Temporal has forgotten it")
	}
	a.field("", "workflow", d.Workflow)
	a.field("", "execution", d.Execution)
	a.field("", "temporal", d.Link)
	for _, w := range d.Waits {
		a.painted("", "waits for", yellow, w)
	}
	for _, c := range d.Cancels {
		text := "asked for at " + moment(c.Time)
		if c.By != "" {
			text += " by " + c.By
		}
		if c.Reason != "" {
			text += ": " + c.Reason
		}
		a.field("", "cancel", text)
	}
	for _, n := range d.Notes {
		a.field("", "note", n)
	}
	for i := range d.Steps {
		a.printStep(&d.Steps[i], now)
	}
	if d.First != nil {
		a.out.printf("\n%s\n\n", a.out.paint(bold, "the run that has the key, as the ledger has it"))
		a.printDescription(*d.First, now)
	}
}

func (a *app) printStep(s *service.Step, now time.Time) {
	a.out.printf("\nstep %s  %s\n", a.out.paint(bold, clean(s.Name)), a.out.paint(outcomeColour(s.Outcome), clean(string(s.Outcome))))
	if !s.Outcome.Over() {
		a.field("  ", "waits for", s.Waiting)
	}
	if len(s.Attempts) == 0 || s.Attempts[len(s.Attempts)-1].Error != s.Error {
		a.painted("  ", "error", red, s.Error)
	}
	for i := range s.Attempts {
		a.printAttempt(&s.Attempts[i], now)
	}
}

func (a *app) printAttempt(t *service.Attempt, now time.Time) {
	text := string(t.Outcome)
	if t.State != "" {
		text += ", " + strings.TrimPrefix(t.State, "JOB_STATE_")
	}
	if end := t.Ended; !t.Begun.IsZero() {
		if end.IsZero() {
			end = now
		}
		text += ", " + took(max(end.Sub(t.Begun), 0))
	}
	a.out.printf("  attempt %d  %s\n", t.Attempt, a.out.paint(outcomeColour(t.Outcome), clean(text)))
	a.field("    ", "job", t.JobName)
	a.field("    ", "job ID", t.JobID)
	a.field("    ", "dataflow", t.Console)
	a.field("    ", "temporal", t.Link)
	a.painted("    ", "error", red, t.Error)
	if t.Refusal != "" {
		a.field("    ", "refused as", t.Refusal)
	}
	a.field("    ", "note", t.Note)
	if t.Adopted {
		a.field("    ", "note", "the job was found, not launched, by its workflow")
	}
	metrics := make([]string, 0, len(t.Metrics))
	for _, name := range slices.Sorted(maps.Keys(t.Metrics)) {
		metrics = append(metrics, fmt.Sprintf("%s=%d", name, t.Metrics[name]))
	}
	a.field("    ", "metrics", strings.Join(metrics, " "))
}

// field writes a named value, which may have several lines. An empty one is not written.
func (a *app) field(indent, name, value string) { a.painted(indent, name, "", value) }

func (a *app) painted(indent, name, colour, value string) {
	if value == "" {
		return
	}
	const width = 11
	for i, line := range strings.Split(lines(strings.TrimRight(value, "\n")), "\n") {
		if i > 0 {
			name = ""
		}
		a.out.printf("%s%s%s\n", indent, a.out.paint(dim, fmt.Sprintf("%-*s", width, name)), a.out.paint(colour, line))
	}
}
