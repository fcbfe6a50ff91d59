package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	uiserver "github.com/temporalio/ui-server/v2/server"
	uiconfig "github.com/temporalio/ui-server/v2/server/config"
	uioptions "github.com/temporalio/ui-server/v2/server/server_options"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/cluster"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
	"go.temporal.io/server/common/membership/static"
	"go.temporal.io/server/common/primitives"
	"go.temporal.io/server/temporal"
)

// clusterName is stored in the database; it cannot change for an existing file.
const clusterName = "active"

// queueWorkers is how many tasks of each of history's queues are worked on at once.
const queueWorkers = 8

// defaultDynamicConfig holds what a server on one machine for one user wants otherwise
// than a cluster; -dynamic-config overrides it.
func defaultDynamicConfig() dynamicconfig.StaticClient {
	return dynamicconfig.StaticClient{
		// A local server calls nobody.
		dynamicconfig.EnableServerVersionCheck.Key(): false,
		// Partitions spread a queue over matching hosts; here they only add hops.
		dynamicconfig.MatchingNumTaskqueueReadPartitions.Key():  1,
		dynamicconfig.MatchingNumTaskqueueWritePartitions.Key(): 1,
		// A cluster's hundreds of workers would all wait for the one connection to SQLite,
		// each longer than its task's deadline of 3 s once a thousand runs are under way:
		// then none gets anything done, for good. A few lose nothing.
		dynamicconfig.TransferProcessorSchedulerWorkerCount.Key():    queueWorkers,
		dynamicconfig.TimerProcessorSchedulerWorkerCount.Key():       queueWorkers,
		dynamicconfig.MemoryTimerProcessorSchedulerWorkerCount.Key(): queueWorkers,
		dynamicconfig.VisibilityProcessorSchedulerWorkerCount.Key():  queueWorkers,
	}
}

// newServer puts the four services on one loopback address. Their hosts are static, so
// there is no membership protocol: a restart on new ports finds no stale members.
func newServer(opts options, db *database, logger log.Logger) (temporal.Server, error) {
	ports, err := freePorts(opts.addr.Addr(), 3)
	if err != nil {
		return nil, err
	}
	grpcPorts := map[primitives.ServiceName]int{
		primitives.FrontendService: int(opts.addr.Port()),
		primitives.HistoryService:  ports[0],
		primitives.MatchingService: ports[1],
		primitives.WorkerService:   ports[2],
	}
	services := map[string]config.Service{}
	hosts := map[primitives.ServiceName]static.Hosts{}
	for name, port := range grpcPorts {
		rpc := config.RPC{BindOnIP: opts.addr.Addr().String(), GRPCPort: port}
		if name == primitives.FrontendService {
			rpc.HTTPPort = opts.httpPort
		}
		services[string(name)] = config.Service{RPC: rpc}
		hosts[name] = static.SingleLocalHost(netip.AddrPortFrom(opts.addr.Addr(), uint16(port)).String())
	}
	cfg := &config.Config{
		Services:     services,
		Persistence:  db.persistence(),
		PublicClient: config.PublicClient{HostPort: opts.addr.String()},
		ClusterMetadata: &cluster.Config{
			FailoverVersionIncrement: 10,
			MasterClusterName:        clusterName,
			CurrentClusterName:       clusterName,
			ClusterInformation: map[string]cluster.ClusterInformation{
				clusterName: {Enabled: true, InitialFailoverVersion: 1, RPCAddress: opts.addr.String()},
			},
		},
		DCRedirectionPolicy: config.DCRedirectionPolicy{Policy: "noop"},
		Archival: config.Archival{
			History:    config.HistoryArchival{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchival{State: config.ArchivalDisabled},
		},
		NamespaceDefaults: config.NamespaceDefaults{Archival: config.ArchivalNamespaceDefaults{
			History:    config.HistoryArchivalNamespaceDefaults{State: config.ArchivalDisabled},
			Visibility: config.VisibilityArchivalNamespaceDefaults{State: config.ArchivalDisabled},
		}},
	}
	server, err := temporal.NewServer(
		temporal.WithConfig(cfg),
		temporal.ForServices(temporal.DefaultServices),
		temporal.WithStaticHosts(hosts),
		temporal.WithDynamicConfigClient(opts.dynamicConfig),
		temporal.WithLogger(logger),
		temporal.WithAuthorizer(authorization.NewNoopAuthorizer()),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper {
			return authorization.NewNoopClaimMapper()
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("configure Temporal: %w", err)
	}
	return server, nil
}

// startUI serves the web UI, when one was asked for, and returns what stops it.
func startUI(opts options) (stop func()) {
	if !opts.uiAddr.IsValid() {
		return func() {}
	}
	ui := uiserver.NewServer(uioptions.WithConfigProvider(&uiconfig.Config{
		TemporalGRPCAddress: opts.addr.String(),
		Host:                opts.uiAddr.Addr().String(),
		Port:                int(opts.uiAddr.Port()),
		DefaultNamespace:    opts.namespace,
		EnableUI:            true,
		DisableNewsFetch:    true,
		HideLogs:            true,
		CORS:                uiconfig.CORS{CookieInsecure: true}, // plain HTTP on loopback
		RefreshInterval:     time.Hour,
	}))
	// Start ends the process itself when it cannot listen, and returns nil after Stop.
	go func() { _ = ui.Start() }()
	return ui.Stop
}

// freePorts returns n different TCP ports that nothing listened on a moment ago. The
// server opens its own listeners, so another process can still take one in between;
// the server then ends with that address in its message.
func freePorts(ip netip.Addr, n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		l, err := net.Listen("tcp", netip.AddrPortFrom(ip, 0).String())
		if err != nil {
			return nil, fmt.Errorf("find a free port on %s: %w", ip, err)
		}
		defer l.Close() // held until all are found, so that they differ
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
