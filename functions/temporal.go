package functions

import (
	"context"
	"errors"
	"log/slog"
	"sync"

	"go.temporal.io/api/errordetails/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"golang.org/x/sync/singleflight"

	"github.com/penstock/penstock/connect"
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

func dial(ctx context.Context, identity string, logger *slog.Logger) (client.Client, error) {
	options, err := connect.Options(identity, logger)
	if err != nil {
		return nil, err
	}
	return connect.Dial(ctx, options)
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
