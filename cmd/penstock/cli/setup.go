package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/service"
)

// defaultUp is how long a worker may take to come up: its image is pulled, and Temporal is reached.
const defaultUp = 10 * time.Minute

func (a *app) setupCommand() *cobra.Command {
	var o service.SetupOptions
	var scaling, state string
	var check bool
	cmd := &cobra.Command{
		Use:   "setup --build BUILD",
		Short: "Prepare Temporal for a build of the worker, and make it current once it polls",
		Long: `Prepare Temporal for a build of the worker that has just been deployed, and make the build
current once its worker has come up. scripts/deploy calls it; it may be repeated.

It writes down where the deployment lives, and refuses an ID that lives elsewhere in the
project; registers the search attributes where that is allowed; sees that the build is
among the live ones (penstock builds); registers serverless workers with the pool that
Temporal is to resize; waits until the worker polls; makes the build current.

--check only sees, by what was written down, that the deployment lives nowhere else: it asks
neither Temporal nor changes anything, so scripts/deploy does it before it applies a plan.`,
		Args: cobra.NoArgs,
	}
	deployment := a.flagDeployment(cmd)
	a.flagState(cmd, &state)
	a.flagDeploymentName(cmd, &o.DeploymentName)
	flags := cmd.Flags()
	flags.StringVar(&o.Build, "build", "", "build ID of the worker")
	flags.BoolVar(&check, "check", false, "only see that the ID lives nowhere else in the project")
	flags.StringVar(&scaling, "scaling", string(service.ScalingFixed), "fixed (one pool) or serverless (a pool for each build, which Temporal resizes)")
	flags.StringVar(&o.Project, "project", "", "project of the jobs (default $GOOGLE_CLOUD_PROJECT)")
	flags.StringVar(&o.Compute.Project, "pool-project", "", "serverless: project of the pool (default --project)")
	flags.StringVar(&o.Compute.Region, "region", "", "serverless: region of the pool")
	flags.StringVar(&o.Compute.Pool, "pool", "", "serverless: the build's worker pool")
	flags.StringVar(&o.Compute.Invoker, "invoker", "", "serverless: email of the account that Temporal resizes the pool as")
	flags.IntVar(&o.Compute.Min, "min", 0, "serverless: least instances")
	flags.IntVar(&o.Compute.Max, "max", 0, "serverless: most instances (default Temporal's)")
	flags.DurationVar(&o.Timeout, "timeout", defaultUp, "how long the worker may take to come up")
	if err := cmd.RegisterFlagCompletionFunc("scaling", cobra.FixedCompletions([]string{string(service.ScalingFixed), string(service.ScalingServerless)}, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is defined above
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if check {
			return a.checkHome(ctx, state, *deployment, o.Project)
		}
		if o.Build == "" {
			return usage("which build? Give --build, the worker's TEMPORAL_WORKER_BUILD_ID")
		}
		o.Scaling, o.By, o.Progress = service.Scaling(scaling), a.by(*deployment), a.progress
		if o.Project = cmp.Or(o.Project, a.env.get("GOOGLE_CLOUD_PROJECT")); o.Project == "" {
			return usage("whose jobs? Set GOOGLE_CLOUD_PROJECT or --project to the project's ID")
		}
		o.Compute.Project = cmp.Or(o.Compute.Project, o.Project)
		if err := o.Check(); err != nil {
			return usage("%w", err)
		}
		var err error
		if o.State, err = a.state(ctx, state, *deployment); err != nil {
			return err
		}
		defer func() { _ = o.State.Close() }() // all that it wrote is durable
		o.DeploymentName = a.deploymentName(o.DeploymentName, *deployment)
		s, done, err := a.service(ctx, *deployment)
		if err != nil {
			return err
		}
		defer done()
		answer, failure := s.Setup(ctx, o)
		if a.out.json {
			return errors.Join(a.out.document(answer), failure)
		}
		a.printSteps(answer.Steps)
		return failure
	}
	return cmd
}

// checkHome says where the deployment lives, and fails where that is not the project and namespace of the environment.
func (a *app) checkHome(ctx context.Context, place, deployment, project string) error {
	if project = cmp.Or(project, a.env.get("GOOGLE_CLOUD_PROJECT")); project == "" {
		return usage("whose jobs? Set GOOGLE_CLOUD_PROJECT or --project to the project's ID")
	}
	namespace := a.env.get("TEMPORAL_NAMESPACE")
	if namespace == "" {
		return usage("which namespace? Set TEMPORAL_NAMESPACE to the one that the deployment is to use")
	}
	state, err := a.state(ctx, place, deployment)
	if err != nil {
		return err
	}
	defer func() { _ = state.Close() }() // only read from
	step := service.SetupStep{Name: "home", Result: service.StepFound, Detail: "lives nowhere yet"}
	there, failure := state.Lives(ctx, project, namespace)
	switch {
	case failure != nil:
		step.Result, step.Detail = service.StepFailed, failure.Error()
	case there:
		step.Detail = "lives in project " + project + ", namespace " + namespace
	}
	if a.out.json {
		answer := service.Setup{Deployment: cmp.Or(deployment, a.env.get("PENSTOCK_DEPLOYMENT")), Steps: []service.SetupStep{step}}
		return errors.Join(a.out.document(answer), failure)
	}
	if failure == nil {
		a.printSteps([]service.SetupStep{step})
	}
	return failure
}

func (a *app) printSteps(steps []service.SetupStep) {
	colours := map[service.StepResult]string{service.StepDone: green, service.StepFound: green, service.StepRefused: yellow, service.StepFailed: red}
	for _, step := range steps {
		result := string(step.Result)
		a.out.printf("%s%*s %-18s %s\n", a.out.paint(colours[step.Result], result), len("refused")-len(result), "", step.Name, clean(step.Detail))
		if step.Do != "" {
			a.out.printf("%26s → %s\n", "", clean(step.Do))
		}
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	var o service.RollbackOptions
	var state string
	cmd := &cobra.Command{
		Use:   "rollback [--to BUILD]",
		Short: "Make the build of the worker current that was so before",
		Long: `Make a build of the worker current that was so before: without --to the one before the
present one, so that a second rollback goes forward again.

A serverless build has its pool still, which Temporal wakes. A fixed one must have been
deployed again, and is waited for, as nothing would go on while nobody polls; the command
that deploys it is shown. Open runs that may move go on with it; those that are pinned end
on their own build, which stays until it is drained. docs/upgrades.md says what cannot go
back.`,
		Args: cobra.NoArgs,
	}
	deployment := a.flagDeployment(cmd)
	a.flagState(cmd, &state)
	a.flagDeploymentName(cmd, &o.DeploymentName)
	cmd.Flags().StringVar(&o.To, "to", "", "the build to go back to (default the one that was current before)")
	cmd.Flags().DurationVar(&o.Timeout, "timeout", defaultUp, "how long a fixed worker of the build may take to come up")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx := cmd.Context()
		if o.To != "" {
			if err := service.CheckBuild(o.To); err != nil {
				return usage("%w", err)
			}
		}
		if o.Timeout <= 0 {
			return usage("the timeout is %s: give the worker time to come up, such as 10m", o.Timeout)
		}
		o.By, o.Progress = a.by(*deployment), a.progress
		o.DeployCommand = func(b service.Build) string { return "scripts/deploy --build " + b.ID + " (" + b.Image + ")" }
		var err error
		if o.State, err = a.state(ctx, state, *deployment); err != nil {
			return err
		}
		defer func() { _ = o.State.Close() }() // only read from
		o.DeploymentName = a.deploymentName(o.DeploymentName, *deployment)
		s, done, err := a.service(ctx, *deployment)
		if err != nil {
			return err
		}
		defer done()
		answer, err := s.Rollback(ctx, o)
		if err != nil {
			return err
		}
		if a.out.json {
			return a.out.document(answer)
		}
		a.printRollback(&answer)
		return nil
	}
	return cmd
}

func (a *app) printRollback(r *service.Rollback) {
	if r.Previous == r.Current {
		a.out.printf("%s was current already\n", clean(r.Current))
	} else {
		a.out.printf("%s is current; before it was %s\n", clean(r.Current), clean(cmp.Or(r.Previous, "none")))
	}
	a.field("", "image", r.Image)
	a.field("", "pool", r.Pool)
	if !r.Spread {
		a.out.printf("not all task queues know it yet: tasks of those wait, or go to the build before\n")
	}
	rows := make([][]string, len(r.Builds))
	for i, b := range r.Builds {
		rows[i] = []string{b.Build, b.Status, fmt.Sprint(b.Pinned), fmt.Sprint(b.Moving), cmp.Or(b.Error, b.Fate)}
	}
	a.out.table([]column{{title: "BUILD"}, {title: "STATUS"}, {title: "PINNED"}, {title: "MOVING"}, {title: "OPEN WORKFLOWS", shrink: true}}, rows)
}

// progress tells on standard error what is waited for.
func (a *app) progress(text string) { fmt.Fprintln(a.std.Err, "waiting: "+clean(text)) }
