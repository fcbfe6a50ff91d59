package chaos

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/penstock/penstock/dev/stack"
)

// A mutant whose text is no more there would pass for one that was caught.
func TestMutantsAreNotStale(t *testing.T) {
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range Mutants() {
		t.Run(m.Name, func(t *testing.T) {
			if names[m.Name] {
				t.Error("another mutant has this name")
			}
			names[m.Name] = true
			text, err := m.mutated(root)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(text), m.New) {
				t.Error("the mutant's text is not in its file")
			}
			if !slices.ContainsFunc(Scenarios(), func(s Scenario) bool { return s.Name == m.Scenario }) {
				t.Errorf("there is no scenario %q", m.Scenario)
			}
		})
	}
}

func TestAStaleMutantIsAnError(t *testing.T) {
	root, err := stack.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	for name, old := range map[string]string{"a text that is not there": "no such text", "a text that is there twice": "return"} {
		m := Mutant{Name: "stale", File: "worker/run.go", Old: old}
		if _, err := m.mutated(root); err == nil || !strings.Contains(err.Error(), "stale") {
			t.Errorf("%s: %v, want an error that says it is stale", name, err)
		}
	}
}

func TestOnlyNamedMutantsRunOnRequest(t *testing.T) {
	all, err := chooseMutants(nil)
	if err != nil || slices.ContainsFunc(all, func(m Mutant) bool { return m.OnRequest }) {
		t.Errorf("without names: %v, %v", all, err)
	}
	one, err := chooseMutants([]string{"no-hand-over"})
	if err != nil || len(one) != 1 {
		t.Errorf("named: %v, %v", one, err)
	}
	if _, err := chooseMutants([]string{"nobody"}); err == nil || !strings.Contains(err.Error(), "keys-unclaimed") {
		t.Errorf("an unknown name: %v, want those that there are", err)
	}
}

// Whatever is found of a story that was cut off, or that is not what is missing, shows nothing.
func TestWhatCatchesAMutant(t *testing.T) {
	found := Report{Violations: []Violation{{"I2", "a was never acknowledged"}, {"I1", "two jobs at once"}}}
	cut := found
	cut.Err = errors.New("the story stopped")
	m := Mutant{Invariant: "I1", Says: "two jobs"}
	for name, tt := range map[string]struct {
		trial Trial
		want  bool
	}{
		"what it was to break":                      {Trial{Mutant: m, Report: found}, true},
		"another invariant":                         {Trial{Mutant: Mutant{Invariant: "I3", Says: "two jobs"}, Report: found}, false},
		"the invariant, but not that":               {Trial{Mutant: Mutant{Invariant: "I1", Says: "a hole"}, Report: found}, false},
		"a story that was cut off":                  {Trial{Mutant: m, Report: cut}, false},
		"a story that was to be":                    {Trial{Mutant: Mutant{Invariant: "I1", Says: "two jobs", Stops: true}, Report: cut}, true},
		"a program that could not be built":         {Trial{Mutant: m, Report: found, Err: errors.New("build")}, false},
		"a story in which nothing was out of order": {Trial{Mutant: m}, false},
	} {
		if got := tt.trial.Caught(); got != tt.want {
			t.Errorf("%s: caught is %t, want %t", name, got, tt.want)
		}
	}
	for _, m := range Mutants() {
		if m.Says == "" {
			t.Errorf("mutant %s does not say what is to be found", m.Name)
		}
	}
}
