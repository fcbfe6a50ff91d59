package cli

import (
	"context"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"github.com/penstock/penstock/connect"
	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/service"
)

// doctorAnswer is what doctor answers.
type doctorAnswer struct {
	Healthy bool            `json:"healthy"` // no check failed
	Checks  []service.Check `json:"checks"`
}

func (a *app) doctorCommand() *cobra.Command {
	var folder string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check a deployment, and say what to do",
		Long: `Check from here, and with your rights, all that a deployment needs: its configuration,
Temporal with its namespace and search attributes, a worker, the ledger, Dataflow, the
functions.
Nothing is changed. A check that fails makes the exit code 1; a warning does not.`,
		Args: cobra.NoArgs,
	}
	deployment := a.flagDeployment(cmd)
	cmd.Flags().StringVar(&folder, "pipelines", "", "folder of pipelines files (default $PENSTOCK_PIPELINES, else pipelines)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if folder == "" {
			folder = a.pipelinesFolder()
		}
		subject := service.Subject{
			Place: service.Place{
				Deployment: *deployment, Project: a.env.get("GOOGLE_CLOUD_PROJECT"), Location: a.env.get("PENSTOCK_LOCATION"),
			},
			FunctionsURL: a.env.get("PENSTOCK_FUNCTIONS_URL"),
			Dataflow: func(ctx context.Context) (*dataflow.Client, error) {
				return dataflow.New(ctx, dataflow.Options{Endpoint: a.env.get("DATAFLOW_ENDPOINT"), UserAgent: "penstock"})
			},
		}
		if subject.Deployment == "" {
			subject.Deployment = a.env.get("PENSTOCK_DEPLOYMENT")
		}
		if place := a.env.get("PENSTOCK_LEDGER"); place != "" {
			subject.Ledger = func(ctx context.Context) (*ledger.Ledger, error) { return ledger.OpenFrom(ctx, place, a.env.get) }
		}
		subject.Pipelines, subject.Problems = loadPipelines([]string{folder})
		options, err := a.temporal(subject.Deployment)
		subject.Address, subject.Namespace = options.HostPort, options.Namespace
		subject.Dial = func(ctx context.Context) (client.Client, error) {
			if err != nil {
				return nil, err
			}
			return connect.Dial(ctx, options)
		}
		answer := doctorAnswer{Healthy: true, Checks: service.Examine(cmd.Context(), subject)}
		for _, c := range answer.Checks {
			answer.Healthy = answer.Healthy && c.Status != service.StatusFail
		}
		if a.out.json {
			if err := a.out.document(answer); err != nil {
				return err
			}
		} else {
			a.printChecks(answer.Checks)
		}
		if !answer.Healthy {
			return &exitError{code: ExitFailed}
		}
		return nil
	}
	return cmd
}

func (a *app) printChecks(checks []service.Check) {
	colours := map[service.Status]string{service.StatusOK: green, service.StatusWarn: yellow, service.StatusFail: red, service.StatusSkipped: dim}
	for _, c := range checks {
		status := string(c.Status)
		a.out.printf("%s%*s %-18s %s\n", a.out.paint(colours[c.Status], status), len("skipped")-len(status), "", c.Name, clean(c.Detail))
		if c.Do != "" {
			a.out.printf("%26s → %s\n", "", clean(c.Do))
		}
	}
}
