package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// environment is the process's, under the variables of a local stack where one is to be joined.
type environment struct {
	std   IO
	stack map[string]string // of dev.env; nil: not joined
	file  string            // dev.env's path
}

// The variables that dev.env may set. Others in it are not ours to take: it is found by its place alone.
func stackVariable(name string) bool {
	return strings.HasPrefix(name, "TEMPORAL_") || strings.HasPrefix(name, "PENSTOCK_") ||
		slices.Contains([]string{"STORAGE_EMULATOR_HOST", "PUBSUB_EMULATOR_HOST", "GOOGLE_CLOUD_PROJECT", "DATAFLOW_ENDPOINT"}, name)
}

// readEnvironment joins the local stack of the working tree where the environment names no Temporal. The stack's variables
// belong together, so they win over the environment's.
func readEnvironment(std IO) (environment, error) {
	env := environment{std: std}
	if std.Getenv("TEMPORAL_ADDRESS") != "" {
		return env, nil
	}
	path := findStack()
	if path == "" {
		return env, nil
	}
	stack, err := readVariables(path)
	if err != nil {
		return env, err
	}
	env.stack, env.file = stack, path
	return env, nil
}

// findStack looks for .penstock/dev.env in the working directory and above it, no higher than the root of the Git working
// tree that it lies in.
func findStack() string {
	start, err := os.Getwd()
	if err != nil {
		return ""
	}
	root := treeRoot(start)
	for dir := start; ; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, ".penstock", "dev.env")
		if _, err := os.Stat(path); err == nil {
			return path
		}
		if dir == root {
			return ""
		}
	}
}

// treeRoot is the root of the Git working tree around dir, or dir where there is none.
func treeRoot(dir string) string {
	for at := dir; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, ".git")); err == nil { // a folder, or a file in a linked tree
			return at
		}
		if at == filepath.Dir(at) {
			return dir
		}
	}
}

// readVariables reads KEY=VALUE lines.
func readVariables(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // the stack ended just now
	}
	if err != nil {
		return nil, fmt.Errorf("read the local stack's variables: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	// The stack has no TLS and no API key, and must not be sent the user's.
	vars := map[string]string{"TEMPORAL_CONFIG_FILE": os.DevNull}
	for s := bufio.NewScanner(f); s.Scan(); {
		key, value, ok := strings.Cut(s.Text(), "=")
		if ok && stackVariable(key) {
			vars[key] = value
		}
	}
	return vars, nil
}

func (e environment) get(name string) string {
	if e.stack != nil {
		if v, ok := e.stack[name]; ok {
			return v
		}
		if strings.HasPrefix(name, "TEMPORAL_") {
			return ""
		}
	}
	return e.std.Getenv(name)
}

// LookupEnv and Environ make it the environment that Temporal's client is configured from.
func (e environment) LookupEnv(name string) (string, bool) {
	v := e.get(name)
	return v, v != ""
}

// Environ lists it all.
func (e environment) Environ() []string {
	if e.stack == nil {
		return e.std.Environ()
	}
	var all []string
	for _, kv := range e.std.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if _, ok := e.stack[name]; !ok && !strings.HasPrefix(name, "TEMPORAL_") {
			all = append(all, kv)
		}
	}
	for name, value := range e.stack {
		all = append(all, name+"="+value)
	}
	return all
}
