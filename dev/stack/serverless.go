package stack

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/penstock/penstock/service"
)

// The forms of Options.Workers.
const (
	// WorkersFixed is one worker, a part of the stack, that runs all the time.
	WorkersFixed = ""
	// WorkersServerless is a pool of workers that Temporal's worker controller resizes by
	// its task queues, down to none: Stack.Workers.
	WorkersServerless = "serverless"
)

const (
	workerPool = "worker" // the pool's name, and its instances' in logs and proxies
	// localBuild is the ID of the only build. In a deployment other code has another ID,
	// and a pool; here it takes the place of what was built before.
	localBuild = "local"
	// maxWorkers bounds the pool: a pipeline at work on a laptop needs one, and a second
	// shows that there can be more.
	maxWorkers = 2
	// lookEvery is how often Temporal looks whether the pool has nothing to do. In a
	// deployment it does so for the first time after 5 minutes.
	lookEvery = "10s"
	// quiet is how long no task may have waited for a worker before Temporal takes one away.
	quiet = 15 * time.Second
)

// localScaler are the scaler's details (rate-based) that differ from a deployment's: it
// takes workers away sooner. A deployment's wait 90 s of quiet, and 60 s between two.
var localScaler = map[string]any{"no_sync_quiet_ms": quiet.Milliseconds(), "scale_down_cooldown_ms": 0}

func (o *Options) serverless() bool { return o.Workers == WorkersServerless }

// checkWorkers says what does not go with the form of the workers.
func (o *Options) checkWorkers() error {
	switch {
	case o.Workers == WorkersFixed:
		return nil
	case !o.serverless():
		return fmt.Errorf("stack: Workers is %q; leave it empty for one fixed worker, or set it to %s", o.Workers, WorkersServerless)
	case o.WithoutWorker:
		return errors.New("stack: serverless workers start and end by themselves; WithoutWorker does not go with them")
	case os.Getenv("TEMPORAL_ADDRESS") != "":
		return errors.New("stack: serverless workers need the stack's own Temporal server, which has the worker controller; unset TEMPORAL_ADDRESS")
	}
	return nil
}

// startPool makes the worker pool and has Temporal resize it, as scripts/deploy does by
// penstock setup. When it returns, the pool has bound its queues, and its build is current.
func (s *Stack) startPool(ctx context.Context) error {
	if err := s.startProxy(workerPool); err != nil {
		return err
	}
	program := cmp.Or(s.o.WorkerBinary, s.bin("worker"))
	pool := &WorkerPool{stack: s, name: workerPool, argv: []string{program}, env: func() []string {
		return s.childEnv(append(s.throughProxy(workerPool),
			"PENSTOCK_HEALTH_ADDRESS=127.0.0.1:0", // each its own; nobody asks
			"TEMPORAL_DEPLOYMENT_NAME="+s.deploymentName(), "TEMPORAL_WORKER_BUILD_ID="+localBuild, "PENSTOCK_VERSIONING=pinned")...)
	}}
	url, err := s.serve("workers", pool)
	if err != nil {
		return err
	}
	s.Workers, s.Addresses.Workers = pool, url+"/"
	digest, err := digestOf(program)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	state, err := service.OpenState(ctx, stateURL, s.o.Deployment, s.getenv)
	if err != nil {
		return err
	}
	defer state.Close()
	if err := state.RemoveBuilds(ctx, localBuild); err != nil {
		return err
	}
	build := service.Build{ID: localBuild, Image: "localhost/worker@sha256:" + digest, Pool: workerPool, Created: time.Now().UTC(), By: "stack"}
	if _, err := state.AddBuild(ctx, build); err != nil {
		return err
	}
	temporal, err := s.TemporalClient(ctx)
	if err != nil {
		return fmt.Errorf("reach Temporal: %w", err)
	}
	defer temporal.Close()
	users, err := service.New(temporal, service.Options{Deployment: s.o.Deployment, Namespace: s.Addresses.Namespace})
	if err != nil {
		return err
	}
	options := service.SetupOptions{
		State: state, Project: s.o.Project, Scaling: service.ScalingServerless, DeploymentName: s.deploymentName(), Build: localBuild,
		Compute: service.Compute{
			Project: s.o.Project, Region: s.o.Location, Pool: workerPool, Invoker: "local", Max: maxWorkers,
			Provider: "subprocess", ProviderDetails: map[string]any{"url": s.Addresses.Workers}, ScalerDetails: localScaler,
		},
		Timeout: startWithin, By: "stack",
		Progress: func(missing string) { s.poolLog().Info("waiting", "for", missing) },
	}
	// The server answers before its own workers, which keep worker deployments, have come up.
	for {
		_, err := users.Setup(ctx, options)
		if err == nil {
			s.progress("%-10s serverless: up to %d processes, as Temporal asks for; %s", workerPool, maxWorkers, s.Addresses.Workers)
			return nil
		}
		if !comingUp(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// comingUp says that a server may do better in a moment.
func comingUp(err error) bool {
	var unavailable *serviceerror.Unavailable
	var late *serviceerror.DeadlineExceeded
	var exhausted *serviceerror.ResourceExhausted
	return errors.As(err, &unavailable) || errors.As(err, &late) || errors.As(err, &exhausted) || errors.Is(err, context.DeadlineExceeded)
}

// stateURL is where the deployment's state lies: in the ledger's bucket, which no trigger
// is on, and which is kept or forgotten together with Temporal's database.
const stateURL = "gs://" + ledgerBucket + "/state"

// deploymentName is what terraform and the CLI call the worker deployment.
func (s *Stack) deploymentName() string { return "penstock-" + s.o.Deployment }

// getenv is the environment of clients of the stack.
func (s *Stack) getenv(key string) string {
	for _, v := range s.Env() {
		if v.Key == key {
			return v.Value
		}
	}
	return os.Getenv(key)
}

func (s *Stack) poolLog() *slog.Logger { return s.logs.logger("workers") }

func (p *WorkerPool) log() *slog.Logger { return p.stack.poolLog() }

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("tell the worker's build: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("tell the worker's build: %w", err)
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}
