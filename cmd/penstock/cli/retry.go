package cli

import (
	"cmp"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/events"
	"github.com/penstock/penstock/service"
)

func (a *app) retryCommand() *cobra.Command {
	var q service.RetryRequest
	var folder, file, topic string
	cmd := &cobra.Command{
		Use:   "retry RUN",
		Short: "Run a failed or cancelled run again",
		Long: `Run a failed, cancelled or terminated run again, under the same run ID. Finished steps
are not run again, and attempt numbers go on. An attempt whose job is not known to be
over goes on under its own name: if there is a job, it is taken up.

The run and the workflows of all its jobs must be closed; what is open is named.

It runs by the current pipelines file, or with --same-config as it was. A file that has
changed since is filled in from the event again. Runs of object changes keep theirs; of
others it is taken from --event, in the forms that explain takes.

RUN is as for describe, but for the beginning of a run ID: what could be a whole
PIPELINE/KEY is not taken for one.`,
		Example: "  penstock retry orders/eu --from load",
		Args:    cobra.ExactArgs(1),
	}
	deployment := a.flagDeployment(cmd)
	flags := cmd.Flags()
	flags.StringVar(&q.From, "from", "", "begin again at this step though it is finished: it and all that need it")
	flags.BoolVar(&q.SameConfig, "same-config", false, "by the version of the pipelines file that the run had")
	flags.BoolVar(&q.Wait, "wait", false, "wait until what is open has ended, then retry")
	flags.StringVar(&folder, "pipelines", "", "folder of pipelines files (default $PENSTOCK_PIPELINES, else pipelines)")
	flags.StringVar(&file, "event", "", "file with the event that started the run, or - for standard input")
	flags.StringVar(&topic, "topic", "", "topic of a Pub/Sub push envelope in --event, as projects/P/topics/T")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if q.SameConfig && (file != "" || folder != "") {
			return usage("--same-config runs the run as it was: it takes neither --pipelines nor --event")
		}
		if !q.SameConfig {
			set, problems := loadPipelines([]string{cmp.Or(folder, a.pipelinesFolder())})
			if problems.HasErrors() {
				return &exitError{ExitInvalid, fmt.Errorf("a pipelines file is invalid: %w (--same-config runs the run as it was)", problems)}
			}
			q.Pipelines = set
		}
		if file != "" {
			e, err := a.readEvent(file, topic)
			if err != nil {
				return err
			}
			q.Event = e
		}
		archive := a.ledger(cmd.Context())
		if archive != nil {
			defer func() { _ = archive.Close() }() // only read from
		}
		s, done, err := a.serviceWith(cmd.Context(), *deployment, archive)
		if err != nil {
			return err
		}
		defer done()
		r, err := s.Retry(cmd.Context(), args[0], q)
		if err != nil {
			return err
		}
		if a.out.json {
			return a.out.document(r)
		}
		a.printRetried(r)
		return nil
	}
	return cmd
}

// readEvent reads an event in one of the forms that events.FromJSON takes.
func (a *app) readEvent(file, topic string) (*events.Event, error) {
	src, err := a.readEventFile(file)
	if err != nil {
		return nil, err
	}
	e, err := events.FromJSON(src, topic)
	if err != nil {
		return nil, fmt.Errorf("%s holds no event: %w", file, err)
	}
	return e, nil
}

func (a *app) printRetried(r service.Retried) {
	a.out.printf("%s: runs again\n", clean(r.RunID))
	for _, s := range r.Steps {
		text := fmt.Sprintf("runs, attempt %d", s.Attempt)
		colour := green
		switch s.Action {
		case service.StepKept:
			text, colour = "is finished, and kept", dim
		case service.StepContinues:
			text = fmt.Sprintf("attempt %d goes on", s.Attempt)
		case "":
			continue // a note says why it is not known
		}
		a.out.printf("  %s %s\n", clean(s.Name), a.out.paint(colour, text))
	}
	for _, n := range r.Notes {
		a.field("  ", "note", n)
	}
}
