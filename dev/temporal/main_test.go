package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

// The test binary is also the command: started with asCommand set, it is temporal-dev.
// The server is only ever tested as a process of its own, which can be killed.
const asCommand = "TEMPORAL_DEV_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestRunningWorkflowSurvivesSIGKILL(t *testing.T) {
	// Spaces and URI metacharacters occur in the paths of checkouts.
	db := filepath.Join(t.TempDir(), "a checkout", "100%?#.db")
	pipeline := temporal.NewSearchAttributeKeyKeyword("PenstockPipeline")
	size := temporal.NewSearchAttributeKeyInt64("PenstockSize")

	first := start(t, "-db", db, "-search-attribute", "PenstockPipeline=Keyword")
	c := first.dial(t)
	namespaceID := describeNamespace(t, c).GetNamespaceInfo().GetId()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID:                    "dev/orders/1",
		TaskQueue:             "nobody-polls-this",
		TypedSearchAttributes: temporal.NewSearchAttributes(pipeline.ValueSet("orders")),
	}, "Run")
	if err != nil {
		t.Fatalf("start a workflow with a search attribute: %v", err)
	}
	awaitCount(t, c, `PenstockPipeline = "orders"`, 1)
	if _, err := os.Stat(db + "-wal"); err != nil {
		t.Errorf("the database keeps no write-ahead log, which makes it slow: %v", err)
	}
	first.kill(t)

	// New ports, and a search attribute that the file has not seen.
	second := start(t, "-db", db, "-retention", "24h",
		"-search-attribute", "PenstockPipeline=Keyword", "-search-attribute", "PenstockSize=Int")
	c = second.dial(t)
	desc, err := c.DescribeWorkflowExecution(t.Context(), "dev/orders/1", "")
	if err != nil {
		t.Fatalf("describe the workflow after the restart: %v", err)
	}
	info := desc.GetWorkflowExecutionInfo()
	if info.GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING || info.GetExecution().GetRunId() != run.GetRunID() {
		t.Errorf("after the restart: %s run %s, want RUNNING run %s", info.GetStatus(), info.GetExecution().GetRunId(), run.GetRunID())
	}
	namespace := describeNamespace(t, c)
	if got := namespace.GetNamespaceInfo().GetId(); got != namespaceID {
		t.Errorf("namespace UUID changed from %s to %s", namespaceID, got)
	}
	if got := namespace.GetConfig().GetWorkflowExecutionRetentionTtl().AsDuration(); got != 24*time.Hour {
		t.Errorf("retention is %s, want the new flag's 24h", got)
	}
	if _, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID:                    "dev/orders/2",
		TaskQueue:             "nobody-polls-this",
		TypedSearchAttributes: temporal.NewSearchAttributes(pipeline.ValueSet("orders"), size.ValueSet(7)),
	}, "Run"); err != nil {
		t.Fatalf("start a workflow with the new search attribute: %v", err)
	}
	awaitCount(t, c, `PenstockPipeline = "orders"`, 2)
	awaitCount(t, c, `PenstockPipeline = "orders" AND PenstockSize > 6`, 1)
	second.terminate(t)
}

func TestServesUIAndStopsOnSIGTERM(t *testing.T) {
	s := start(t, "-ui-addr", freeAddr(t))
	for _, path := range []string{"/", "/api/v1/namespaces/default"} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.flag("-ui-addr")+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatalf("the UI is not served once the server is ready: %v", err)
		}
		body, _ := io.ReadAll(resp.Body)
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if resp.StatusCode != http.StatusOK {
			t.Errorf("GET %s: %s: %s", path, resp.Status, body)
		}
	}
	s.terminate(t)
	if len(s.rest) > 0 {
		t.Errorf("standard output holds more than the ready line: %q", s.rest)
	}
}

func TestSecondServerOnOneFileIsRefused(t *testing.T) {
	db := filepath.Join(t.TempDir(), "temporal.db")
	first := start(t, "-db", db)
	out, code := runToEnd(t, "-addr", freeAddr(t), "-db", db)
	if code != 1 || !strings.Contains(out, "another temporal-dev uses it") {
		t.Errorf("second server: exit %d, %q; want 1 and the reason", code, out)
	}
	first.terminate(t)
}

func TestUnfinishedDatabaseIsMadeAnew(t *testing.T) {
	db := filepath.Join(t.TempDir(), "temporal.db")
	if err := os.WriteFile(db+".new", []byte("half a schema"), 0o600); err != nil {
		t.Fatal(err)
	}
	start(t, "-db", db).terminate(t)
}

func TestRefusals(t *testing.T) {
	taken := start(t)
	db := filepath.Join(t.TempDir(), "temporal.db")
	start(t, "-db", db, "-search-attribute", "Owner=Keyword").terminate(t)
	tooMany := []string{"-addr", freeAddr(t)}
	for i := range 4 {
		tooMany = append(tooMany, "-search-attribute", fmt.Sprintf("Flag%d=Bool", i))
	}
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"address that other machines reach", []string{"-addr", "0.0.0.0:7233"}, 2, "loopback"},
		{"UI without a port", []string{"-ui-addr", "127.0.0.1"}, 2, "-ui-addr"},
		{"taken port", []string{"-addr", taken.flag("-addr")}, 1, "choose another port"},
		{"attribute without a type", []string{"-search-attribute", "Owner"}, 2, "name=Type"},
		{"attribute of an unknown type", []string{"-search-attribute", "Owner=String"}, 2, "Keyword"},
		{"attribute given with two types", []string{"-search-attribute", "A=Int", "-search-attribute", "A=Bool"}, 2, "given before as Int"},
		{"attribute of another type in the file", []string{"-addr", freeAddr(t), "-db", db, "-search-attribute", "Owner=Text"}, 1, "registered as Keyword, not Text"},
		{"more attributes than SQLite has columns", tooMany, 1, "holds no more of type Bool"},
		{"unknown dynamic config", []string{"-dynamic-config", "frontend.nameSpaceRSP=1"}, 2, "unregistered key"},
		{"dynamic config of the wrong type", []string{"-dynamic-config", `frontend.namespaceRPS="many"`}, 2, "validation failed"},
		{"look without a controller", []string{"-worker-controller-look", "10s"}, 2, "-worker-controller with it"},
		{"argument that is no flag", []string{"start"}, 2, "unexpected argument"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out, code := runToEnd(t, tc.args...)
			if code != tc.code || !strings.Contains(out, tc.want) {
				t.Errorf("exit %d, %q; want exit %d and %q", code, out, tc.code, tc.want)
			}
		})
	}
	taken.terminate(t)
}

func TestDynamicConfigTakesEffect(t *testing.T) {
	s := start(t, "-dynamic-config", "limit.maxIDLength=40")
	_, err := s.dial(t).ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: strings.Repeat("x", 41), TaskQueue: "q",
	}, "Run")
	if err == nil || !strings.Contains(err.Error(), "length") {
		t.Errorf("start with 41 characters under a limit of 40: %v; want a refusal of its length", err)
	}
	s.terminate(t)
}

// server is a temporal-dev process that has said ready.
type server struct {
	cmd    *exec.Cmd
	args   []string
	stdout *bufio.Reader
	rest   []byte // what stdout held after the ready line, once terminated
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// start runs the server on a free port and waits for its ready line.
func start(t *testing.T, args ...string) *server {
	t.Helper()
	args = append([]string{"-addr", freeAddr(t), "-log-level", "error"}, args...)
	cmd := command(t, args...)
	cmd.Stderr = t.Output()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	s := &server{cmd: cmd, args: args, stdout: bufio.NewReader(stdout)}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := s.stdout.ReadString('\n')
	if want := "ready " + s.flag("-addr") + "\n"; err != nil || line != want {
		t.Fatalf("standard output began %q (%v), want %q", line, err, want)
	}
	return s
}

func (s *server) flag(name string) string {
	for i, arg := range s.args {
		if arg == name {
			return s.args[i+1]
		}
	}
	return ""
}

func (s *server) dial(t *testing.T) client.Client {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: s.flag("-addr")})
	if err != nil {
		t.Fatalf("dial the server that said ready: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

func (s *server) kill(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait() // says "killed"
}

// terminate asks the server to stop and fails the test unless it exits with 0 in good time.
func (s *server) terminate(t *testing.T) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	killer := time.AfterFunc(time.Minute, func() { _ = s.cmd.Process.Kill() })
	defer killer.Stop()
	var err error
	if s.rest, err = io.ReadAll(s.stdout); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("stop on SIGTERM: %v; want exit 0 within a minute", err)
	}
}

func runToEnd(t *testing.T, args ...string) (output string, exitCode int) {
	t.Helper()
	out, err := command(t, args...).CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if exit != nil {
		exitCode = exit.ExitCode()
	}
	return string(out), exitCode
}

func freeAddr(t *testing.T) string {
	t.Helper()
	ip := netip.MustParseAddr("127.0.0.1")
	ports, err := freePorts(ip, 1)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(ip, uint16(ports[0])).String()
}

func describeNamespace(t *testing.T, c client.Client) *workflowservice.DescribeNamespaceResponse {
	t.Helper()
	resp, err := c.WorkflowService().DescribeNamespace(t.Context(), &workflowservice.DescribeNamespaceRequest{Namespace: "default"})
	if err != nil {
		t.Fatalf("describe the namespace: %v", err)
	}
	return resp
}

// awaitCount waits until visibility, which lags behind, counts want workflows.
func awaitCount(t *testing.T, c client.Client, query string, want int64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := retry(ctx, func() error {
		resp, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: query})
		if err == nil && resp.GetCount() != want {
			err = fmt.Errorf("%d workflows, want %d", resp.GetCount(), want)
		}
		return err
	}); err != nil {
		t.Fatalf("count %s: %v", query, err)
	}
}
