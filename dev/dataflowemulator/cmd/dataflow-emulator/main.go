// Command dataflow-emulator serves the Dataflow v1b3 API on this machine. See docs/dataflow-emulator.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/dev/dataflowemulator"
	"github.com/penstock/penstock/dev/dataflowemulator/rest"
	"github.com/penstock/penstock/dev/faults"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fmt.Fprintln(os.Stderr, "dataflow-emulator:", err)
		os.Exit(1)
	}
}

// run serves until the context ends. The first line on stdout is the API's base URL, once it answers.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("dataflow-emulator", flag.ContinueOnError)
	var config dataflowemulator.Config
	listen := fs.String("listen", "127.0.0.1:0", "address to serve on; port 0 takes a free one")
	images := fs.String("images", "", "image map, a JSON file: what runs the jobs of each container image or classic template")
	prism := fs.String("prism", "", "command that serves a Prism and prints its endpoint; split at spaces")
	logs := fs.String("logs", "", "folder for what the jobs' processes print")
	sink := fs.String("sink", "", "URL that job status events are posted to")
	fs.StringVar(&config.StorageEndpoint, "storage", os.Getenv("STORAGE_EMULATOR_HOST"), "Cloud Storage that template files are read from")
	fs.StringVar(&config.Ledger, "ledger", "", "file that each launch and each state is appended to, and whose jobs go on")
	fs.StringVar(&config.DefaultLocation, "location", "", "region of requests that name none (default us-central1)")
	fs.IntVar(&config.ConcurrentJobs, "concurrent_jobs", 0, "quota of active jobs in a project; negative: none (default 25)")
	fs.BoolVar(&config.RefuseFlexOverQuota, "refuse_flex_over_quota", false, "refuse a flex launch over the quota instead of failing its job")
	fs.BoolVar(&config.ReturnExisting, "return_existing", false, "answer a launch under an active job's name with that job instead of 409")
	fs.DurationVar(&config.CancelNotReady, "cancel_not_ready", 0, "how long a new job is not yet ready for canceling")
	fs.DurationVar(&config.ForceCancelAfter, "force_cancel_after", 0, "how long a job must have been cancelling before it can be cancelled by force")
	fs.DurationVar(&config.ListLag, "list_lag", 0, "how long a new job is missing from lists")
	fs.BoolVar(&config.HideQueued, "hide_queued", false, "keep QUEUED jobs out of lists")
	faultsFile := fs.String("faults", "", "file of rules by which calls and jobs misbehave, served at /faults; - begins without rules (docs/fault-lab.md)")
	faultsLog := fs.String("faults_log", "", "file that each fault is appended to")
	if err := fs.Parse(args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q; try -h", fs.Arg(0))
	}
	if *logs != "" {
		if err := os.MkdirAll(*logs, 0o700); err != nil {
			return fmt.Errorf("make the folder for logs: %w", err)
		}
	}
	if *images != "" {
		var err error
		defaults := dataflowemulator.Command{Prism: strings.Fields(*prism), Logs: *logs}
		if config.Images, config.Templates, err = dataflowemulator.ReadImages(*images, defaults); err != nil {
			return err
		}
	}
	if *sink != "" {
		config.Sink = dataflowemulator.HTTPSink{URL: *sink}
	}
	var lab *faults.Lab
	if *faultsFile != "" {
		var err error
		if lab, err = openFaults(*faultsFile, *faultsLog); err != nil {
			return err
		}
		defer lab.Close()
		config.Hooks = lab.DataflowHooks()
	}
	emulator, err := dataflowemulator.New(config)
	if err != nil {
		return err
	}
	defer emulator.Close()
	handler := rest.Handler(emulator)
	if lab != nil {
		handler = beside(lab.Handler(), handler)
	}

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("serve on %s: %w", *listen, err)
	}
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		// No ReadTimeout: it would also end the call that a rule leaves hanging for longer.
		IdleTimeout: 2 * time.Minute,
		ErrorLog:    slog.NewLogLogger(slog.Default().Handler(), slog.LevelWarn),
	}
	fmt.Fprintf(stdout, "http://%s/\n", listener.Addr())
	if lab != nil {
		fmt.Fprintf(stdout, "faults at http://%s/faults, seed %d\n", listener.Addr(), lab.Seed())
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := server.Shutdown(shutdown); err != nil {
		return server.Close()
	}
	return nil
}

// beside serves the fault lab's paths, and the API's all others as they are: a ServeMux would clean them.
func beside(lab, api http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/faults" || strings.HasPrefix(r.URL.Path, "/faults/") {
			lab.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(w, r)
	})
}

// openFaults makes a fault lab from a faults file ("-": none) and a log file (empty: none).
func openFaults(file, log string) (*faults.Lab, error) {
	var o faults.Options
	if file != "-" {
		var err error
		if o.Plan, err = faults.ReadPlan(file); err != nil {
			return nil, err
		}
	}
	if log != "" {
		f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("open the log of faults: %w", err)
		}
		o.Log = f
	}
	return faults.New(o)
}
