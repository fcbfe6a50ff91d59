package cli

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/penstock/penstock/connect"
	"github.com/penstock/penstock/service"
)

// flagState adds the flag that says where the deployment's state lies.
func (a *app) flagState(cmd *cobra.Command, place *string) {
	cmd.Flags().StringVar(place, "state", "", "where the deployment's state lies: gs://BUCKET/PREFIX or a folder (default $PENSTOCK_STATE)")
}

// flagDeploymentName adds the flag that names the worker deployment.
func (a *app) flagDeploymentName(cmd *cobra.Command, name *string) {
	cmd.Flags().StringVar(name, "deployment-name", "", "Temporal's name of the worker deployment (default penstock-DEPLOYMENT)")
}

// state opens the deployment's state. The caller closes it.
func (a *app) state(ctx context.Context, place, deployment string) (*service.State, error) {
	deployment, err := a.deployment(deployment)
	if err != nil {
		return nil, err
	}
	if place = cmp.Or(place, a.env.get("PENSTOCK_STATE")); place == "" {
		return nil, usage("where does the deployment's state lie? Set PENSTOCK_STATE or --state to gs://BUCKET/PREFIX, or to a folder")
	}
	return service.OpenState(ctx, place, deployment, a.env.get)
}

// deploymentName is the flag's value, or what terraform calls the worker deployment.
func (a *app) deploymentName(flag, deployment string) string {
	return cmp.Or(flag, "penstock-"+cmp.Or(deployment, a.env.get("PENSTOCK_DEPLOYMENT")))
}

// by is who asks, for records.
func (a *app) by(deployment string) string {
	return connect.Identity("cli", cmp.Or(deployment, a.env.get("PENSTOCK_DEPLOYMENT"))) + who()
}

func (a *app) buildsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "builds",
		Short: "The builds of the worker that are alive",
		Long: `The builds of the worker that are alive: deployed, or kept because runs are pinned to them or
one may have to go back to them. The list lies in the deployment's state; scripts/deploy adds
to it, and terraform makes a pool for each of a serverless worker's.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.buildsListCommand(), a.buildsAddCommand(), a.buildsPruneCommand())
	return cmd
}

// buildsAnswer is what builds list answers.
type buildsAnswer struct {
	Builds []service.Build `json:"builds"` // the newest first
}

// tfvars is what terraform/variables.tf wants to know of live builds.
type tfvars struct {
	Builds map[string]tfvarsBuild `json:"builds"`
}

type tfvarsBuild struct {
	Image string `json:"image"`
}

func (a *app) buildsListCommand() *cobra.Command {
	var place, only string
	var variables bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the live builds",
		Long: `List the live builds, the newest first.

--tfvars writes them as terraform's variable builds, for a file such as builds.auto.tfvars.json;
with --build just that one, as a fixed worker has only one.`,
		Args: cobra.NoArgs,
	}
	deployment := a.flagDeployment(cmd)
	a.flagState(cmd, &place)
	cmd.Flags().BoolVar(&variables, "tfvars", false, "write them as terraform's variables, whatever the output")
	cmd.Flags().StringVar(&only, "build", "", "only this one")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		state, err := a.state(cmd.Context(), place, *deployment)
		if err != nil {
			return err
		}
		defer func() { _ = state.Close() }() // only read from
		all, err := state.Builds(cmd.Context())
		if err != nil {
			return err
		}
		answer, vars := buildsAnswer{Builds: []service.Build{}}, tfvars{Builds: map[string]tfvarsBuild{}}
		for _, b := range all {
			if only != "" && b.ID != only {
				continue
			}
			answer.Builds = append(answer.Builds, b)
			vars.Builds[b.ID] = tfvarsBuild{b.Image}
		}
		switch {
		case only != "" && len(answer.Builds) == 0:
			return errors.New("build " + only + " is not among the live builds")
		case variables:
			return a.out.document(vars)
		case a.out.json:
			return a.out.document(answer)
		}
		rows := make([][]string, len(answer.Builds))
		for i, b := range answer.Builds {
			rows[i] = []string{b.ID, b.Created.Local().Format(time.DateTime), b.Pool, b.Image, b.By}
		}
		a.out.table([]column{{title: "BUILD"}, {title: "ADDED"}, {title: "POOL"}, {title: "IMAGE", shrink: true}, {title: "BY", shrink: true}}, rows)
		return nil
	}
	return cmd
}

// addedAnswer is what builds add answers.
type addedAnswer struct {
	Build string `json:"build"`
	// Added says that it was not there before.
	Added bool `json:"added"`
}

func (a *app) buildsAddCommand() *cobra.Command {
	var place string
	var b service.Build
	cmd := &cobra.Command{
		Use:   "add BUILD --image IMAGE",
		Short: "Add a live build",
		Long: `Add a live build, before it is deployed. It may be repeated; a build that is there with another
image is refused, as runs may be pinned to it.`,
		Args: cobra.ExactArgs(1),
	}
	deployment := a.flagDeployment(cmd)
	a.flagState(cmd, &place)
	cmd.Flags().StringVar(&b.Image, "image", "", "its container image, by digest: REGISTRY/REPOSITORY@sha256:…")
	cmd.Flags().StringVar(&b.Pool, "pool", "", "the worker pool that is its own, to be checked by setup")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if b.Image == "" {
			return usage("which image is it? Give --image, by digest: scripts/build-image prints it")
		}
		state, err := a.state(cmd.Context(), place, *deployment)
		if err != nil {
			return err
		}
		defer func() { _ = state.Close() }() // what it wrote is durable
		b.ID, b.Created, b.By = args[0], time.Now().UTC().Truncate(time.Second), a.by(*deployment)
		before, err := state.AddBuild(cmd.Context(), b)
		if err != nil {
			return err
		}
		if a.out.json {
			return a.out.document(addedAnswer{b.ID, !before})
		}
		if before {
			a.out.printf("%s was there before\n", clean(b.ID))
		} else {
			a.out.printf("%s added\n", clean(b.ID))
		}
		return nil
	}
	return cmd
}

// prunedAnswer is what builds prune answers.
type prunedAnswer struct {
	DryRun bool             `json:"dryRun"`
	Builds []service.Pruned `json:"builds"`
}

func (a *app) buildsPruneCommand() *cobra.Command {
	var place string
	var o service.PruneOptions
	cmd := &cobra.Command{
		Use:   "prune [BUILD...]",
		Short: "Remove the builds that no run needs any more",
		Long: `Remove the live builds whose versions are drained, as Temporal says: no run is pinned to them.
The one that is current stays, and by default the one that was so before. terraform deletes
the pools of serverless builds that are gone. Temporal may take some minutes to say so.

A build that was never current goes only if it is named.`,
	}
	deployment := a.flagDeployment(cmd)
	a.flagState(cmd, &place)
	a.flagDeploymentName(cmd, &o.DeploymentName)
	cmd.Flags().IntVar(&o.Keep, "keep", 1, "how many of the builds that were current before stay, to go back to")
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		if o.Keep < 0 {
			return usage("--keep is %d: it is how many stay", o.Keep)
		}
		var err error
		if o.State, err = a.state(ctx, place, *deployment); err != nil {
			return err
		}
		defer func() { _ = o.State.Close() }() // what it wrote is durable
		o.Builds, o.By, o.DeploymentName = args, a.by(*deployment), a.deploymentName(o.DeploymentName, *deployment)
		s, done, err := a.service(ctx, *deployment)
		if err != nil {
			return err
		}
		defer done()
		pruned, failure := s.PruneBuilds(ctx, o)
		if a.out.json {
			return errors.Join(a.out.document(prunedAnswer{o.DryRun, pruned}), failure)
		}
		rows := make([][]string, len(pruned))
		for i, p := range pruned {
			what := "stays"
			if p.Removed {
				what = "removed"
				if o.DryRun {
					what = "would go"
				}
			}
			rows[i] = []string{p.Build, what, p.Status, p.Reason}
		}
		a.out.table([]column{{title: "BUILD"}, {title: ""}, {title: "STATUS"}, {title: "WHY", shrink: true}}, rows)
		return failure
	}
	return cmd
}
