// Command rotator is the main of the rotator's container: it takes the notices that Secret Manager publishes about the
// Temporal API keys in it, pushed to PORT (8080), and rotates the keys. Its configuration is the environment; see package
// rotation.
package main

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstock/penstock/cloudlog"
	"github.com/penstock/penstock/rotation"
)

func main() {
	log := cloudlog.New(os.Stderr, cloudlog.Level(os.Getenv("PENSTOCK_LOG_LEVEL")))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("the rotator cannot run", "error", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger) error {
	handler, err := rotation.FromEnv(ctx, os.Getenv, log)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", ":"+cmp.Or(os.Getenv("PORT"), "8080"))
	if err != nil {
		return err
	}
	log.Info("the rotator serves", "address", l.Addr().String())
	return rotation.Serve(ctx, l, handler)
}
