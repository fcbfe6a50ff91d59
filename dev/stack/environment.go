package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// Variable is one KEY=VALUE of dev.env.
type Variable struct{ Key, Value string }

// Env are the variables that let any client join the stack, in dev.env's order.
func (s *Stack) Env() []Variable {
	a := s.Addresses
	env := []Variable{
		{"TEMPORAL_ADDRESS", a.Temporal},
		{"TEMPORAL_NAMESPACE", a.Namespace},
		{"TEMPORAL_UI", a.TemporalUI},
		{"STORAGE_EMULATOR_HOST", a.Storage},
		{"PUBSUB_EMULATOR_HOST", a.PubSub},
		{"GOOGLE_CLOUD_PROJECT", s.o.Project},
		{"DATAFLOW_ENDPOINT", a.Dataflow},
		{"PENSTOCK_FUNCTIONS_URL", a.Functions},
		{"PENSTOCK_EVENTS_URL", a.Events},
		{"PENSTOCK_PIPELINES", s.o.Pipelines},
		{"PENSTOCK_DEPLOYMENT", s.o.Deployment},
		{"PENSTOCK_LOCATION", s.o.Location},
		{"PENSTOCK_DEAD_LETTER_TOPIC", s.DeadLetterTopic()},
		{"PENSTOCK_DEAD_LETTER_SUBSCRIPTION", s.DeadLetterSubscription()},
		{"PENSTOCK_LEDGER", "gs://" + ledgerBucket},
	}
	if a.Faults != "" {
		env = append(env, Variable{"PENSTOCK_FAULTS_URL", a.Faults + "/faults"})
	}
	if a.Workers != "" {
		env = append(env, Variable{"PENSTOCK_WORKERS_URL", a.Workers}, Variable{"PENSTOCK_STATE", stateURL})
	}
	return env
}

// EnvFile is the path of dev.env.
func (s *Stack) EnvFile() string { return filepath.Join(s.o.Dir, "dev.env") }

// writeEnv is the last act of a start: who finds the file finds a ready stack.
func (s *Stack) writeEnv() error {
	var b strings.Builder
	for _, v := range s.Env() {
		fmt.Fprintf(&b, "%s=%s\n", v.Key, v.Value)
	}
	if err := os.WriteFile(s.EnvFile()+".new", []byte(b.String()), 0o644); err != nil {
		return fmt.Errorf("write dev.env: %w", err)
	}
	if err := os.Rename(s.EnvFile()+".new", s.EnvFile()); err != nil {
		return fmt.Errorf("write dev.env: %w", err)
	}
	return nil
}

func (s *Stack) removeEnv() error {
	if err := os.Remove(s.EnvFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove dev.env: %w", err)
	}
	return nil
}

// childEnv is the environment of the functions and the worker: the caller's,
// without what could lead them to a real cloud, and the stack's own.
func (s *Stack) childEnv(more ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		key, _, _ := strings.Cut(v, "=")
		if strings.HasPrefix(key, "TEMPORAL_") && !s.joined() || key == "GOOGLE_APPLICATION_CREDENTIALS" || key == "FUNCTION_TARGET" || key == "PORT" {
			continue
		}
		env = append(env, v)
	}
	for _, v := range s.Env() {
		env = append(env, v.Key+"="+v.Value)
	}
	if !s.joined() {
		// A profile in the user's Temporal configuration, with its TLS and API
		// key, is not meant for this server.
		env = append(env, "TEMPORAL_CONFIG_FILE="+os.DevNull)
	}
	return append(append(env, more...), s.o.Env...)
}

// lockDir claims a state folder for one stack; the lock ends with the process.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("stack: make the state folder: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "stack.lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("stack: lock the state folder: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("stack: another stack runs in %s (%w); stop it, or give this one a state folder of its own (make dev STATE=DIR, make demo ARGS=\"-state DIR\")", dir, err)
	}
	// A stack that was killed could not take its file away.
	if err := os.Remove(filepath.Join(dir, "dev.env")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.Close()
		return nil, fmt.Errorf("stack: remove an old dev.env: %w", err)
	}
	return f, nil
}
