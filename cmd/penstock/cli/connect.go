package cli

import (
	"context"
	"fmt"
	"os/user"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/connect"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/service"
)

// flagDeployment adds the flag that names the deployment.
func (a *app) flagDeployment(cmd *cobra.Command) *string {
	return cmd.Flags().String("deployment", "", "deployment ID (default $PENSTOCK_DEPLOYMENT)")
}

// deployment is the flag's value, or the environment's.
func (a *app) deployment(flag string) (string, error) {
	if flag == "" {
		flag = a.env.get("PENSTOCK_DEPLOYMENT")
	}
	if flag == "" {
		return "", usage("whose runs? Set PENSTOCK_DEPLOYMENT or --deployment to the deployment's ID, or start a local one: make dev")
	}
	return flag, nil
}

// temporal are the options of a client, from Temporal's standard environment.
func (a *app) temporal(deployment string) (client.Options, error) {
	return connect.OptionsFrom(a.env, connect.Identity("cli", deployment)+who(), a.logger())
}

// who is the person at the command line, for histories.
func who() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return " (" + u.Username + ")"
	}
	return ""
}

// service connects to Temporal. The caller calls the returned function in the end.
func (a *app) service(ctx context.Context, deploymentFlag string) (*service.Service, func(), error) {
	return a.serviceWith(ctx, deploymentFlag, nil)
}

// ledger opens the ledger, where there is one that can be opened; else it is nil. The caller closes it.
func (a *app) ledger(ctx context.Context) *ledger.Ledger {
	place := a.env.get("PENSTOCK_LEDGER")
	if place == "" {
		return nil
	}
	l, err := ledger.OpenFrom(ctx, place, a.env.get)
	if err != nil {
		a.logger().Warn("PENSTOCK_LEDGER: runs that Temporal has forgotten are not known", "error", err)
		return nil
	}
	return l
}

// serviceWith is service with a ledger, which may be nil.
func (a *app) serviceWith(ctx context.Context, deploymentFlag string, archive *ledger.Ledger) (*service.Service, func(), error) {
	deployment, err := a.deployment(deploymentFlag)
	if err != nil {
		return nil, nil, err
	}
	options, err := a.temporal(deployment)
	if err != nil {
		return nil, nil, err
	}
	c, err := connect.Dial(ctx, options)
	if err != nil {
		return nil, nil, fmt.Errorf("%w (penstock doctor says what to do)", err)
	}
	s, err := service.New(c, service.Options{
		Deployment: deployment, Namespace: options.Namespace, Ledger: archive,
		UI: a.env.get("TEMPORAL_UI"), DataflowEndpoint: a.env.get("DATAFLOW_ENDPOINT"),
	})
	if err != nil {
		c.Close()
		return nil, nil, err
	}
	return s, c.Close, nil
}

// pubsubOptions are those of a client that needs more than the process's own environment says: the emulator of a local stack.
func (a *app) pubsubOptions() []option.ClientOption {
	host := a.env.get("PUBSUB_EMULATOR_HOST")
	if host == "" {
		return nil
	}
	return []option.ClientOption{option.WithEndpoint(host), option.WithoutAuthentication(), option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials()))}
}
