package ledger

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

const crashFolder = "LEDGER_TEST_CRASH_IN"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashFolder); dir != "" {
		holdAClaimBeforeItsName(dir)
	}
	os.Exit(m.Run())
}

// holdAClaimBeforeItsName is a process that its test kills in the middle of a write.
func holdAClaimBeforeItsName(dir string) {
	f, err := openFolder(dir)
	if err != nil {
		panic(err)
	}
	f.beforeLink = func() {
		fmt.Println("written")
		select {}
	}
	data := []byte("{}")
	_, err = f.write(context.Background(), claimObject("prod", "orders", "a.csv"), data, 0)
	panic(err)
}

func TestACrashInAWriteLeavesNoClaim(t *testing.T) {
	dir := t.TempDir()
	writer := exec.CommandContext(t.Context(), os.Args[0])
	writer.Env = append(os.Environ(), crashFolder+"="+dir)
	out := must(writer.StdoutPipe())(t)
	if err := writer.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "written\n" {
		t.Fatalf("the writer says %q, %v", line, err)
	}
	if err := writer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Wait() // it was killed

	left := must(filepath.Glob(filepath.Join(dir, "v1/prod/orders/*/.writing-*")))(t)
	if len(left) != 1 {
		t.Fatalf("the writer left %q; it was to be killed in the middle", left)
	}
	l := open(t, dir)
	if _, err := l.Read(t.Context(), "prod", "orders", "a.csv"); !errors.Is(err, ErrNotFound) {
		t.Errorf("the crash left a claim: %v", err)
	}
	if c := must(l.Claim(t.Context(), claim("a.csv", "second", day0)))(t); !c.Mine {
		t.Errorf("the crash left the key taken: %+v", c)
	}
}

func TestAFolderIsReadable(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	seen := must(l.Claim(t.Context(), claim("a.csv", "first", day0)))(t).Entry
	must(l.TakeOver(t.Context(), seen, claim("a.csv", "second", day0)))(t)
	of := filepath.Dir(l.store.url(claimObject("prod", "orders", "a.csv")))
	// What else lies there is not the ledger's.
	for _, stray := range []string{"claim.json", "claim.03.json", "claim.-1.json", "claim.x.json", "claim.99999999999999999999.json", "claim.4.json.swp", "xclaim.5.json", ".writing-x"} {
		if err := os.WriteFile(filepath.Join(of, stray), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if e := must(l.Read(t.Context(), "prod", "orders", "a.csv"))(t); e.Claim.Chain != "second" || e.Generation != 2 {
		t.Errorf("got %+v", e)
	}
	var names []string
	for _, e := range must(os.ReadDir(of))(t) {
		names = append(names, e.Name())
	}
	if !slices.Contains(names, "claim.1.json") || !slices.Contains(names, "claim.2.json") {
		t.Errorf("the folder holds %q", names)
	}
}

func TestAFolderThatLeadsElsewhereIsNotFollowed(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "v1")); err != nil {
		t.Fatal(err)
	}
	if c, err := open(t, dir).Claim(t.Context(), claim("a.csv", "first", day0)); err == nil {
		t.Errorf("claimed outside: %+v", c)
	}
	if left := must(os.ReadDir(outside))(t); len(left) != 0 {
		t.Errorf("written outside: %v", left)
	}
}
