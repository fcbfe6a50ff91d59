// Command stage puts together exactly what is deployed as Cloud Functions: the root package, the packages that it imports,
// a go.mod that holds no more than they need, and the pipelines files.
//
// The buildpack compiles whatever is uploaded, tests, tools and nested modules included, and resolves all their
// dependencies. So what is not needed is not uploaded. The same sources give the same bytes, whenever and wherever.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/penstock/penstock/pipeline"
)

const usage = `usage: stage-functions [-pipelines FOLDER] [-zip] DIR

Stages what is deployed as Cloud Functions into DIR, which must be empty, absent or staged before.

  -pipelines FOLDER  lint the pipelines files of FOLDER and stage them as pipelines/
  -zip               also write functions-HASH.zip beside DIR and print its path;
                     HASH is of the content, so that an unchanged deployment keeps its name
`

// Exit codes, as those of the penstock command.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitInvalid = 3 // the pipelines do not lint
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	var s stage
	zip := false
	flags := flag.NewFlagSet("stage-functions", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	flags.StringVar(&s.root, "root", ".", "") // given by scripts/stage-functions
	flags.StringVar(&s.pipelines, "pipelines", "", "")
	flags.BoolVar(&zip, "zip", false, "")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return exitUsage
	}
	if flags.NArg() != 1 {
		flags.Usage()
		return exitUsage
	}
	s.out, s.stderr = flags.Arg(0), stderr
	err := s.run()
	var problems pipeline.Problems
	switch {
	case errors.As(err, &problems):
		fmt.Fprintf(stderr, "%v\nstage-functions: the pipelines in %s do not lint; nothing was staged\n", err, s.pipelines)
		return exitInvalid
	case err != nil:
		fmt.Fprintf(stderr, "stage-functions: %v\n", err)
		return exitFailed
	case zip:
		name, err := s.zip()
		if err != nil {
			fmt.Fprintf(stderr, "stage-functions: %v\n", err)
			return exitFailed
		}
		fmt.Fprintln(stdout, name)
	}
	return 0
}
