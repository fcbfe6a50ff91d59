package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"time"
	_ "unsafe" // for go:linkname, below

	wciclient "go.temporal.io/auto-scaled-workers/wci/client"
	computeprovider "go.temporal.io/auto-scaled-workers/wci/workflow/compute_provider"
	"go.temporal.io/auto-scaled-workers/wci/workflow/iface"
	"go.temporal.io/server/common/dynamicconfig"
)

// Temporal's worker controller sets the size of a worker pool by the tasks of its
// queues. What a size means is for a compute provider; ours is for pools that another
// process of this machine holds. Their details have one field that matters, url, a
// loopback URL where
//
//	GET   answers 200 when the pool is there
//	PUT   of {"size": N} has the pool run N workers from now on, and answers 204
//
// as Cloud Run's API does: what runs there is the pool's business, it outlives this
// server, and no program's name or argument comes out of Temporal.
const (
	// providerType is one of the controller's closed list of types. This one is for
	// local use, and the controller's own has to be asked for at its build.
	providerType = iface.ComputeProviderTypeSubprocess
	detailURL    = "url"
)

// poolClient calls pools, and nobody that they would send it on to.
var poolClient = &http.Client{
	Timeout:       10 * time.Second,
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// The controller looks at a pool for the first time 5 minutes after it was registered,
// then as often as the scaler's metrics_poll_interval_ms says, 30 s at least. Nobody
// waits that long to see a pool at rest, and there is no setting, so these are the
// controller's own variables. A version that has others is noticed by their values.
var (
	//go:linkname longestLook go.temporal.io/auto-scaled-workers/wci/workflow.maxPollInterval
	longestLook time.Duration
	//go:linkname shortestLook go.temporal.io/auto-scaled-workers/wci/workflow.minPollInterval
	shortestLook time.Duration
)

// enableWorkerController is to be called before the server starts, once.
func enableWorkerController(values dynamicconfig.StaticClient, look time.Duration) error {
	for key, value := range map[dynamicconfig.Key]any{
		wciclient.WorkerControllerEnabled.Key():                  true,
		wciclient.WorkerControllerEnabledComputeProviders.Key():  []string{string(providerType)},
		wciclient.WorkerControllerEnabledScalingAlgorithms.Key(): []string{string(iface.ScalingAlgorithmRateBased)},
	} {
		if _, set := values[key]; !set { // -dynamic-config has the last word
			values[key] = value
		}
	}
	computeprovider.RegisterComputeProvider(providerType, func(context.Context, *dynamicconfig.Collection) (computeprovider.ComputeProvider, error) {
		return pools{}, nil
	})
	if look == 0 {
		return nil
	}
	if longestLook != 5*time.Minute || shortestLook != 30*time.Second {
		return fmt.Errorf("-worker-controller-look: this server's worker controller keeps its intervals elsewhere (%s and %s are there); start without the flag, and wait 5 minutes for its first look", longestLook, shortestLook)
	}
	longestLook, shortestLook = look, look
	return nil
}

// pools is the compute provider.
type pools struct{}

func (pools) LaunchStrategy() computeprovider.LaunchStrategy {
	return computeprovider.LaunchStrategyWorkerSet
}

func (pools) ValidateConfig(ctx context.Context, _ computeprovider.RequestContext, config computeprovider.ComputeProviderConfig) error {
	return callPool(ctx, http.MethodGet, config, nil)
}

func (pools) InvokeWorker(context.Context, computeprovider.RequestContext, computeprovider.ComputeProviderConfig) error {
	return errors.ErrUnsupported // it is for the other launch strategy
}

func (pools) UpdateWorkerSetSize(ctx context.Context, _ computeprovider.RequestContext, config computeprovider.ComputeProviderConfig, size int32) error {
	return callPool(ctx, http.MethodPut, config, map[string]int32{"size": size})
}

func callPool(ctx context.Context, method string, config computeprovider.ComputeProviderConfig, body any) error {
	pool, err := poolURL(config)
	if err != nil {
		return err
	}
	var sent bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&sent).Encode(body); err != nil {
			return fmt.Errorf("encode the size of the worker pool %s: %w", pool, err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, pool, &sent)
	if err != nil {
		return fmt.Errorf("call the worker pool %s: %w", pool, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := poolClient.Do(req)
	if err != nil {
		return fmt.Errorf("call the worker pool: %w; does the stack that holds it run?", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		said, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what it says is only for the error
		return fmt.Errorf("the worker pool answers %s %s with %s: %s", method, pool, resp.Status, bytes.TrimSpace(said))
	}
	return nil
}

// poolURL takes no URL of another machine: whoever may register a worker deployment
// could have this process call it.
func poolURL(config computeprovider.ComputeProviderConfig) (string, error) {
	text, _ := config[detailURL].(string)
	u, err := url.Parse(text)
	if err == nil && u.Scheme == "http" {
		if at, err := netip.ParseAddrPort(u.Host); err == nil && at.Addr().IsLoopback() {
			return u.String(), nil
		}
	}
	return "", fmt.Errorf("the worker pool's %s is %q: want one such as http://127.0.0.1:8080/workers, on this machine", detailURL, text)
}
