// Command temporal-dev runs a real Temporal server for local work: all four
// services in one process on 127.0.0.1, SQLite as the store, the web UI beside it.
//
//	temporal-dev -addr 127.0.0.1:7233 -ui-addr 127.0.0.1:8233 -db .penstock/temporal.db
//
// It registers the namespace and its search attributes before the services start,
// then prints one line on standard output, `ready <addr>`, and serves until SIGTERM or
// an interrupt. Its log goes to standard error. With -db, everything acknowledged
// survives a SIGKILL of the process.
//
// With -worker-controller it resizes worker pools that other local processes hold, as
// Temporal Cloud resizes those of Cloud Run: see pools.go.
//
// It is a module of its own because the server's dependencies and the production
// module's do not resolve together, and a process of its own so that it can be killed.
// It has no TLS and no authorization: it is not a way to run Temporal in production.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/server/common/dynamicconfig"
	"go.temporal.io/server/common/log"
)

// readyTimeout bounds the wait for a started server to answer; it takes under a
// second on an idle machine.
const readyTimeout = time.Minute

// options are the command's flags, parsed.
type options struct {
	addr             netip.AddrPort // gRPC frontend
	httpPort         int            // Temporal's HTTP API; 0: none
	uiAddr           netip.AddrPort // web UI; the zero value: none
	db               string         // SQLite file; empty: memory
	namespace        string
	retention        time.Duration
	searchAttributes map[string]enumspb.IndexedValueType
	dynamicConfig    dynamicconfig.StaticClient
	workerController bool          // resize worker pools; see pools.go
	controllerLook   time.Duration // how often it looks at a pool's queues; 0: as the server has it
	logLevel         string
}

func main() {
	opts, err := parseFlags(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil:
		fmt.Fprintln(os.Stderr, "temporal-dev:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Once the first signal has begun the orderly stop, a second one ends the process.
	context.AfterFunc(ctx, stop)
	if err := run(ctx, opts, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "temporal-dev:", err)
		os.Exit(1)
	}
}

// run serves until ctx is done.
func run(ctx context.Context, opts options, stdout io.Writer) error {
	if err := checkListen(opts); err != nil {
		return err
	}
	logger := log.NewZapLogger(log.BuildZapLogger(log.Config{Level: opts.logLevel, Format: "console"}))
	db, err := openDatabase(opts.db)
	if err != nil {
		return err
	}
	defer db.unlock()
	if err := db.registerNamespace(ctx, opts.namespace, opts.retention, opts.searchAttributes); err != nil {
		return err
	}
	if opts.workerController {
		if err := enableWorkerController(opts.dynamicConfig, opts.controllerLook); err != nil {
			return err
		}
	}
	server, err := newServer(opts, db, logger)
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return fmt.Errorf("start Temporal on %s: %w", opts.addr, err)
	}
	stopUI := startUI(opts)
	err = awaitReady(ctx, opts)
	if err == nil {
		fmt.Fprintln(stdout, "ready", opts.addr)
		<-ctx.Done()
	} else if ctx.Err() != nil {
		err = nil // asked to stop while starting
	}
	stopUI()
	if stopErr := server.Stop(); stopErr != nil {
		err = errors.Join(err, fmt.Errorf("stop Temporal: %w", stopErr))
	}
	return err
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	opts := options{
		searchAttributes: map[string]enumspb.IndexedValueType{},
		dynamicConfig:    defaultDynamicConfig(),
	}
	fs := flag.NewFlagSet("temporal-dev", flag.ContinueOnError)
	fs.SetOutput(stderr)
	addr := fs.String("addr", "127.0.0.1:7233", "serve gRPC on this loopback `address`")
	uiAddr := fs.String("ui-addr", "", "serve the web UI on this loopback `address` (default none)")
	fs.IntVar(&opts.httpPort, "http-port", 0, "serve Temporal's HTTP API on this `port` (default none)")
	fs.StringVar(&opts.db, "db", "", "keep everything in this SQLite `file` (default memory)")
	fs.StringVar(&opts.namespace, "namespace", "default", "register this namespace")
	fs.DurationVar(&opts.retention, "retention", 72*time.Hour, "keep closed workflows in the namespace for this long")
	fs.StringVar(&opts.logLevel, "log-level", "warn", "debug, info, warn or error")
	fs.BoolVar(&opts.workerController, "worker-controller", false, "resize worker pools (compute provider subprocess) by the tasks of their queues")
	fs.DurationVar(&opts.controllerLook, "worker-controller-look", 0, "look this often whether a pool has nothing to do (default the server's: after 5m, then every 30s to 5m)")
	fs.Func("search-attribute", "register `name=Type` in the namespace (repeatable); Type is Bool, Datetime, Double, Int, Keyword, KeywordList or Text",
		func(s string) error { return addSearchAttribute(opts.searchAttributes, s) })
	fs.Func("dynamic-config", "set the server's dynamic config `key=JSON` (repeatable)",
		func(s string) error { return addDynamicConfig(opts.dynamicConfig, s) })
	if err := fs.Parse(args); err != nil {
		return options{}, err
	}
	if fs.NArg() > 0 {
		return options{}, fmt.Errorf("unexpected argument %q: all settings are flags (see -help)", fs.Arg(0))
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, opts.logLevel) {
		return options{}, fmt.Errorf("-log-level %q: want debug, info, warn or error", opts.logLevel)
	}
	if opts.httpPort < 0 || opts.httpPort > 65535 {
		return options{}, fmt.Errorf("-http-port %d: want a port from 1 to 65535, or 0 for none", opts.httpPort)
	}
	if opts.controllerLook != 0 && (!opts.workerController || opts.controllerLook < time.Second) {
		return options{}, fmt.Errorf("-worker-controller-look %s: want 1s at least, and -worker-controller with it", opts.controllerLook)
	}
	if opts.namespace == "" {
		return options{}, errors.New("-namespace is empty: name one, for example default")
	}
	var err error
	if opts.addr, err = loopback("-addr", *addr); err != nil {
		return options{}, err
	}
	if *uiAddr != "" {
		opts.uiAddr, err = loopback("-ui-addr", *uiAddr)
	}
	return opts, err
}

// loopback parses an address that nothing but this machine can reach.
func loopback(flagName, s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(strings.Replace(s, "localhost:", "127.0.0.1:", 1))
	if err != nil || !ap.Addr().IsLoopback() || ap.Port() == 0 {
		return netip.AddrPort{}, fmt.Errorf("%s %q: want a loopback address with a port, such as 127.0.0.1:7233", flagName, s)
	}
	return ap, nil
}

func addSearchAttribute(attrs map[string]enumspb.IndexedValueType, s string) error {
	name, typeName, _ := strings.Cut(s, "=")
	t, err := enumspb.IndexedValueTypeFromString(typeName)
	if name == "" || err != nil || t == enumspb.INDEXED_VALUE_TYPE_UNSPECIFIED {
		return errors.New("want name=Type with Type one of Bool, Datetime, Double, Int, Keyword, KeywordList, Text")
	}
	if old, ok := attrs[name]; ok && old != t {
		return fmt.Errorf("%s was given before as %s", name, old)
	}
	attrs[name] = t
	return nil
}

// addDynamicConfig checks the key and the value against the settings that the server
// registers, because the server itself ignores what it does not know.
func addDynamicConfig(values dynamicconfig.StaticClient, s string) error {
	key, value, ok := strings.Cut(s, "=")
	if !ok || key == "" || value == "" {
		return errors.New("want key=JSON, for example frontend.namespaceRPS=500")
	}
	var loader dynamicconfig.YamlLoader
	loader.LoadValue(dynamicconfig.MakeKey(key), fmt.Appendf(nil, "[{value: %s}]", value))
	if err := errors.Join(append(loader.Errors, loader.Warnings...)...); err != nil {
		return err
	}
	for k, v := range loader.Map {
		values[k] = v
	}
	return nil
}

// checkListen tells a taken port by its flag; the server would end the process with a stack trace.
func checkListen(opts options) error {
	addrs := map[string]netip.AddrPort{"-addr": opts.addr}
	if opts.uiAddr.IsValid() {
		addrs["-ui-addr"] = opts.uiAddr
	}
	if opts.httpPort != 0 {
		addrs["-http-port"] = netip.AddrPortFrom(opts.addr.Addr(), uint16(opts.httpPort))
	}
	for name, ap := range addrs {
		l, err := net.Listen("tcp", ap.String())
		if err != nil {
			return fmt.Errorf("%s: %w: is another server running there? choose another port", name, err)
		}
		if err := l.Close(); err != nil {
			return fmt.Errorf("%s: release %s: %w", name, ap, err)
		}
	}
	return nil
}

// awaitReady returns when the namespace answers a query on every search attribute
// and the UI serves.
func awaitReady(ctx context.Context, opts options) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	c, err := client.DialContext(ctx, client.Options{
		HostPort:  opts.addr.String(),
		Namespace: opts.namespace,
		Logger:    log.NewSdkLogger(log.NewNoopLogger()),
	})
	if err != nil {
		return fmt.Errorf("reach Temporal on %s: %w", opts.addr, err)
	}
	defer c.Close()
	var query strings.Builder
	query.WriteString("WorkflowType IS NOT NULL")
	for name := range opts.searchAttributes {
		fmt.Fprintf(&query, " AND `%s` IS NULL", name)
	}
	if err := retry(ctx, func() error {
		_, err := c.CountWorkflow(ctx, &workflowservice.CountWorkflowExecutionsRequest{Query: query.String()})
		return err
	}); err != nil {
		return fmt.Errorf("query namespace %s on %s: %w", opts.namespace, opts.addr, err)
	}
	if !opts.uiAddr.IsValid() {
		return nil
	}
	url := "http://" + opts.uiAddr.String() + "/healthz"
	if err := retry(ctx, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("status %s", resp.Status)
		}
		return nil
	}); err != nil {
		return fmt.Errorf("reach the web UI at %s: %w", url, err)
	}
	return nil
}

// retry calls f until it succeeds or ctx is done, and returns f's last error.
func retry(ctx context.Context, f func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}
