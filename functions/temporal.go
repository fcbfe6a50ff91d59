package functions

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.temporal.io/api/errordetails/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
	"golang.org/x/sync/singleflight"
)

// temporal is what the functions need of a Temporal client.
type temporal interface {
	ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	SignalWithStartWorkflow(ctx context.Context, workflowID, signalName string, signalArg any, options client.StartWorkflowOptions, workflow any, workflowArgs ...any) (client.WorkflowRun, error)
	DescribeWorkflowExecution(ctx context.Context, workflowID, runID string) (*workflowservice.DescribeWorkflowExecutionResponse, error)
}

// dialer connects to Temporal when the first event needs it, once for the instance. A failure is the answer to those who
// wait for it; the next event tries again.
type dialer struct {
	identity string
	log      *slog.Logger

	flight singleflight.Group
	mu     sync.Mutex
	conn   client.Client
}

func (d *dialer) client(ctx context.Context) (temporal, error) {
	d.mu.Lock()
	conn := d.conn
	d.mu.Unlock()
	if conn != nil {
		return conn, nil
	}
	c, err, _ := d.flight.Do("", func() (any, error) {
		conn, err := dial(ctx, d.identity, d.log)
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		d.conn = conn
		d.mu.Unlock()
		return conn, nil
	})
	if err != nil {
		return nil, err
	}
	return c.(client.Client), nil
}

// dial connects with what Temporal's standard environment variables and configuration file say.
func dial(ctx context.Context, identity string, logger *slog.Logger) (client.Client, error) {
	profile, err := envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Temporal's configuration from the environment: %w", err)
	}
	options, err := profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		return nil, fmt.Errorf("read Temporal's configuration from the environment: %w", err)
	}
	options.Identity = identity
	options.Logger = log.NewStructuredLogger(logger)
	if profile.APIKey != "" {
		key := &apiKey{value: profile.APIKey, read: time.Now()}
		options.Credentials = client.NewAPIKeyDynamicCredentials(key.get)
	}
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal at %q, namespace %q: %w", options.HostPort, options.Namespace, err)
	}
	return c, nil
}

// apiKeyAge is how long an API key that was read is used before it is read again: so soon a rotated one is in force.
const apiKeyAge = time.Minute

// apiKey reads the key anew now and then, so that one that lies in a mounted configuration file can be rotated without
// a new instance.
type apiKey struct {
	mu    sync.Mutex
	value string
	read  time.Time
}

func (k *apiKey) get(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.read) > apiKeyAge {
		k.read = time.Now()
		// A file that is being replaced may be unreadable for a moment: the key in hand goes on.
		if p, err := envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{}); err == nil && p.APIKey != "" {
			k.value = p.APIKey
		}
	}
	return k.value, nil
}

// clientIdentity names this instance in Temporal's histories.
func clientIdentity(deployment string) string {
	instance := os.Getenv("K_REVISION") // https://cloud.google.com/run/docs/container-contract#services-env-vars
	if instance == "" {
		instance, _ = os.Hostname()
	}
	return fmt.Sprintf("penstock-functions/%s@%s", deployment, instance)
}

// refused says whether Temporal itself found fault with the request, so that it will again.
func refused(err error) bool {
	var invalid *serviceerror.InvalidArgument
	return errors.As(err, &invalid)
}

// noOpenWorkflow says whether Temporal itself answered that there is no open workflow of the ID. A missing namespace is
// another type. A bare status of a proxy in between decides nothing: it lacks the detail that Temporal's own answer has.
func noOpenWorkflow(err error) bool {
	var notFound *serviceerror.NotFound
	if !errors.As(err, &notFound) {
		return false
	}
	for _, detail := range notFound.Status().Details() {
		if _, ok := detail.(*errordetails.NotFoundFailure); ok {
			return true
		}
	}
	return false
}
