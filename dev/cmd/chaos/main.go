// Command chaos runs the scenarios of dev/chaos; `make chaos` calls it. Exit codes: 0
// all hold, 1 not, 2 wrong use, 130 interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/penstock/penstock/dev/chaos"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	// After the first signal everything is stopped in order; a second one has its default effect.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	o := chaos.Options{Out: os.Stdout}
	var scenarios, size string
	var list, mutants bool
	var soak time.Duration
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.StringVar(&scenarios, "scenario", "", "run only these, by `name`, with commas between")
	flags.StringVar(&size, "size", "default", "how large: short, default or full")
	flags.Uint64Var(&o.Seed, "seed", 0, "what all chance follows; 0 chooses one")
	flags.IntVar(&o.AtOnce, "at-once", 0, "how many scenarios run side by side (default 2)")
	flags.StringVar(&o.Folder, "state", "", "keep logs and databases in this `folder` (default .penstock/chaos in the repository)")
	flags.BoolVar(&o.Keep, "keep", false, "keep them of what holds, too")
	flags.BoolVar(&o.Verbose, "v", false, "tell what happens while it does")
	flags.DurationVar(&soak, "soak", 0, "put load and random trouble on one stack for so long, in place of the scenarios")
	flags.BoolVar(&mutants, "mutants", false, "try the mutants that the arguments name, or all: each has one mechanism taken out, and its scenario must notice")
	flags.BoolVar(&list, "list", false, "say what scenarios there are")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2 // flag has said why
	case flags.NArg() > 0 && !mutants:
		fmt.Fprintf(os.Stderr, "chaos: unexpected argument %q: all settings are flags (see -help)\n", flags.Arg(0))
		return 2
	}
	if list {
		for _, s := range chaos.Scenarios() {
			fmt.Printf("%-32s %s\n", s.Name, s.What)
		}
		return 0
	}
	if scenarios != "" {
		o.Scenarios = strings.Split(scenarios, ",")
	}
	sizes := map[string]chaos.Size{"short": chaos.Short, "default": chaos.Default, "full": chaos.Full}
	var ok bool
	if o.Size, ok = sizes[size]; !ok {
		fmt.Fprintf(os.Stderr, "chaos: there is no size %q; there are short, default and full\n", size)
		return 2
	}
	// It kills the server that it uses: never one that others use.
	for _, name := range []string{"TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE"} {
		if err := os.Unsetenv(name); err != nil {
			fmt.Fprintln(os.Stderr, "chaos:", err)
			return 1
		}
	}
	var reports []chaos.Report
	var err error
	switch {
	case mutants:
		ok, err = chaos.RunMutants(ctx, o, flags.Args())
	case soak > 0:
		reports = make([]chaos.Report, 1)
		reports[0], err = chaos.Soak(ctx, o, soak)
	default:
		reports, err = chaos.Run(ctx, o)
	}
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "chaos: interrupted; everything it started has been stopped")
		return 130
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		return 2
	case !ok || slices.ContainsFunc(reports, func(r chaos.Report) bool { return !r.OK() }):
		return 1
	}
	return 0
}
