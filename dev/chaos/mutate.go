package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/dev/stack"
)

// Mutant is Penstock with one mechanism taken out of its source, and the scenario that
// shows the difference. The released programs have no switch for it: the text is
// replaced in a copy that only this one build sees.
type Mutant struct {
	// Name selects it.
	Name string
	// Removes says in words what is missing then.
	Removes string
	// Program is what is built with it: worker, functions or penstock.
	Program string
	// File is the source file, from the repository's root, in which Old, found exactly once, becomes New.
	File     string
	Old, New string
	// Scenario is the one that must fail, at Size, with a violation of Invariant that says Says.
	Scenario  string
	Size      Size
	Invariant string
	Says      string
	// Stops says that its story does not come to its end. Otherwise it must: of a story that
	// was cut off anything can be found.
	Stops bool
	// OnRequest leaves it out unless it is named.
	OnRequest bool
}

// mutated is the text of the mutant's file.
func (m Mutant) mutated(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.File))
	if err != nil {
		return nil, fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	if n := strings.Count(string(text), m.Old); n != 1 {
		return nil, fmt.Errorf("mutant %s is stale: its old text is in %s %d times, not once; write it anew, to what the file is now (dev/chaos/mutants.go)", m.Name, m.File, n)
	}
	return []byte(strings.Replace(string(text), m.Old, m.New, 1)), nil
}

// build makes the mutant's program at out. Nothing else is left behind.
func (m Mutant) build(ctx context.Context, root, out string) error {
	text, err := m.mutated(root)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "penstock-mutant-")
	if err != nil {
		return fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	defer os.RemoveAll(dir)
	switch m.Program {
	case "worker":
		err = buildOverlaid(ctx, root, dir, m.File, text, "./worker/cmd", out)
	case "penstock":
		err = buildOverlaid(ctx, root, dir, m.File, text, "./cmd/penstock", out)
	case "functions":
		err = buildStaged(ctx, root, dir, m.File, text, out)
	default:
		err = fmt.Errorf("there is no program %q to build", m.Program)
	}
	if err != nil {
		return fmt.Errorf("mutant %s: %w", m.Name, err)
	}
	return nil
}

// buildOverlaid builds a program with one file's text replaced for the compiler alone.
func buildOverlaid(ctx context.Context, root, dir, file string, text []byte, pkg, out string) error {
	replaced, overlay := filepath.Join(dir, "replaced.go"), filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, file): replaced}})
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(replaced, text, 0o600), os.WriteFile(overlay, list, 0o600)); err != nil {
		return err
	}
	return runStep(ctx, root, "go", "build", "-overlay", overlay, "-o", out, pkg)
}

// buildStaged stages what is deployed as functions, replaces one file's text there, and
// builds it as Cloud Functions does.
func buildStaged(ctx context.Context, root, dir, file string, text []byte, out string) error {
	staged := filepath.Join(dir, "staged")
	if err := runStep(ctx, root, filepath.Join(root, "scripts", "stage-functions"), staged); err != nil {
		return err
	}
	at := filepath.Join(staged, file)
	if _, err := os.Stat(at); err != nil {
		return fmt.Errorf("%s is no part of the functions: %w", file, err)
	}
	if err := os.WriteFile(at, text, 0o600); err != nil {
		return err
	}
	return runStep(ctx, root, filepath.Join(root, "scripts", "build-functions"), staged, out)
}

// Trial is what became of a mutant.
type Trial struct {
	Mutant Mutant
	Report Report
	// Err is why there was no trial.
	Err error
}

// Caught says that the scenario found what it was to find.
func (t Trial) Caught() bool { return t.Err == nil && t.evidence() >= 0 }

// evidence is which violation shows what is missing; -1: none does.
func (t Trial) evidence() int {
	if t.Report.Err != nil && !t.Mutant.Stops {
		return -1
	}
	return slices.IndexFunc(t.Report.Violations, func(v Violation) bool {
		return v.Invariant == t.Mutant.Invariant && strings.Contains(v.Text, t.Mutant.Says)
	})
}

// mutantWithin bounds a scenario of a mutant, and of the same with nothing taken out.
const mutantWithin = 90 * time.Second

// RunMutants builds each mutant, runs its scenario and expects it to fail; first it runs
// each of these scenarios with nothing taken out, and expects it to hold. names select
// mutants; none: all. It says whether everything was as expected; its error is about the
// options alone.
func RunMutants(ctx context.Context, o Options, names []string) (ok bool, err error) {
	chosen, err := chooseMutants(names)
	if err != nil {
		return false, err
	}
	root, err := stack.FindRoot()
	if err != nil {
		return false, err
	}
	bin, err := os.MkdirTemp("", "penstock-mutants-")
	if err != nil {
		return false, fmt.Errorf("make a folder for mutants: %w", err)
	}
	defer os.RemoveAll(bin)
	o.Out = cmp.Or[io.Writer](o.Out, io.Discard)
	o.Folder = cmp.Or(o.Folder, filepath.Join(root, ".penstock", "mutants"))

	fmt.Fprintf(o.Out, "mutants: first each scenario with nothing taken out\n")
	if ok, err = holds(ctx, o, chosen); err != nil {
		return false, err
	}
	fmt.Fprintf(o.Out, "mutants: then %d mutants, each of which one must catch\n", len(chosen))
	caught := 0
	for _, m := range chosen {
		t := try(ctx, o, root, bin, m)
		if ctx.Err() != nil {
			return false, fmt.Errorf("mutants: stopped at %s: %w", m.Name, ctx.Err())
		}
		t.print(o.Out)
		if t.Caught() {
			caught++
		}
	}
	fmt.Fprintf(o.Out, "mutants: %d of %d are caught\n", caught, len(chosen))
	return ok && caught == len(chosen), nil
}

// holds runs the mutants' scenarios with nothing taken out.
func holds(ctx context.Context, o Options, chosen []Mutant) (bool, error) {
	ok := true
	for _, size := range []Size{Short, Default, Full} {
		o.Size, o.Scenarios, o.Within = size, nil, mutantWithin
		for _, m := range chosen {
			if m.Size == size && !slices.Contains(o.Scenarios, m.Scenario) {
				o.Scenarios = append(o.Scenarios, m.Scenario)
			}
		}
		if len(o.Scenarios) == 0 {
			continue
		}
		reports, err := Run(ctx, o)
		if err != nil {
			return false, err
		}
		ok = ok && !slices.ContainsFunc(reports, func(r Report) bool { return !r.OK() })
	}
	return ok, nil
}

// try builds a mutant and runs its scenario.
func try(ctx context.Context, o Options, root, bin string, m Mutant) Trial {
	t := Trial{Mutant: m}
	program := filepath.Join(bin, m.Name)
	if t.Err = m.build(ctx, root, program); t.Err != nil {
		return t
	}
	switch m.Program {
	case "worker":
		o.WorkerBinary = program
	case "functions":
		o.FunctionsBinary = program
	case "penstock":
		o.PenstockBinary = program
	}
	// What it is to find would only be taken for what is wrong.
	o.Out, o.Folder = io.Discard, filepath.Join(o.Folder, m.Name)
	o.Scenarios, o.Size, o.Within = []string{m.Scenario}, m.Size, mutantWithin
	reports, err := Run(ctx, o)
	if err != nil {
		t.Err = err
		return t
	}
	t.Report = reports[0]
	t.Err = os.Remove(program)
	if t.Caught() && !o.Keep {
		t.Err = errors.Join(t.Err, os.RemoveAll(o.Folder))
	}
	return t
}

func (t Trial) print(w io.Writer) {
	verdict := "SURVIVES"
	switch {
	case t.Err != nil:
		verdict = "NOT TRIED"
	case t.Caught():
		verdict = "caught"
	}
	fmt.Fprintf(w, "%-32s %-9s by %-28s %6s  without %s\n", t.Mutant.Name, verdict, t.Mutant.Scenario, t.Report.Took.Round(time.Second), t.Mutant.Removes)
	switch {
	case t.Err != nil:
		fmt.Fprintf(w, "    %v\n", t.Err)
	case t.Caught():
		fmt.Fprintf(w, "    %s\n", t.Report.Violations[t.evidence()])
	default:
		fmt.Fprintf(w, "    it was to break %s: …%s…\n", t.Mutant.Invariant, t.Mutant.Says)
		t.Report.print(w)
	}
}

func chooseMutants(names []string) ([]Mutant, error) {
	all := Mutants()
	var chosen []Mutant
	if len(names) == 0 {
		for _, m := range all {
			if !m.OnRequest {
				chosen = append(chosen, m)
			}
		}
	}
	for _, name := range names {
		i := slices.IndexFunc(all, func(m Mutant) bool { return m.Name == name })
		if i < 0 {
			var known []string
			for _, m := range all {
				known = append(known, m.Name)
			}
			return nil, fmt.Errorf("mutants: there is no mutant %q; there are %s", name, strings.Join(known, ", "))
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}
