package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	computepb "go.temporal.io/api/compute/v1"
	deploymentpb "go.temporal.io/api/deployment/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
)

// A pool that is registered is raised to one worker, so that it binds its queues, and
// lowered at the next look, as there is nothing to do.
func TestWorkerControllerResizesPools(t *testing.T) {
	sizes := make(chan int, 16)
	pool := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			return
		}
		var asked struct {
			Size int `json:"size"`
		}
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Errorf("the pool was sent what is no size: %v", err)
		}
		sizes <- asked.Size
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(pool.Close)
	gone := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(gone.Close)

	s := start(t, "-worker-controller", "-worker-controller-look", "1s")
	c := s.dial(t)
	awaitRegistered(t, c)
	if err := registerPool(t, c, "gone", gone.URL); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a pool that is not there: %v, want its answer", err)
	}
	if err := registerPool(t, c, "there", pool.URL); err != nil {
		t.Fatalf("register a pool: %v", err)
	}
	for _, want := range []int{1, 0} {
		select {
		case got := <-sizes:
			if got != want {
				t.Fatalf("the pool was set to %d, want %d", got, want)
			}
		case <-time.After(time.Minute):
			t.Fatalf("the pool was not set to %d within a minute", want)
		}
	}
	s.terminate(t)
}

// awaitRegistered registers the worker deployment once the server's own workers are up.
func awaitRegistered(t *testing.T, c client.Client) {
	t.Helper()
	if err := retry(t.Context(), func() error {
		_, err := c.WorkflowService().CreateWorkerDeployment(t.Context(), &workflowservice.CreateWorkerDeploymentRequest{
			Namespace: "default", DeploymentName: "penstock", RequestId: "1",
		})
		return err
	}); err != nil {
		t.Fatal(err)
	}
}

func registerPool(t *testing.T, c client.Client, build, url string) error {
	t.Helper()
	encode := func(details map[string]any) *commonpb.Payload {
		p, err := converter.GetDefaultDataConverter().ToPayload(details)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	_, err := c.WorkflowService().CreateWorkerDeploymentVersion(t.Context(), &workflowservice.CreateWorkerDeploymentVersionRequest{
		Namespace: "default", RequestId: build,
		DeploymentVersion: &deploymentpb.WorkerDeploymentVersion{DeploymentName: "penstock", BuildId: build},
		ComputeConfig: &computepb.ComputeConfig{ScalingGroups: map[string]*computepb.ComputeConfigScalingGroup{"default": {
			Provider: &computepb.ComputeProvider{Type: "subprocess", Details: encode(map[string]any{"url": url})},
			Scaler:   &computepb.ComputeScaler{Type: "rate-based", Details: encode(map[string]any{"scale_down_cooldown_ms": 0})},
		}}},
	})
	return err
}

func TestPoolsAreOnThisMachine(t *testing.T) {
	for name, tc := range map[string]struct {
		url any
		ok  bool
	}{
		"loopback":                 {"http://127.0.0.1:8080/workers", true},
		"loopback of IPv6":         {"http://[::1]:8080/workers", true},
		"none":                     {nil, false},
		"no text":                  {7, false},
		"another machine":          {"http://10.0.0.1:8080/", false},
		"a name":                   {"http://localhost:8080/", false},
		"no port":                  {"http://127.0.0.1/", false},
		"the metadata server":      {"http://169.254.169.254:80/", false},
		"another machine as login": {"http://127.0.0.1:80@10.0.0.1:80/", false},
		"another protocol":         {"file:///etc/passwd", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := poolURL(map[string]any{"url": tc.url}); (err == nil) != tc.ok {
				t.Errorf("%v: %v, want it taken: %t", tc.url, err, tc.ok)
			}
		})
	}
}

// Who brings another version of the server learns here that it keeps them elsewhere.
func TestTheControllersIntervalsAreItsOwn(t *testing.T) {
	if longestLook != 5*time.Minute || shortestLook != 30*time.Second {
		t.Errorf("the controller looks each %s to %s, want 30s to 5m: its variables have other names or values now; see enableWorkerController", shortestLook, longestLook)
	}
}
