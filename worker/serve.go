package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/connect"
	"github.com/penstock/penstock/dataflow"
	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/runs"
)

const (
	// stopWithin is the time that open activities get when the worker stops. Cloud Run
	// kills 10 s after SIGTERM.
	stopWithin = 5 * time.Second
	// cachedWorkflows is how many open workflows a worker keeps in memory, some tens of
	// kilobytes each: most wait for hours, and to read one's short history again is cheap. The
	// SDK's own 10,000 would not fit into a small instance.
	cachedWorkflows = 1000
	// attributesEvery is how often search attributes are looked for while they are missing.
	attributesEvery = time.Minute
)

// Settings configure Serve.
type Settings struct {
	Deployment string // see runs.CheckDeployment
	// DataflowEndpoint is the base URL of the Dataflow API; empty is Google's.
	DataflowEndpoint string
	// HealthAddress is where GET /healthz is answered, as ":8080". Empty: nowhere.
	HealthAddress string
	Timing        Timing
	// Ledger is where the ledger lies, as ledger.Open takes it. Empty: there is none,
	// and a run of a pipeline with `dedupe` fails.
	Ledger string
	// Orphans and Overdue are those of Workflows.
	Orphans runs.OrphanRule
	Overdue time.Duration
	// Version is the Worker Deployment Version that this build is; nil: unversioned.
	Version *Version
}

// Version is a build of the worker, as Temporal's Worker Versioning knows it.
type Version struct {
	DeploymentName string
	BuildID        string
	// Pinned keeps runs on the build that they began on. Otherwise they move to the
	// deployment's current version.
	Pinned bool
}

// Serve runs a worker until ctx is done, then stops it: open activities get 5 s. It
// waits for a Temporal that is not there yet, and returns an error only for settings
// that cannot work, and when the worker has given up polling.
func Serve(ctx context.Context, s Settings, log *slog.Logger) error {
	if err := runs.CheckDeployment(s.Deployment); err != nil {
		return err
	}
	if err := errors.Join(s.Timing.Validate(), s.Orphans.Validate()); err != nil {
		return err
	}
	options, err := connect.Options(connect.Identity("worker", s.Deployment), log)
	if err != nil {
		return err
	}
	waits := newWaits(s.Deployment, log)
	options.MetricsHandler = waits
	jobs, err := dataflow.New(ctx, dataflow.Options{Endpoint: s.DataflowEndpoint, UserAgent: "penstock"})
	if err != nil {
		return fmt.Errorf("make the Dataflow client: %w", err)
	}
	activities := &Activities{Dataflow: jobs, Log: log}
	if s.Ledger != "" {
		l, err := ledger.Open(ctx, s.Ledger)
		if err != nil {
			return fmt.Errorf("PENSTOCK_LEDGER: %w", err)
		}
		defer l.Close()
		activities.Ledger = l
	}
	health := &health{}
	if s.HealthAddress != "" {
		stop, err := health.listen(s.HealthAddress, log)
		if err != nil {
			return err
		}
		defer stop()
	}
	temporal, err := dialUntil(ctx, options, log)
	if err != nil {
		return nil // ctx is done: there was nothing to serve yet
	}
	defer temporal.Close()

	attributes := &attributes{namespace: options.Namespace, client: temporal, log: log}
	attributes.look(ctx)
	go attributes.watch(ctx)

	workflows, err := New(s.Timing, attributes.known.Load)
	if err != nil {
		return err
	}
	workflows.Ledger, workflows.Orphans, workflows.Overdue = activities.Ledger != nil, s.Orphans, s.Overdue
	activities.Temporal, activities.NamespaceID = temporal, namespaceID(temporal, options.Namespace)
	activities.Daily = Daily(temporal.ScheduleClient())
	sdkworker.SetStickyWorkflowCacheSize(cachedWorkflows)
	err = health.serve(ctx, temporal, func(givenUp func(error)) sdkworker.Worker {
		w := sdkworker.New(temporal, runs.TaskQueue(s.Deployment), workerOptions(s, givenUp))
		Register(w, workflows, activities)
		return w
	}, func(ctx context.Context) {
		log.Info("worker started", "taskQueue", runs.TaskQueue(s.Deployment), "temporal", options.HostPort, "namespace", options.Namespace, "version", s.Version)
		waits.watch(ctx)
	})
	waits.tell()
	log.Info("worker stopped")
	return err
}

// serve runs the worker that is made until ctx is done, which is the context that it waits
// with, or the worker has given up polling. Then the process would live on and do nothing:
// it is its end that has it started again.
func (h *health) serve(ctx context.Context, temporal client.Client, made func(givenUp func(error)) sdkworker.Worker, wait func(context.Context)) error {
	serving, end := context.WithCancelCause(ctx)
	defer end(nil)
	w := made(func(err error) {
		h.serving.Store(nil)
		end(fmt.Errorf("the worker has given up polling: %w", err))
	})
	if err := w.Start(); err != nil {
		return fmt.Errorf("start the worker: %w", err)
	}
	h.serving.Store(&temporal)
	wait(serving)
	h.serving.Store(nil)
	w.Stop()
	if ctx.Err() != nil {
		return nil
	}
	return context.Cause(serving)
}

// workerOptions are the SDK's. givenUp is told why the worker polls no more, as when the
// namespace is not found for minutes.
func workerOptions(s Settings, givenUp func(error)) sdkworker.Options {
	autoscaling := func() sdkworker.PollerBehavior {
		return sdkworker.NewPollerBehaviorAutoscaling(sdkworker.PollerBehaviorAutoscalingOptions{InitialNumberOfPollers: 2, MaximumNumberOfPollers: 20})
	}
	o := sdkworker.Options{
		WorkerStopTimeout:          stopWithin,
		OnFatalError:               givenUp,
		WorkflowTaskPollerBehavior: autoscaling(),
		ActivityTaskPollerBehavior: autoscaling(),
		// Everything is called by its registered name. With aliases the SDK takes the type
		// "Run" for the method Run, which is StreamingRun as well: a pinned run would move.
		DisableRegistrationAliasing: true,
	}
	if v := s.Version; v != nil {
		o.DeploymentOptions = sdkworker.DeploymentOptions{
			UseVersioning:             true,
			Version:                   sdkworker.WorkerDeploymentVersion{DeploymentName: v.DeploymentName, BuildID: v.BuildID},
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		}
		if v.Pinned {
			o.DeploymentOptions.DefaultVersioningBehavior = workflow.VersioningBehaviorPinned
		}
	}
	return o
}

// dialUntil connects, however long that takes; its error is ctx's.
func dialUntil(ctx context.Context, options client.Options, log *slog.Logger) (client.Client, error) {
	const most = 15 * time.Second
	for wait := time.Second; ; wait = min(2*wait, most) {
		c, err := connect.Dial(ctx, options)
		if err == nil {
			return c, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		log.Warn("no Temporal yet; trying again", "error", err, "wait", wait)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// namespaceID asks for the namespace's UUID until it has been told it.
func namespaceID(c client.Client, namespace string) func(context.Context) (string, error) {
	var known atomic.Pointer[string]
	return func(ctx context.Context) (string, error) {
		if id := known.Load(); id != nil {
			return *id, nil
		}
		d, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
		if err != nil {
			return "", fmt.Errorf("describe the Temporal namespace %q for the label of our jobs: %w", namespace, err)
		}
		id := d.GetNamespaceInfo().GetId()
		known.Store(&id)
		return id, nil
	}
}

// attributes knows whether the namespace has our search attributes.
type attributes struct {
	namespace string
	client    client.Client
	log       *slog.Logger
	known     atomic.Bool
	warned    bool
}

func (a *attributes) watch(ctx context.Context) {
	for tick := time.NewTicker(attributesEvery); !a.known.Load(); a.look(ctx) {
		select {
		case <-ctx.Done():
			tick.Stop()
			return
		case <-tick.C:
		}
	}
}

func (a *attributes) look(ctx context.Context) {
	missing, err := runs.MissingSearchAttributes(ctx, a.client.OperatorService(), a.namespace)
	switch {
	case err == nil && len(missing) == 0:
		a.known.Store(true)
	case !a.warned:
		a.warned = true
		a.log.Warn("the namespace lacks search attributes: runs go on without them, and cannot be filtered by pipeline or outcome; register them (penstock doctor says how)",
			"namespace", a.namespace, "missing", missing, "error", err)
	}
}

// health answers whether the worker serves.
type health struct {
	serving atomic.Pointer[client.Client]
}

func (h *health) listen(address string, log *slog.Logger) (stop func(), err error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for health checks: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /healthz", h)
	srv := &http.Server{Handler: mux, ReadTimeout: 5 * time.Second, WriteTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	go func() {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			log.Error("the health endpoint ended", "error", err)
		}
	}()
	log.Info("health endpoint", "address", l.Addr().String())
	return func() { _ = srv.Close() }, nil
}

func (h *health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c := h.serving.Load()
	if c == nil {
		http.Error(w, "not serving", http.StatusServiceUnavailable)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	if _, err := (*c).CheckHealth(ctx, &client.CheckHealthRequest{}); err != nil {
		http.Error(w, "Temporal does not answer", http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // whoever asked may have gone
}
