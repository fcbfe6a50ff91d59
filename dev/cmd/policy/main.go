// Command policy checks plans of a deployment, as `terraform show -json` prints them,
// against what must be true of every deployment; scripts/test-terraform calls it. Exit
// codes: 0 all is as it must be, 1 not, 2 wrong use.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/penstock/penstock/dev/policy"
	"github.com/penstock/penstock/pipeline"
)

const usage = `usage: policy [-pipelines FOLDER -location REGION] [-prove | -broken] PLAN.json
       policy -rules
       policy -break FOLDER

`

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("policy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage); flags.PrintDefaults() }
	pipelines := flags.String("pipelines", "", "the `folder` of the pipelines files that the plan was made from; default: it was made from none")
	location := flags.String("location", "", "the `region` of jobs whose step names none")
	prove := flags.Bool("prove", false, "break the plan by each rule's twin, and see it caught")
	broken := flags.Bool("broken", false, "the plan is of a configuration that -break broke: every rule must be violated")
	source := flags.String("break", "", "break the Terraform code in this copied `folder` by every rule")
	rules := flags.Bool("rules", false, "list the rules")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2 // flag has said why
	}
	var err error
	switch {
	case *rules:
		for _, r := range policy.Rules() {
			fmt.Fprintf(stdout, "%-28s every deployment %s\n", r.Name, r.Says)
		}
	case *source != "":
		err = policy.BreakSource(*source)
	case flags.NArg() != 1 || (*pipelines == "") != (*location == ""):
		flags.Usage()
		return 2
	default:
		var plan *policy.Plan
		if plan, err = read(flags.Arg(0), *pipelines, *location); err != nil {
			break
		}
		switch {
		case *prove:
			err = proveAll(stdout, plan)
		case *broken:
			err = expectAll(stdout, plan)
		default:
			err = check(stdout, plan)
		}
	}
	if err != nil {
		fmt.Fprintf(stderr, "policy: %v\n", err)
		return 1
	}
	return 0
}

func read(file, folder, location string) (*policy.Plan, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	plan, err := policy.Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if folder == "" {
		return plan, nil
	}
	set, problems := pipeline.LoadDir(folder)
	if err := problems.Err(); err != nil {
		return nil, fmt.Errorf("the pipelines files do not lint:\n%w", err)
	}
	plan.Pipelines, plan.JobLocation = set.Pipelines(), location
	return plan, nil
}

func check(w io.Writer, plan *policy.Plan) error {
	found := policy.Check(plan)
	for _, v := range found {
		fmt.Fprintln(w, v)
	}
	if len(found) > 0 {
		return fmt.Errorf("%d violations: see above", len(found))
	}
	fmt.Fprintf(w, "%d resources keep %d rules\n", len(plan.Resources), len(policy.Rules()))
	return nil
}

func proveAll(w io.Writer, plan *policy.Plan) error {
	if err := check(w, plan); err != nil {
		return fmt.Errorf("a plan that is broken already proves nothing: %w", err)
	}
	var failed []string
	for _, p := range policy.Prove(plan) {
		switch {
		case p.Idle:
			failed = append(failed, p.Rule+" (the plan has nothing to break)")
		case len(p.Caught) == 0:
			failed = append(failed, p.Rule)
		default:
			fmt.Fprintf(w, "caught %s\n", p.Caught[0])
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("these rules did not catch their twins: %s", strings.Join(failed, ", "))
	}
	return nil
}

func expectAll(w io.Writer, plan *policy.Plan) error {
	found := policy.Check(plan)
	var missed []string
	for _, r := range policy.Rules() {
		at := slices.IndexFunc(found, func(v policy.Violation) bool { return v.Rule == r.Name })
		if at < 0 {
			missed = append(missed, r.Name)
			continue
		}
		fmt.Fprintf(w, "caught %s\n", found[at])
	}
	if len(missed) > 0 {
		return fmt.Errorf("these rules did not catch what was broken in the configuration: %s", strings.Join(missed, ", "))
	}
	return nil
}
