package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/service"
)

// cancelAnswer is what cancel answers.
type cancelAnswer struct {
	Runs []cancelledRun `json:"runs"`
}

// cancelledRun is what became of the cancel of one run.
type cancelledRun struct {
	Ref string `json:"ref"` // as it was asked for
	*service.Cancellation
	Error string `json:"error,omitempty"`
	// End is the run once it was over; with --wait only.
	End *service.Description `json:"end,omitempty"`
}

func (a *app) cancelCommand() *cobra.Command {
	var wait bool
	var reason string
	cmd := &cobra.Command{
		Use:   "cancel RUN...",
		Short: "Cancel runs, and with them their jobs",
		Long: `Ask for runs to be cancelled. Their batch jobs are cancelled, their streaming jobs
drained; a run is over once its jobs are. A run that is over cannot be cancelled.

RUN is as for describe, but for the beginning of a run ID: what could be a whole
PIPELINE/KEY is not taken for one.`,
		Args: cobra.MinimumNArgs(1),
	}
	deployment := a.flagDeployment(cmd)
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the runs are over")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the run's history")
	cmd.RunE = func(cmd *cobra.Command, refs []string) error {
		ctx := cmd.Context()
		s, done, err := a.service(ctx, *deployment)
		if err != nil {
			return err
		}
		defer done()
		answer := cancelAnswer{Runs: []cancelledRun{}}
		failed := 0
		// All are asked for before any is waited for.
		for _, ref := range refs {
			r := cancelledRun{Ref: ref}
			c, err := s.Cancel(ctx, ref, reason)
			if err != nil {
				failed++
				r.Error = err.Error()
			} else {
				r.Cancellation = &c
			}
			a.printCancel(r)
			answer.Runs = append(answer.Runs, r)
		}
		if wait {
			for i := range answer.Runs {
				r := &answer.Runs[i]
				if r.Cancellation == nil {
					continue
				}
				end, err := s.Wait(ctx, r.RunID, r.Execution)
				if err != nil {
					return err
				}
				r.End = &end
				a.printEnd(end)
			}
		}
		if a.out.json {
			if err := a.out.document(answer); err != nil {
				return err
			}
		}
		if failed > 0 {
			return &exitError{ExitFailed, errors.New(count(failed, "run") + " could not be cancelled")}
		}
		return nil
	}
	return cmd
}

func (a *app) printCancel(r cancelledRun) {
	if a.out.json {
		return
	}
	if r.Cancellation == nil {
		fmt.Fprintf(a.std.Err, "%s: %s\n", clean(r.Ref), lines(r.Error))
		return
	}
	a.out.printf("%s: cancel asked for\n", clean(r.RunID))
	for i := range r.Jobs {
		a.out.printf("  job %s %s\n", clean(r.Jobs[i].JobName), clean(r.Jobs[i].Console))
	}
	if len(r.Jobs) == 0 && r.Workflow == "" {
		a.out.printf("  no job is under way\n")
	}
}

func (a *app) printEnd(d service.Description) {
	if a.out.json {
		return
	}
	a.out.printf("%s: %s\n", clean(d.RunID), a.out.paint(outcomeColour(d.Outcome), clean(string(d.Outcome))))
	for _, step := range d.Steps {
		for i := range step.Attempts {
			t := &step.Attempts[i]
			a.out.printf("  job %s: %s", clean(t.JobName), clean(string(t.Outcome)))
			if t.Note != "" {
				a.out.printf(" (%s)", clean(t.Note))
			}
			a.out.printf("\n")
		}
	}
}
