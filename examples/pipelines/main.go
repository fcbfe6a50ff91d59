// Command pipelines holds the example Beam pipelines in one binary, and Beam's local runner beside them.
//
//	pipelines clean --input=gs://landing/daily/seattle-2012.csv --station=seattle --output=gs://clean/seattle/2012.csv --rejects=gs://rejects/seattle/2012.csv
//	pipelines --pipeline=clean --runner=dataflow …
//	pipelines prism --port=8073
//
// The flags of a pipeline are its parameters; Beam's own flags (--runner, --endpoint, --job_name, …) are accepted beside them. Without --runner the
// pipeline runs here, on a Prism of its own.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/apache/beam/sdks/v2/go/pkg/beam"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/core/runtime/exec/optimized"
	"github.com/apache/beam/sdks/v2/go/pkg/beam/runners"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/dataflow"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/prism"
	_ "github.com/apache/beam/sdks/v2/go/pkg/beam/runners/universal"

	"github.com/penstock/penstock/examples/pipelines/heartbeat"
	"github.com/penstock/penstock/examples/pipelines/weather"
)

// Pipeline is what each example gives: its parameters as flags, and the graph that they describe.
type Pipeline interface {
	// Flags declares the parameters on fs.
	Flags(fs *flag.FlagSet)
	// Build adds the graph to s. An error is a parameter that is missing or impossible.
	Build(s beam.Scope) error
}

func pipelines() map[string]Pipeline {
	return map[string]Pipeline{
		"clean":          &weather.Clean{},
		"summarise":      &weather.Summarise{},
		"publish-report": &weather.PublishReport{},
		"heartbeat":      &heartbeat.Forever{},
		"wait":           &heartbeat.Wait{},
	}
}

func main() {
	err := run(os.Args[1:], os.Stdin, os.Stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, stdin io.Reader, stdout io.Writer) error {
	name, args := choose(args)
	if name == "prism" {
		return servePrism(args, stdin, stdout)
	}
	known := pipelines()
	pipeline, ok := known[name]
	if ok {
		pipeline.Flags(flag.CommandLine)
	}
	flag.CommandLine.Init("pipelines "+name, flag.ContinueOnError)
	if err := flag.CommandLine.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return usageError{err.Error()}
	}
	// In a worker's container this does not return: the binary is started there without a pipeline's name.
	beam.Init()
	if !ok {
		return usageError{fmt.Sprintf("no pipeline %q; the first argument is one of prism, %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))}
	}
	if flag.NArg() > 0 {
		return usageError{fmt.Sprintf("%s: unexpected argument %q; parameters are flags, --name=value", name, flag.Arg(0))}
	}
	p, root := beam.NewPipelineWithRoot()
	if err := pipeline.Build(root); err != nil {
		return usageError{name + ": " + err.Error()}
	}
	runner := *runners.Runner
	if runner == "" {
		runner = "prism"
	}
	// Beam leaves an empty file in the temporary folder for each job that it submits.
	temp, err := os.MkdirTemp("", "pipelines-*")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer os.RemoveAll(temp)
	if err := os.Setenv("TMPDIR", temp); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := beam.Run(context.Background(), runner, p); err != nil {
		return fmt.Errorf("%s: %s", name, cause(err))
	}
	return nil
}

// cause is the last of the causes in Beam's error, the one that the pipeline itself gave: the plan of the stage around it, dozens of lines, is in the log.
func cause(err error) string {
	text := err.Error()
	if i := strings.LastIndex(text, "caused by:\n"); i >= 0 {
		text = text[i+len("caused by:\n"):]
	}
	if head, rest, ok := strings.Cut(text, " failed:\n"); ok && strings.HasPrefix(head, "DoFn[") {
		text = rest
	}
	return strings.TrimSpace(text)
}

// choose takes the pipeline's name from the arguments: the first one, or --pipeline=NAME where a launcher can only pass flags.
func choose(args []string) (name string, rest []string) {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		return args[0], args[1:]
	}
	for i, arg := range args {
		if value, ok := strings.CutPrefix(strings.TrimLeft(arg, "-"), "pipeline="); ok {
			return value, slices.Delete(slices.Clone(args), i, i+1)
		}
	}
	return "", args
}

type usageError struct{ message string }

func (e usageError) Error() string { return e.message }
