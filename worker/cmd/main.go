// Command worker is the container's main: it serves Penstock's workflows and
// activities on the deployment's task queue. Its configuration is the environment;
// see worker.SettingsFromEnv and package connect.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/penstock/penstock/cloudlog"
	"github.com/penstock/penstock/worker"
)

func main() {
	log := cloudlog.New(os.Stderr, cloudlog.Level(os.Getenv("PENSTOCK_LOG_LEVEL")))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	settings, err := worker.SettingsFromEnv(os.Getenv)
	if err == nil {
		err = worker.Serve(ctx, settings, log)
	}
	if err != nil {
		log.Error("the worker cannot run", "error", err)
		stop()
		os.Exit(1)
	}
}
