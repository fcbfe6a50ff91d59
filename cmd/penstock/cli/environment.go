package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// environment is the process's, under the variables of a local stack where one is joined.
type environment struct {
	std   IO
	stack map[string]string // of dev.env; nil: none is joined
	file  string            // dev.env's path
	told  bool              // the user was told that the stack is used
}

// readEnvironment joins the local stack of the working tree where the environment names no Temporal. The stack's variables
// belong together, so they win over the environment's.
func readEnvironment(std IO) (*environment, error) {
	env := &environment{std: std}
	if std.Getenv("TEMPORAL_ADDRESS") != "" {
		return env, nil
	}
	path := findStack()
	if path == "" {
		return env, nil
	}
	stack, err := readVariables(path)
	if errors.Is(err, fs.ErrNotExist) {
		return env, nil // the stack ended just now
	}
	env.stack, env.file = stack, path
	return env, err
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
	if err != nil {
		return nil, fmt.Errorf("read the local stack's variables: %w", err)
	}
	defer func() { _ = f.Close() }() // only read from
	// The stack has no TLS and no API key, and must not be sent the user's.
	vars := map[string]string{"TEMPORAL_CONFIG_FILE": os.DevNull}
	s := bufio.NewScanner(f)
	for s.Scan() {
		if key, value, ok := strings.Cut(s.Text(), "="); ok {
			vars[key] = value
		}
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("read the local stack's variables: %w", err)
	}
	return vars, nil
}

// get is a variable's value. The first that comes from the local stack tells the user so.
func (e *environment) get(name string) string {
	if e.stack == nil {
		return e.std.Getenv(name)
	}
	if v, ok := e.stack[name]; ok {
		if !e.told {
			e.told = true
			fmt.Fprintf(e.std.Err, "using the local stack of %s, as TEMPORAL_ADDRESS is not set\n", clean(e.file))
		}
		return v
	}
	if strings.HasPrefix(name, "TEMPORAL_") {
		return "" // meant for another Temporal
	}
	return e.std.Getenv(name)
}

// LookupEnv and Environ make it the environment that Temporal's client is configured from.
func (e *environment) LookupEnv(name string) (string, bool) {
	v := e.get(name)
	return v, v != ""
}

// Environ lists it all.
func (e *environment) Environ() []string {
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
