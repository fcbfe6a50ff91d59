// Command demo shows the whole of Penstock on this machine with real files and
// real pipelines, checks what it showed, and ends; `make demo` calls it. Exit
// codes: 0 all checks passed, 1 not, 2 wrong use, 130 interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/penstock/penstock/dev/demo"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code := run(ctx, stop, os.Args[1:])
	os.Exit(code)
}

func run(ctx context.Context, stopSignals func(), args []string) int {
	var o demo.Options
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.BoolVar(&o.Keep, "keep", false, "keep everything running at the end, until Ctrl-C, to look around")
	flags.StringVar(&o.Dir, "state", "", "keep logs and dev.env in this `folder` (default .penstock/demo in the repository)")
	flags.DurationVar(&o.Timeout, "timeout", 45*time.Minute, "give up after this long, builds included")
	flags.DurationVar(&o.Within, "within", 5*time.Minute, "give up when the runs take longer than this, once everything is started")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2 // flag has said why
	case flags.NArg() > 0:
		fmt.Fprintf(os.Stderr, "demo: unexpected argument %q: all settings are flags (see -help)\n", flags.Arg(0))
		return 2
	}
	if address := os.Getenv("TEMPORAL_ADDRESS"); address != "" {
		// The demo's runs are for the demo's own server, not for one that others use.
		fmt.Fprintf(os.Stderr, "demo: TEMPORAL_ADDRESS (%s) is not used: the demo starts a Temporal server of its own\n", address)
		if err := os.Unsetenv("TEMPORAL_ADDRESS"); err != nil {
			fmt.Fprintln(os.Stderr, "demo:", err)
			return 1
		}
	}
	// After the first signal everything is stopped in order; a second one has its default effect.
	context.AfterFunc(ctx, stopSignals)

	terminal := isTerminal(os.Stdout) && os.Getenv("TERM") != "dumb"
	o.Screen = demo.NewScreen(os.Stdout, terminal, os.Getenv("NO_COLOR") == "")
	err := demo.Run(ctx, o)
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "demo: interrupted; everything it started has been stopped")
		return 130
	default:
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
}

func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}
