package cli

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/service"
)

// sweepAnswer is what sweep answers.
type sweepAnswer struct {
	Sweeps []service.Sweep `json:"sweeps"`
}

func (a *app) sweepCommand() *cobra.Command {
	var wait bool
	var folder, project string
	var locations []string
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Have the jobs looked at that nobody may be watching",
		Long: `Ask for a sweep of each location that jobs of the pipelines run in. It lists the active jobs,
tells their workflows what changed, and finds orphans, which nobody watches any more, and
runs that are overdue. It runs by itself once a day, and whenever jobs are overdue for news.

--wait waits for what it finds. A job that looks like an orphan is looked at again after
ten minutes, so that may take as long.`,
		Args: cobra.NoArgs,
	}
	deployment := a.flagDeployment(cmd)
	flags := cmd.Flags()
	flags.BoolVar(&wait, "wait", false, "wait until the sweeps are over, and show what they found")
	flags.StringVar(&project, "project", "", "project of the jobs (default $GOOGLE_CLOUD_PROJECT)")
	flags.StringSliceVar(&locations, "location", nil, "sweep these (default those of the pipelines files, and $PENSTOCK_LOCATION)")
	flags.StringVar(&folder, "pipelines", "", "folder of pipelines files (default $PENSTOCK_PIPELINES, else pipelines)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if project = cmp.Or(project, a.env.get("GOOGLE_CLOUD_PROJECT")); project == "" {
			return usage("whose jobs? Set GOOGLE_CLOUD_PROJECT or --project to the project's ID")
		}
		if len(locations) == 0 {
			set, problems := loadPipelines([]string{cmp.Or(folder, a.pipelinesFolder())})
			if problems.HasErrors() {
				return &exitError{ExitInvalid, fmt.Errorf("a pipelines file is invalid, so where its jobs run is not known: %w (--location names a place)", problems)}
			}
			locations = service.Locations(set, a.env.get("PENSTOCK_LOCATION"))
		}
		if len(locations) == 0 {
			return usage("jobs of which location? Set PENSTOCK_LOCATION or --location")
		}
		s, done, err := a.service(ctx, *deployment)
		if err != nil {
			return err
		}
		defer done()
		answer := sweepAnswer{Sweeps: []service.Sweep{}}
		var errs []error
		// All are asked for before any is waited for.
		for _, location := range locations {
			w, err := s.AskForSweep(ctx, project, location)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			answer.Sweeps = append(answer.Sweeps, w)
		}
		for i := range answer.Sweeps {
			w := &answer.Sweeps[i]
			if wait {
				if err := s.AwaitSweep(ctx, w); err != nil {
					errs = append(errs, err)
				}
			}
			a.printSweep(w)
		}
		if a.out.json {
			errs = append(errs, a.out.document(answer))
		}
		return errors.Join(errs...)
	}
	return cmd
}

func (a *app) printSweep(w *service.Sweep) {
	if a.out.json {
		return
	}
	if w.Result == nil {
		a.out.printf("%s: asked for\n", clean(w.WorkflowID))
		return
	}
	r := w.Result
	a.out.printf("%s: %s, %d of them of this deployment's names; %d told what changed\n", clean(w.WorkflowID), count(r.Seen, "active job"), r.Ours, r.Signalled)
	for i := range r.Orphans {
		o := &r.Orphans[i]
		a.painted("  ", "orphan", red, o.JobName+" ("+o.JobID+"), "+strings.ToLower(strings.TrimPrefix(o.State, "JOB_STATE_"))+": its workflow is "+o.Workflow+", its run "+strings.TrimSpace(o.Run+" "+o.RunID))
		a.field("  ", "", strings.TrimSuffix(strings.TrimPrefix(o.Done+": "+o.Note, ": "), ": "))
	}
	if more := r.OrphanCount - len(r.Orphans); more > 0 {
		a.out.printf("  and %s more\n", count(more, "orphan"))
	}
	for _, run := range r.Overdue {
		a.painted("  ", "overdue", yellow, run.RunID+", since "+took(time.Since(run.Begun)))
	}
	if r.OverdueMore {
		a.out.printf("  and more overdue runs\n")
	}
	if r.OrphanCount == 0 && len(r.Overdue) == 0 {
		a.out.printf("  no orphans, no overdue runs\n")
	}
	if r.Unseen > 0 {
		a.out.printf("  %s left to the next sweep\n", count(r.Unseen, "job"))
	}
	a.painted("  ", "trouble", red, r.Error)
}
