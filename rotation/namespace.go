package rotation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/contrib/envconfig"

	"github.com/penstock/penstock/connect"
)

// checkTimeout bounds one try of a key with its namespace.
const checkTimeout = 30 * time.Second

// checkWorkflow is the ID of a workflow that does not exist.
const checkWorkflow = "penstock-rotation/no-such-workflow"

// Namespace makes the check of a key for New: it connects, anew each time, to the namespace that Temporal's standard
// environment describes (see package connect), describes the namespace, and signals a workflow that does not exist. A key
// that may read but not write is refused the last, where another one is told that there is no such workflow.
func Namespace(env envconfig.EnvLookup) func(ctx context.Context, key string) error {
	return func(ctx context.Context, key string) error {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		options, err := connect.OptionsFrom(withKey{env, key}, connect.Identity("rotation", "check"), slog.New(slog.DiscardHandler))
		if err != nil {
			return err
		}
		c, err := connect.Dial(ctx, options)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: options.Namespace}); err != nil {
			return fmt.Errorf("describe the namespace %q at %s: %w", options.Namespace, options.HostPort, err)
		}
		err = c.SignalWorkflow(ctx, checkWorkflow, "", "check", nil)
		if e := (*serviceerror.NotFound)(nil); err != nil && !errors.As(err, &e) {
			return fmt.Errorf("signal a workflow that does not exist in the namespace %q, to see that the key may: %w", options.Namespace, err)
		}
		return nil
	}
}

// withKey is an environment with another API key.
type withKey struct {
	envconfig.EnvLookup
	key string
}

func (e withKey) LookupEnv(name string) (string, bool) {
	switch name {
	case connect.EnvAPIKeyFile:
		return "", false
	case "TEMPORAL_API_KEY":
		return e.key, true
	}
	return e.EnvLookup.LookupEnv(name)
}
