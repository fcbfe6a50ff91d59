package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	beamlog "github.com/apache/beam/sdks/v2/go/pkg/beam/log"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"
)

// servePrism runs Beam's local runner as a job server until it is told to stop. Its first line on stdout is its endpoint, host:port, once it takes jobs.
//
// Prism listens on all interfaces and has no flag against that: run it on machines whose network you trust.
func servePrism(args []string, stdin io.Reader, stdout io.Writer) error {
	fs := flag.NewFlagSet("prism", flag.ContinueOnError)
	port := fs.Int("port", 0, "port of the job service (0: any free one)")
	idle := fs.Duration("idle_shutdown", 0, "stop after so long without a job (0: never)")
	leashed := fs.Bool("while_stdin_open", false, "stop when stdin is closed, so that it never outlives the process that started it")
	level := fs.String("log_level", "info", "debug, info, warn or error")
	kind := fs.String("log_kind", "text", "dev, text or json; goes to stderr")
	if err := fs.Parse(args); err != nil {
		return err
	}
	beamlog.SetupLogging(*level, *kind)

	ctx, stopSignals := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stopSignals()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	bound, err := startPrism(ctx, stop, *port, *idle)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(stdout, "127.0.0.1:%d\n", bound); err != nil {
		return fmt.Errorf("tell the endpoint on stdout: %w", err)
	}
	if *leashed {
		go func() {
			_, err := io.Copy(io.Discard, stdin)
			stop(err)
		}()
	}
	<-ctx.Done()
	return nil
}

// startPrism returns the port that is served. Prism does not tell which free port it took and panics on a taken one, so the port is chosen here, and chosen
// again in the rare case that another process takes it in between.
func startPrism(ctx context.Context, stop context.CancelCauseFunc, port int, idle time.Duration) (int, error) {
	if port != 0 {
		return port, tryPrism(ctx, stop, port, idle)
	}
	var errs []error
	for range 5 {
		port, err := freePort()
		if err != nil {
			return 0, err
		}
		if err = tryPrism(ctx, stop, port, idle); err == nil {
			return port, nil
		}
		errs = append(errs, err)
	}
	return 0, errors.Join(errs...)
}

func tryPrism(ctx context.Context, stop context.CancelCauseFunc, port int, idle time.Duration) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("start Prism on port %d: %v (try --port=0)", port, p)
		}
	}()
	if _, err := prism.CreateJobServer(ctx, prism.Options{Port: port, IdleShutdownTimeout: idle, CancelFn: stop}); err != nil {
		return fmt.Errorf("start Prism on port %d: %w", port, err)
	}
	return nil
}

func freePort() (int, error) {
	// Prism listens on every interface, so the port must be free on each.
	l, err := net.Listen("tcp", ":0") //nolint:gosec // open for an instant, and never accepted from
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, fmt.Errorf("find a free port: %w", err)
	}
	return strconv.Atoi(port)
}
