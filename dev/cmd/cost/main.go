// Command cost prints what a deployment costs in a month beside Dataflow itself: scripts/cost calls it.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"

	"github.com/penstock/penstock/dev/cost"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("cost", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprintln(stderr, "usage: scripts/cost [OPTION ...] [EVENTS ...]\n\nPrints what a deployment costs in a month of that many events (default 1000 100000 10000000), beside Dataflow itself.")
		flags.PrintDefaults()
	}
	l := cost.DefaultLoad(0)
	file := flags.String("prices", "", "`file` of prices in the form of dev/cost/prices.json (default: that one)")
	flags.Float64Var(&l.Share, "share", l.Share, "share of events that start a run")
	flags.Float64Var(&l.Jobs, "jobs", l.Jobs, "Dataflow jobs of a run")
	flags.BoolVar(&l.Ledger, "ledger", l.Ledger, "whether runs leave final records")
	flags.BoolVar(&l.Dedupe, "dedupe", l.Dedupe, "whether runs claim their keys")
	flags.Float64Var(&l.Handling, "handling", l.Handling, "seconds that an event is in a function, most of them on the way to Temporal")
	flags.Float64Var(&l.RunSeconds, "open", l.RunSeconds, "seconds that a run is open")
	flags.Float64Var(&l.RetentionDays, "retention", l.RetentionDays, "days that Temporal keeps a run")
	flags.Float64Var(&l.Locations, "locations", l.Locations, "locations of jobs")
	flags.Float64Var(&l.Instances, "instances", l.Instances, "instances of a fixed worker")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	prices := cost.ListPrices()
	if *file != "" {
		data, err := os.ReadFile(*file)
		if err == nil {
			prices, err = cost.ParsePrices(data)
		}
		if err != nil {
			fmt.Fprintln(stderr, "cost:", err)
			return 1
		}
	}
	events := flags.Args()
	if len(events) == 0 {
		events = []string{"1000", "100000", "10000000"}
	}
	estimates := make([]cost.Estimate, len(events))
	for i, text := range events {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil || n < 0 {
			fmt.Fprintf(stderr, "cost: %q is no number of events\n", text)
			return 2
		}
		l.Events = n
		estimates[i] = prices.Estimate(l)
	}
	fmt.Fprintf(stdout, "List prices of %s, %s; %g of events start a run, of %g jobs.\n\n", prices.Read, prices.Where, l.Share, l.Jobs)
	if err := prices.Write(stdout, estimates); err != nil {
		fmt.Fprintln(stderr, "cost:", err)
		return 1
	}
	return 0
}
