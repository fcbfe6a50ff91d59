package stack

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloud.google.com/go/pubsub/v2"
	"cloud.google.com/go/storage"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/api/option"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/penstock/penstock/runs"
)

// startWithin bounds the wait for one part to answer; a busy machine needs it.
const startWithin = 90 * time.Second

// joined says that TEMPORAL_ADDRESS names a server that runs already.
func (s *Stack) joined() bool { return os.Getenv("TEMPORAL_ADDRESS") != "" }

// temporalCLI is a `temporal` of the user's, which spares the build of ours; ours
// is preferred once built, so that a stack's database has one kind of server, and for
// serverless workers, whose pools only ours can resize.
func (s *Stack) temporalCLI() string {
	if exists(s.bin("temporal-dev")) || s.o.serverless() {
		return ""
	}
	return lookPath("temporal")
}

func (s *Stack) startTemporal(ctx context.Context) error {
	s.Addresses.Namespace = "default"
	if s.joined() {
		s.Addresses.Temporal = os.Getenv("TEMPORAL_ADDRESS")
		s.Addresses.Namespace = cmp.Or(os.Getenv("TEMPORAL_NAMESPACE"), "default")
		s.Addresses.TemporalUI = os.Getenv("TEMPORAL_UI")
		s.progress("%-10s using the server at %s (TEMPORAL_ADDRESS)", "temporal", s.Addresses.Temporal)
		return nil
	}
	if _, err := s.addPart(&Part{name: "temporal", command: s.temporalCommand, await: s.temporalAnswers}); err != nil {
		return err
	}
	if err := s.StartTemporal(ctx); err != nil {
		return err
	}
	s.progress("%-10s web UI %s", "temporal", s.Addresses.TemporalUI)
	return nil
}

func (s *Stack) temporalCommand(addr string) (argv, env []string, err error) {
	if s.Addresses.Temporal != addr {
		ui, err := freeAddr()
		if err != nil {
			return nil, nil, err
		}
		s.Addresses.Temporal, s.Addresses.TemporalUI = addr, "http://"+ui
	}
	ui := strings.TrimPrefix(s.Addresses.TemporalUI, "http://")
	if cli := s.temporalCLI(); cli != "" {
		host, port, _ := strings.Cut(addr, ":")
		_, uiPort, _ := strings.Cut(ui, ":")
		argv = []string{cli, "server", "start-dev", "--ip", host, "--port", port, "--ui-port", uiPort, "--namespace", s.Addresses.Namespace, "--log-level", "warn"}
		if !s.o.Memory {
			argv = append(argv, "--db-filename", filepath.Join(s.o.Dir, "temporal-cli.db"))
		}
		for _, name := range runs.SearchAttributes() {
			argv = append(argv, "--search-attribute", name+"=Keyword")
		}
		return argv, os.Environ(), nil
	}
	argv = []string{s.bin("temporal-dev"), "-addr", addr, "-ui-addr", ui, "-namespace", s.Addresses.Namespace}
	if !s.o.Memory {
		argv = append(argv, "-db", filepath.Join(s.o.Dir, "temporal.db"))
	}
	for _, name := range runs.SearchAttributes() {
		argv = append(argv, "-search-attribute", name+"=Keyword")
	}
	if s.o.serverless() {
		argv = append(argv, "-worker-controller", "-worker-controller-look", lookEvery)
	}
	return argv, os.Environ(), nil
}

func (s *Stack) temporalAnswers(ctx context.Context) error {
	c, err := client.NewLazyClient(client.Options{HostPort: s.Addresses.Temporal, Namespace: s.Addresses.Namespace, Logger: s.logs.logger("stack")})
	if err != nil {
		return fmt.Errorf("make a Temporal client: %w", err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: s.Addresses.Namespace})
	return err
}

// StartTemporal starts the Temporal server at its address, after KillTemporal.
func (s *Stack) StartTemporal(ctx context.Context) error { return s.start(ctx, "temporal") }

// KillTemporal ends the server as a crash would.
func (s *Stack) KillTemporal() error { return s.Part("temporal").Kill() }

func (s *Stack) start(ctx context.Context, name string) error {
	p := s.Part(name)
	if p == nil {
		return fmt.Errorf("start the %s: it is no part of this stack", name)
	}
	return p.Start(ctx)
}

// StartFunctions starts the functions, at the same address each time.
func (s *Stack) StartFunctions(ctx context.Context) error { return s.start(ctx, "functions") }

// KillFunctions ends the functions as a crash would.
func (s *Stack) KillFunctions() error { return s.Part("functions").Kill() }

// StartWorker starts the worker, at first or after KillWorker.
func (s *Stack) StartWorker(ctx context.Context) error { return s.start(ctx, "worker") }

// KillWorker ends the worker with SIGKILL, as a crash would.
func (s *Stack) KillWorker() error { return s.Part("worker").Kill() }

// StopWorker ends the worker with SIGTERM, as a deployment does.
func (s *Stack) StopWorker() error { return s.Part("worker").Stop() }

// startOwn starts the stack's own functions and worker.
func (s *Stack) startOwn(ctx context.Context) error {
	functions, err := s.addFunctions("functions", PartOptions{})
	if err != nil {
		return err
	}
	if !s.o.serverless() {
		if _, err := s.addWorker("worker", PartOptions{}); err != nil {
			return err
		}
	}
	if err := functions.Start(ctx); err != nil {
		return err
	}
	s.Addresses.Functions = functions.URL()
	if s.o.serverless() {
		return s.startPool(ctx)
	}
	if s.o.WithoutWorker {
		return nil
	}
	return s.StartWorker(ctx)
}

// AddFunctions adds an instance of the functions under a name of its own, at an
// address of its own (Part.URL). No trigger delivers to it: post to it, or see
// AddDeployment. Rules at temporal know its connections by its name.
func (s *Stack) AddFunctions(ctx context.Context, name string, o PartOptions) (*Part, error) {
	p, err := s.addFunctions(name, o)
	if err != nil || o.Stopped {
		return p, err
	}
	return p, p.Start(ctx)
}

// AddWorker adds a worker beside the stack's own, under a name of its own. Rules at
// temporal know its connections by its name.
func (s *Stack) AddWorker(ctx context.Context, name string, o PartOptions) (*Part, error) {
	p, err := s.addWorker(name, o)
	if err != nil || o.Stopped {
		return p, err
	}
	return p, p.Start(ctx)
}

func (s *Stack) addFunctions(name string, o PartOptions) (*Part, error) {
	if err := s.startProxy(name); err != nil {
		return nil, err
	}
	argv := []string{cmp.Or(o.Binary, s.o.FunctionsBinary, s.bin("functions"))}
	// The framework answers any path it does not know; that it does is the sign.
	return s.addPart(&Part{name: name, health: "/", command: func(addr string) ([]string, []string, error) {
		_, port, _ := strings.Cut(addr, ":")
		own := append(s.throughProxy(name), "PORT="+port, "LOCAL_ONLY=true", "PENSTOCK_FUNCTIONS_URL=http://"+addr)
		return argv, append(s.childEnv(own...), o.Env...), nil
	}})
}

func (s *Stack) addWorker(name string, o PartOptions) (*Part, error) {
	if err := s.startProxy(name); err != nil {
		return nil, err
	}
	argv := []string{cmp.Or(o.Binary, s.o.WorkerBinary, s.bin("worker"))}
	return s.addPart(&Part{name: name, health: "/healthz", only200: true, command: func(addr string) ([]string, []string, error) {
		own := append(s.throughProxy(name), "PENSTOCK_HEALTH_ADDRESS="+addr)
		return argv, append(s.childEnv(own...), o.Env...), nil
	}})
}

// Deployment is a second deployment in the stack: functions and a worker of its own
// on the same emulators and the same Temporal server.
type Deployment struct {
	ID                string
	Functions, Worker *Part
}

// AddDeployment starts functions and a worker under another deployment ID, with the
// pipelines files of a folder of their own, and triggers that deliver to them
// besides the stack's own. The parts are named functions-ID and worker-ID, the
// triggers storage-ID, pubsub-ID, job-status-ID and other-ID. env are variables for
// both, as KEY=VALUE.
func (s *Stack) AddDeployment(ctx context.Context, id, pipelines string, env ...string) (*Deployment, error) {
	pipelines, err := filepath.Abs(pipelines)
	if err != nil {
		return nil, fmt.Errorf("add the deployment %s: %w", id, err)
	}
	named, err := readNames(pipelines)
	if err != nil {
		return nil, fmt.Errorf("add the deployment %s: %w", id, err)
	}
	if err := s.makeResources(named.buckets, named.topics); err != nil {
		return nil, fmt.Errorf("add the deployment %s: %w", id, err)
	}
	o := PartOptions{Env: append([]string{"PENSTOCK_DEPLOYMENT=" + id, "PENSTOCK_PIPELINES=" + pipelines}, env...)}
	d := &Deployment{ID: id}
	if d.Functions, err = s.AddFunctions(ctx, "functions-"+id, o); err != nil {
		return nil, err
	}
	o.Env = append(o.Env, "PENSTOCK_FUNCTIONS_URL="+d.Functions.URL())
	if d.Worker, err = s.AddWorker(ctx, "worker-"+id, o); err != nil {
		return nil, err
	}
	return d, s.addTriggers("-"+id, d.Functions.URL())
}

// StorageClient is a Cloud Storage client of this stack, whatever the process's
// own environment says. Close it.
func (s *Stack) StorageClient(ctx context.Context) (*storage.Client, error) {
	return storage.NewClient(ctx, option.WithEndpoint(s.Addresses.Storage+"/storage/v1/"), option.WithoutAuthentication(), storage.WithJSONReads())
}

// PubSubClient is a Pub/Sub client of this stack's project. Close it.
func (s *Stack) PubSubClient(ctx context.Context) (*pubsub.Client, error) {
	return pubsub.NewClient(ctx, s.o.Project, option.WithEndpoint(s.Addresses.PubSub), option.WithoutAuthentication(),
		option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
}

// TemporalClient is a Temporal client of this stack. Close it.
func (s *Stack) TemporalClient(ctx context.Context) (client.Client, error) {
	return client.DialContext(ctx, client.Options{HostPort: s.Addresses.Temporal, Namespace: s.Addresses.Namespace, Logger: s.logs.logger("stack")})
}
