package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// penstockBinary is the command as users build it.
var penstockBinary = sync.OnceValues(func() (string, error) {
	out, err := filepath.Abs(filepath.Join("..", "..", ".penstock", "bin", "penstock"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-o", out, "./cmd/penstock")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", errors.New(err.Error() + ": " + string(text))
	}
	return out, nil
})

// cli runs one command line with nothing in its environment but env.
func cli(t *testing.T, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	program, err := penstockBinary()
	if err != nil {
		t.Fatal("build penstock:", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = t.TempDir() // where no stack is to be found
	cmd.Env = append([]string{"HOME=" + cmd.Dir, "TEMPORAL_CONFIG_FILE=" + os.DevNull}, env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("penstock %q: %v", args, err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// environment is what dev.env has.
func (b *bench) environment() []string {
	var env []string
	for _, v := range b.Env() {
		env = append(env, v.Key+"="+v.Value)
	}
	return env
}

// penstock runs a command line on the stack, wants the exit code, and gives what it
// wrote to standard output.
func (b *bench) penstock(t *testing.T, want int, args ...string) string {
	t.Helper()
	code, stdout, stderr := cli(t, b.environment(), args...)
	if code != want {
		t.Fatalf("penstock %q ends with %d, want %d\n%s\n%s", args, code, want, stdout, stderr)
	}
	return stdout
}
