package stack

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/penstock/penstock/dev/faults"
)

// emulatorFaults are the rules of a Dataflow emulator that is a process of its own,
// which it does not remember itself.
type emulatorFaults struct {
	mu   sync.Mutex
	plan faults.Plan
}

// atDataflow tells the rules of the Dataflow emulator from those of the other parts.
func atDataflow(r faults.Rule) bool { return r.At == faults.Dataflow || r.At == faults.Job }

// LaunchLedger is the path of the Dataflow emulator's ledger: each launch and each
// state is a line of JSON. Only with Options.DataflowProcess is there one.
func (s *Stack) LaunchLedger() string { return filepath.Join(s.o.Dir, "launches.jsonl") }

// emulatorRules and emulatorFaultsLog are in Dir.
const emulatorRules = "dataflow-faults.json"

var emulatorFaultsLog = filepath.Join("logs", "dataflow-faults.jsonl")

// startDataflowProcess starts the Dataflow emulator as a part.
func (s *Stack) startDataflowProcess(ctx context.Context) error {
	for _, old := range []string{emulatorFaultsLog, "launches.jsonl"} {
		if old == "launches.jsonl" && !s.o.Memory {
			continue // its jobs belong to the runs that Temporal remembers
		}
		if err := os.Remove(filepath.Join(s.o.Dir, old)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what an earlier Dataflow emulator left: %w", err)
		}
	}
	if s.o.Faults != nil {
		for _, r := range s.o.Faults.Rules {
			if atDataflow(r) {
				s.emulator.plan.Rules = append(s.emulator.plan.Rules, r)
			}
		}
		s.emulator.plan.Seed = s.Faults.Seed()
	}
	for s.emulator.plan.Seed == 0 { // the same after a restart
		s.emulator.plan.Seed = rand.Uint64N(1 << 32)
	}
	jobLogs, err := s.jobLogs()
	if err != nil {
		return err
	}
	p, err := s.addPart(&Part{name: "dataflow", health: "/v1b3/projects/" + s.o.Project + "/jobs", command: func(addr string) ([]string, []string, error) {
		rules := filepath.Join(s.o.Dir, emulatorRules)
		if err := s.emulator.write(rules); err != nil {
			return nil, nil, err
		}
		argv := []string{
			s.bin("dataflow-emulator"), "-listen", addr, "-location", s.o.Location, "-storage", s.Addresses.Storage, "-sink", s.Addresses.Events + "/publish",
			"-ledger", s.LaunchLedger(), "-logs", jobLogs, "-faults", rules, "-faults_log", filepath.Join(s.o.Dir, emulatorFaultsLog),
		}
		if s.o.ImageMap != "" {
			argv = append(argv, "-images", s.o.ImageMap, "-prism", strings.Join(s.Prism(), " "))
		}
		env := append(os.Environ(), "STORAGE_EMULATOR_HOST="+s.Addresses.Storage, "GOOGLE_CLOUD_PROJECT="+s.o.Project)
		return append(argv, s.o.DataflowFlags...), env, nil
	}})
	if err != nil {
		return err
	}
	if err := p.Start(ctx); err != nil {
		return err
	}
	s.Addresses.Dataflow = p.URL() + "/"
	return nil
}

// StartDataflow starts the Dataflow emulator at its address after KillDataflow: with
// the jobs of its ledger, and with the rules that are in force, which count anew.
func (s *Stack) StartDataflow(ctx context.Context) error { return s.start(ctx, "dataflow") }

// KillDataflow ends the Dataflow emulator as a crash would, if it is a process.
func (s *Stack) KillDataflow() error { return s.Part("dataflow").Kill() }

// PutFault sets one rule, in place of the one of its name, in the lab that has its
// place: the Dataflow emulator's own if that is a process, else the stack's.
func (s *Stack) PutFault(ctx context.Context, r faults.Rule) error {
	if err := r.Check(); err != nil {
		return err
	}
	if !s.o.DataflowProcess || !atDataflow(r) {
		if s.Faults == nil {
			return fmt.Errorf("rule %q: the stack has no fault lab; give Options.Faults", r.Name)
		}
		return s.Faults.Put(r)
	}
	s.emulator.put(r)
	if !s.Part("dataflow").Running() {
		return nil // it begins with the rule
	}
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("rule %q: %w", r.Name, err)
	}
	return s.emulatorLab(ctx, http.MethodPut, r.Name, "", text, nil)
}

// DeleteFault ends one rule, and with it what hangs by it.
func (s *Stack) DeleteFault(ctx context.Context, name string) error {
	if s.emulator.remove(name) {
		if !s.Part("dataflow").Running() {
			return nil
		}
		return s.emulatorLab(ctx, http.MethodDelete, name, "", nil, nil)
	}
	if s.Faults == nil || !s.Faults.Delete(name) {
		return fmt.Errorf("there is no rule %q", name)
	}
	return nil
}

// FaultCounts are those of one rule in force.
func (s *Stack) FaultCounts(ctx context.Context, name string) (faults.Counts, error) {
	return s.AwaitFault(ctx, name, 0)
}

// AwaitFault returns a rule's counts once it has struck n times. It fails when the
// context or the rule ends before that.
func (s *Stack) AwaitFault(ctx context.Context, name string, n int) (faults.Counts, error) {
	if s.emulator.has(name) {
		var counts faults.Counts
		err := s.emulatorLab(ctx, http.MethodGet, name, "injected="+strconv.Itoa(n), nil, &counts)
		return counts, err
	}
	if s.Faults == nil {
		return faults.Counts{}, fmt.Errorf("there is no rule %q", name)
	}
	return s.Faults.Await(ctx, name, n)
}

// emulatorLab calls the lab of the Dataflow emulator's process about one rule.
func (s *Stack) emulatorLab(ctx context.Context, method, name, query string, body []byte, into any) error {
	target := s.Part("dataflow").URL() + "/faults/" + url.PathEscape(name)
	if query != "" {
		target += "?" + query
	}
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("rule %q: %w", name, err)
	}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("rule %q at the Dataflow emulator: %w", name, err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return fmt.Errorf("rule %q at the Dataflow emulator: %w", name, err)
	}
	if response.StatusCode != http.StatusOK {
		var refused struct{ Error string }
		_ = json.Unmarshal(text, &refused)
		return fmt.Errorf("rule %q at the Dataflow emulator: %s", name, cmp.Or(refused.Error, response.Status))
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("rule %q at the Dataflow emulator: %w", name, err)
	}
	return nil
}

// named selects a rule by its name.
func named(name string) func(faults.Rule) bool {
	return func(r faults.Rule) bool { return r.Name == name }
}

func (e *emulatorFaults) put(r faults.Rule) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.IndexFunc(e.plan.Rules, named(r.Name)); i >= 0 {
		e.plan.Rules[i] = r
		return
	}
	e.plan.Rules = append(e.plan.Rules, r)
}

func (e *emulatorFaults) has(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.plan.Rules, named(name))
}

func (e *emulatorFaults) remove(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	before := len(e.plan.Rules)
	e.plan.Rules = slices.DeleteFunc(e.plan.Rules, named(name))
	return len(e.plan.Rules) < before
}

// write makes the faults file that the emulator starts with.
func (e *emulatorFaults) write(path string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.plan.Rules == nil {
		e.plan.Rules = []faults.Rule{}
	}
	text, err := json.Marshal(e.plan)
	if err == nil {
		err = os.WriteFile(path, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write the rules of the Dataflow emulator: %w", err)
	}
	return nil
}
