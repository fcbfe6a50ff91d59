// Command penstock-dev runs all of Penstock on this machine until it is
// interrupted; `make dev` calls it. See docs/local-development.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/penstock/penstock/dev/eventarc"
	"github.com/penstock/penstock/dev/faults"
	"github.com/penstock/penstock/dev/stack"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, stop, os.Args[1:], os.Stdout)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "penstock-dev:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "penstock-dev:", err)
		os.Exit(1)
	}
}

type usageError struct{ error }

// run starts a stack, tells where it is, and waits for a signal or a death.
func run(ctx context.Context, stopSignals func(), args []string, out io.Writer) error {
	o := stack.Options{Progress: out, Output: out, Color: colored(out)}
	flags := flag.NewFlagSet("penstock-dev", flag.ContinueOnError)
	flags.StringVar(&o.Pipelines, "pipelines", "", "run the pipelines files of this `folder`")
	flags.StringVar(&o.Templates, "templates", "", "upload the template files of this `folder` (default: templates beside the pipelines folder, if there is one)")
	flags.StringVar(&o.ImageMap, "images", "", "`file` that says what runs each container image (default: images.json beside the pipelines folder, if there is one)")
	flags.StringVar(&o.Dir, "state", "", "keep the state, logs and dev.env in this `folder` (default .penstock in the repository)")
	flags.BoolVar(&o.Memory, "memory", false, "keep runs and objects in memory: begin empty")
	flags.StringVar(&o.Workers, "workers", "", "serverless: Temporal starts and stops the workers by their work (default one that runs all the time)")
	flags.BoolVar(&o.Push, "push", false, "deliver as plain Pub/Sub push subscriptions do, not as Eventarc")
	flags.DurationVar(&o.Delivery.MinBackoff, "min-backoff", 500*time.Millisecond, "wait this long before the first retry of a delivery; Eventarc: 10s")
	flags.DurationVar(&o.Delivery.MaxBackoff, "max-backoff", 10*time.Second, "wait at most this long before a retry of a delivery; Eventarc: 10m")
	flags.IntVar(&o.Delivery.MaxAttempts, "max-attempts", 20, "deliver an event this often before it goes to the dead-letter topic")
	faultsFile := flags.String("faults", "", "make parts misbehave by the rules of this `file`; - begins without rules (docs/fault-lab.md)")
	quiet := flags.Bool("quiet", false, "write the parts' logs to files only")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err}
	}
	if flags.NArg() > 0 {
		return usageError{fmt.Errorf("unexpected argument %q: all settings are flags (see -help)", flags.Arg(0))}
	}
	if *quiet {
		o.Output = nil
	}
	besidePipelines(&o)
	if *faultsFile != "" {
		o.Faults = &faults.Options{}
		if *faultsFile != "-" {
			var err error
			if o.Faults.Plan, err = faults.ReadPlan(*faultsFile); err != nil {
				return usageError{err}
			}
		}
	}

	s, err := stack.Start(ctx, o)
	if ctx.Err() != nil && err != nil {
		return nil //nolint:nilerr // interrupted while it started; Start has cleaned up
	}
	if err != nil {
		return err
	}
	printTable(out, s)
	select {
	case <-ctx.Done():
		fmt.Fprintln(out, "stopping; once more to kill")
		stopSignals() // a second signal has its default effect
	case err = <-s.Died():
		err = fmt.Errorf("%w\nthe rest of the stack was stopped", err)
	}
	return errors.Join(err, s.Close())
}

// besidePipelines finds what belongs to a pipelines folder next to it.
func besidePipelines(o *stack.Options) {
	if o.Pipelines == "" {
		return
	}
	for name, to := range map[string]*string{"templates": &o.Templates, "images.json": &o.ImageMap} {
		path := filepath.Join(filepath.Dir(filepath.Clean(o.Pipelines)), name)
		if _, err := os.Stat(path); *to == "" && err == nil {
			*to = path
		}
	}
}

func printTable(out io.Writer, s *stack.Stack) {
	a := s.Addresses
	events := make([]string, 0, 4)
	for _, t := range s.Events.Triggers() {
		form := ""
		if t.Form == eventarc.Push {
			form = " (push)"
		}
		events = append(events, t.Name+form)
	}
	fmt.Fprintln(out)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"Temporal UI", a.TemporalUI},
		{"Temporal", a.Temporal + "  namespace " + a.Namespace},
		{"Functions", a.Functions + "  /StorageTrigger /PubSubTrigger /EventTrigger /JobStatus"},
		{"Cloud Storage", a.Storage},
		{"Pub/Sub", a.PubSub},
		{"Events", a.Events + "/publish  delivered to: " + strings.Join(events, ", ")},
		{"Dataflow", a.Dataflow},
		{"Workers", a.Workers},
		{"Faults", faultsRow(s)},
		{"Environment", s.EnvFile()},
	} {
		if row[1] != "" {
			fmt.Fprintf(w, "  %s\t%s\n", row[0], row[1])
		}
	}
	w.Flush()
	fmt.Fprintf(out, "\n  Join from another terminal:  set -a; . %s; set +a\n  Stop with Ctrl-C.\n\n", s.EnvFile())
}

func faultsRow(s *stack.Stack) string {
	if s.Faults == nil {
		return ""
	}
	return fmt.Sprintf("%s/faults  seed %d", s.Addresses.Faults, s.Faults.Seed())
}

// colored follows https://no-color.org: only a terminal, and not with NO_COLOR.
func colored(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
