package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/penstock/penstock/dev/faults"
)

// faultsLog is the default log of faults, in Dir.
var faultsLog = filepath.Join("logs", "faults.jsonl")

// startFaults makes the fault lab, if one is wanted, and says its seed.
func (s *Stack) startFaults(context.Context) error {
	if s.o.Faults == nil {
		return nil
	}
	o := *s.o.Faults
	if s.o.DataflowProcess {
		o.Rules = slices.DeleteFunc(slices.Clone(o.Rules), atDataflow)
	}
	if o.Log == nil {
		log, err := os.Create(filepath.Join(s.o.Dir, faultsLog))
		if err != nil {
			return fmt.Errorf("make the log of faults: %w", err)
		}
		o.Log = log
	}
	var err error
	if s.Faults, err = faults.New(o); err != nil {
		return err
	}
	if s.Addresses.Faults, err = s.serve("faults", s.Faults.Handler()); err != nil {
		return err
	}
	s.progress("%-10s %s/faults, seed %d", "faults", s.Addresses.Faults, s.Faults.Seed())
	return nil
}

// startProxy puts a proxy before Temporal for one part. Everybody who is no part
// connects to the server itself.
func (s *Stack) startProxy(part string) error {
	if s.Faults == nil {
		return nil
	}
	s.partsMu.Lock()
	defer s.partsMu.Unlock()
	if s.proxies[part] != nil {
		return nil // the name is taken, which addPart says
	}
	p, err := s.Faults.StartProxy(part, s.Addresses.Temporal, s.logs.logger("faults"))
	if err != nil {
		return err
	}
	if s.proxies == nil {
		s.proxies = map[string]*faults.Proxy{}
	}
	s.proxies[part] = p
	return nil
}

// throughProxy is the environment that leads a part to Temporal by its proxy.
func (s *Stack) throughProxy(part string) []string {
	s.partsMu.Lock()
	defer s.partsMu.Unlock()
	p := s.proxies[part]
	if p == nil {
		return nil
	}
	return []string{"TEMPORAL_ADDRESS=" + p.Addr()}
}
