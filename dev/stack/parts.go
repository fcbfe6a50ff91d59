package stack

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
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
// is preferred once built, so that a stack's database has one kind of server.
func (s *Stack) temporalCLI() string {
	if exists(s.bin("temporal-dev")) {
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
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	ui, err := freeAddr()
	if err != nil {
		return err
	}
	s.Addresses.Temporal, s.Addresses.TemporalUI = addr, "http://"+ui
	return s.StartTemporal(ctx)
}

// StartTemporal starts the Temporal server at its address, after KillTemporal.
func (s *Stack) StartTemporal(ctx context.Context) error {
	if s.temporal.running() {
		return fmt.Errorf("the temporal server is running")
	}
	ui := strings.TrimPrefix(s.Addresses.TemporalUI, "http://")
	var argv []string
	if cli := s.temporalCLI(); cli != "" {
		host, port, _ := strings.Cut(s.Addresses.Temporal, ":")
		_, uiPort, _ := strings.Cut(ui, ":")
		argv = []string{cli, "server", "start-dev", "--ip", host, "--port", port, "--ui-port", uiPort, "--namespace", s.Addresses.Namespace, "--log-level", "warn"}
		if !s.o.Memory {
			argv = append(argv, "--db-filename", filepath.Join(s.o.Dir, "temporal-cli.db"))
		}
		for _, name := range runs.SearchAttributes() {
			argv = append(argv, "--search-attribute", name+"=Keyword")
		}
	} else {
		argv = []string{s.bin("temporal-dev"), "-addr", s.Addresses.Temporal, "-ui-addr", ui, "-namespace", s.Addresses.Namespace}
		if !s.o.Memory {
			argv = append(argv, "-db", filepath.Join(s.o.Dir, "temporal.db"))
		}
		for _, name := range runs.SearchAttributes() {
			argv = append(argv, "-search-attribute", name+"=Keyword")
		}
	}
	var err error
	if s.temporal, err = s.spawn("temporal", argv, os.Environ()); err != nil {
		return err
	}
	c, err := client.NewLazyClient(client.Options{HostPort: s.Addresses.Temporal, Namespace: s.Addresses.Namespace, Logger: s.logs.logger("stack")})
	if err != nil {
		return fmt.Errorf("make a Temporal client: %w", err)
	}
	defer c.Close()
	err = s.awaitReady(ctx, s.temporal, startWithin, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: s.Addresses.Namespace})
		return err
	})
	if err != nil {
		return err
	}
	s.progress("%-10s %s, web UI %s", "temporal", s.Addresses.Temporal, s.Addresses.TemporalUI)
	return nil
}

// KillTemporal ends the server as a crash would.
func (s *Stack) KillTemporal() error { return s.temporal.kill() }

// StartFunctions starts the functions, at the same address each time.
func (s *Stack) StartFunctions(ctx context.Context) error {
	if s.functions.running() {
		return fmt.Errorf("the functions are running")
	}
	if s.Addresses.Functions == "" {
		addr, err := freeAddr()
		if err != nil {
			return err
		}
		s.Addresses.Functions = "http://" + addr
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(s.Addresses.Functions, "http://"), ":")
	var err error
	if s.functions, err = s.spawn("functions", []string{s.bin("functions")}, s.childEnv(append(s.throughProxy("functions"), "PORT="+port, "LOCAL_ONLY=true")...)); err != nil {
		return err
	}
	// The framework answers any path it does not know; that it does is the sign.
	if err := s.awaitReady(ctx, s.functions, startWithin, answers(s.Addresses.Functions+"/", false)); err != nil {
		return err
	}
	s.progress("%-10s %s", "functions", s.Addresses.Functions)
	return nil
}

// KillFunctions ends the functions as a crash would.
func (s *Stack) KillFunctions() error { return s.functions.kill() }

func (s *Stack) startWorkerUnlessWithout(ctx context.Context) error {
	if s.o.WithoutWorker {
		return nil
	}
	return s.StartWorker(ctx)
}

// StartWorker starts the worker, at first or after KillWorker.
func (s *Stack) StartWorker(ctx context.Context) error {
	if s.worker.running() {
		return fmt.Errorf("the worker is running")
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if s.worker, err = s.spawn("worker", []string{s.bin("worker")}, s.childEnv(append(s.throughProxy("worker"), "PENSTOCK_HEALTH_ADDRESS="+addr)...)); err != nil {
		return err
	}
	if err := s.awaitReady(ctx, s.worker, startWithin, answers("http://"+addr+"/healthz", true)); err != nil {
		return err
	}
	s.progress("%-10s polling", "worker")
	return nil
}

// KillWorker ends the worker with SIGKILL, as a crash would.
func (s *Stack) KillWorker() error { return s.worker.kill() }

// StopWorker ends the worker with SIGTERM, as a deployment does.
func (s *Stack) StopWorker() error { return s.worker.stop() }

// answers is a probe of an HTTP server: any answer, or only 200.
func answers(url string, only200 bool) func(context.Context) error {
	probe := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := probe.Do(r)
		if err != nil {
			return err
		}
		response.Body.Close()
		if only200 && response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, response.Status)
		}
		return nil
	}
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
