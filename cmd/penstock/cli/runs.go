package cli

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/runs"
	"github.com/penstock/penstock/service"
)

func (a *app) runsCommand() *cobra.Command {
	var f service.Filter
	var outcomes []string
	var since, until string
	cmd := &cobra.Command{
		Use:   "runs",
		Short: "List runs",
		Long: `List runs, the newest first. What was started this very moment may not be listed yet.

A time is 2026-11-22, 2026-11-22T15:04:05Z, or an age such as 90m, 36h or 7d.`,
		Example: "  penstock runs --pipeline orders --outcome failed --since 7d",
		Args:    cobra.NoArgs,
	}
	deployment := a.flagDeployment(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.Pipeline, "pipeline", "p", "", "runs of this pipeline")
	flags.StringSliceVar(&outcomes, "outcome", nil, fmt.Sprintf("runs that ended so, or are running: %s", join(service.Outcomes(), ", ")))
	flags.StringVar(&since, "since", "", "runs begun then or later")
	flags.StringVar(&until, "until", "", "runs begun before then")
	flags.IntVarP(&f.Limit, "limit", "n", 50, "at most so many")
	if err := cmd.RegisterFlagCompletionFunc("outcome", cobra.FixedCompletions(strings.Split(join(service.Outcomes(), ","), ","), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		now := time.Now()
		var err error
		if f.Since, err = parseTime(since, now); err != nil {
			return usage("--since: %w", err)
		}
		if f.Until, err = parseTime(until, now); err != nil {
			return usage("--until: %w", err)
		}
		for _, o := range outcomes {
			f.Outcomes = append(f.Outcomes, runs.Outcome(o))
		}
		if f.Limit < 1 {
			return usage("--limit is %d: it is 1 at least", f.Limit)
		}
		if err := f.Check(); err != nil {
			return usage("%w", err)
		}
		s, done, err := a.service(cmd.Context(), *deployment)
		if err != nil {
			return err
		}
		defer done()
		listing, err := s.List(cmd.Context(), f)
		if err != nil {
			return err
		}
		if a.out.json {
			return a.out.document(listing)
		}
		a.printRuns(listing, now)
		return nil
	}
	return cmd
}

func (a *app) printRuns(listing service.Listing, now time.Time) {
	if len(listing.Runs) == 0 {
		fmt.Fprintln(a.std.Err, "no runs")
		return
	}
	rows := make([][]string, len(listing.Runs))
	for i, r := range listing.Runs {
		rows[i] = []string{r.Pipeline, r.Key, string(r.Outcome), moment(r.Begun), took(r.Duration(now)), r.RunID}
	}
	a.out.table([]column{
		{title: "PIPELINE"},
		{title: "KEY", shrink: true},
		{title: "OUTCOME", paint: func(cell string) string { return outcomeColour(runs.Outcome(cell)) }},
		{title: "BEGUN"},
		{title: "DURATION"},
		{title: "RUN", shrink: true},
	}, rows)
	if listing.More {
		fmt.Fprintln(a.std.Err, "there are more: raise --limit, or narrow the search")
	}
}

func outcomeColour(o runs.Outcome) string {
	switch o {
	case runs.OutcomeSucceeded:
		return green
	case runs.OutcomeFailed, runs.OutcomeTimedOut, service.Terminated:
		return red
	case runs.OutcomeRunning, runs.OutcomeCancelled, runs.OutcomeDuplicate, runs.OutcomeKeyTaken:
		return yellow
	}
	return dim
}

// moment is a time for people, in their own zone.
func moment(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// took is a duration to the precision that somebody wants to know.
func took(d time.Duration) string {
	switch {
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d < 24*time.Hour:
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%dd%s", d/(24*time.Hour), (d % (24 * time.Hour)).Round(time.Minute).String())
}

// parseTime reads a time or an age; empty is the zero time.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		return t, nil
	}
	for _, layout := range []string{"2006-01-02", "2006-01-02T15:04", "2006-01-02 15:04"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	return time.Time{}, fmt.Errorf("%q is neither a time such as 2026-11-22 or 2026-11-22T15:04:05Z nor an age such as 90m or 7d", s)
}

func join[T ~string](list []T, by string) string {
	parts := make([]string, len(list))
	for i, v := range list {
		parts[i] = string(v)
	}
	return strings.Join(parts, by)
}
