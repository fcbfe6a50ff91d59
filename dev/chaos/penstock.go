package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
)

// builtPenstock are the roots in which this process has built the command.
var builtPenstock sync.Map

// penstockBinary builds the command as users do, once.
func penstockBinary(ctx context.Context, root string) (string, error) {
	out := filepath.Join(root, ".penstock", "bin", "penstock")
	once, _ := builtPenstock.LoadOrStore(root, &sync.Mutex{})
	mu := once.(*sync.Mutex)
	mu.Lock()
	defer mu.Unlock()
	if _, done := builtPenstock.Load(out); done {
		return out, nil
	}
	if err := runStep(ctx, root, "go", "build", "-o", out, "./cmd/penstock"); err != nil {
		return "", fmt.Errorf("build penstock: %w", err)
	}
	builtPenstock.Store(out, true)
	return out, nil
}

// Penstock runs a command line of the user's program on the stack, and gives its exit
// code and what it wrote to standard output. Its error says that it could not be run.
func (b *Bench) Penstock(ctx context.Context, args ...string) (code int, stdout string, err error) {
	program := b.options.PenstockBinary
	if program == "" {
		if program, err = penstockBinary(ctx, b.options.root); err != nil {
			return 0, "", err
		}
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = b.Folder
	cmd.Env = []string{"HOME=" + b.Folder, "TEMPORAL_CONFIG_FILE=" + os.DevNull}
	for _, v := range b.Env() {
		cmd.Env = append(cmd.Env, v.Key+"="+v.Value)
	}
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return 0, "", fmt.Errorf("penstock %q: %w", args, err)
	}
	code = cmd.ProcessState.ExitCode()
	b.Say("penstock %q ends with %d: %s", args, code, bytes.TrimSpace(said.Bytes()))
	return code, out.String(), nil
}

// PenstockJSON runs a command line with -o json, wants one of the exit codes and reads the answer.
func (b *Bench) PenstockJSON(ctx context.Context, into any, codes []int, args ...string) error {
	code, text, err := b.Penstock(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	for _, want := range codes {
		if code == want {
			if err := json.Unmarshal([]byte(text), into); err != nil {
				return fmt.Errorf("penstock %q answers %q: %w", args, text, err)
			}
			return nil
		}
	}
	return fmt.Errorf("penstock %q ends with %d, want %v: %s", args, code, codes, text)
}

// runStep runs a step of a build; its error has what the step said.
func runStep(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOWORK=off", "CGO_ENABLED=0")
	// A script that is interrupted leaves no build behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, said)
	}
	return nil
}
