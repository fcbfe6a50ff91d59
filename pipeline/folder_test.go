package pipeline_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// folder is a folder of pipelines files in a test, and what was logged of it.
type folder struct {
	t   *testing.T
	dir string
	log *bytes.Buffer
	at  time.Time
}

func newFolder(t *testing.T) *folder {
	t.Helper()
	return &folder{t: t, dir: t.TempDir(), log: &bytes.Buffer{}, at: time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)}
}

// write replaces a file by one that is a minute younger than the last.
func (f *folder) write(name, src string) {
	f.t.Helper()
	f.at = f.at.Add(time.Minute)
	temp := filepath.Join(f.t.TempDir(), "new")
	for _, err := range []error{
		os.WriteFile(temp, []byte(src), 0o644), os.Chtimes(temp, f.at, f.at), os.Rename(temp, filepath.Join(f.dir, name)),
	} {
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// open is a new process that looks at the files whenever it is asked.
func (f *folder) open() *pipeline.Folder {
	f.t.Helper()
	opened, err := pipeline.Open(f.dir, pipeline.FolderOptions{Recheck: -1, Logger: slog.New(slog.NewTextHandler(f.log, nil))})
	if err != nil {
		f.t.Fatal(err)
	}
	return opened
}

// inForce lists the pipelines of a folder with their purposes.
func inForce(f *pipeline.Folder) string {
	var all []string
	for _, p := range f.Look().Set.Pipelines() {
		all = append(all, p.Name+": "+p.Purpose)
	}
	return strings.Join(all, ", ")
}

func file(name, purpose string) string {
	return "name: " + name + "\npurpose: " + purpose + "\nowner: me\non: [{storage: {bucket: acme}}]\nworkflow: {type: a, taskQueue: b}\n"
}

const bad = "name: orders\ncolour: blue\n"

func (f *folder) expect(open *pipeline.Folder, want string, incomplete bool) {
	f.t.Helper()
	if got := inForce(open); got != want || open.Look().Incomplete() != incomplete {
		f.t.Errorf("in force %q, incomplete %v; want %q, %v\n%v", got, open.Look().Incomplete(), want, incomplete, open.Look().Problems)
	}
}

func TestAFileThatChangesTakesForceWithoutARestart(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "one"))
	f.write("notes.txt", "none of ours")
	open := f.open()
	f.expect(open, "orders: one", false)
	f.write("orders.yaml", file("orders", "two"))
	f.write("prices.yml", file("prices", "one"))
	f.expect(open, "orders: two, prices: one", false)
	if at := open.Look().Set.Pipeline("orders").Version.ChangedAt; !at.Equal(f.at.Add(-time.Minute)) {
		t.Errorf("changed at %v", at)
	}
	if err := os.Remove(filepath.Join(f.dir, "orders.yaml")); err != nil {
		t.Fatal(err)
	}
	f.expect(open, "prices: one", false)
}

// An event that comes to no pipelines at all would be nobody's, and be lost.
func TestAFolderWithoutFilesIsNone(t *testing.T) {
	f := newFolder(t)
	if _, err := pipeline.Open(f.dir, pipeline.FolderOptions{}); err == nil || !strings.Contains(err.Error(), "no pipelines file in "+f.dir) {
		t.Errorf("opened with %v", err)
	}
	f.write("orders.yaml", file("orders", "one"))
	f.write("prices.yaml", file("prices", "one"))
	open := f.open()
	for _, name := range []string{"orders.yaml", "prices.yaml"} {
		if err := os.Remove(filepath.Join(f.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	f.expect(open, "orders: one, prices: one", false)
	f.write("orders.yaml", bad)
	f.expect(open, "orders: one", false)
	if n := strings.Count(f.log.String(), "no pipelines file in"); n != 1 {
		t.Errorf("the log says %d times that there are none, want once", n)
	}
}

func TestAFileThatTurnsBadLeavesItsLastGoodVersionInForce(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "good"))
	f.write("prices.yaml", file("prices", "good"))
	warm := f.open()
	f.write("orders.yaml", bad)
	f.expect(warm, "orders: good, prices: good", false)
	if got := warm.Look().Problems.Error(); !strings.Contains(got, "orders.yaml:2:1: unknown field") {
		t.Errorf("problems are %s", got)
	}
	cold := f.open()
	f.expect(cold, "orders: good, prices: good", false)
	if cold.Look().Set.Pipeline("orders").Version.Hash != warm.Look().Set.Pipeline("orders").Version.Hash {
		t.Error("a cold process has another version than a warm one")
	}
	f.write("orders.yaml", file("orders", "better"))
	f.expect(warm, "orders: better, prices: good", false)
	f.expect(cold, "orders: better, prices: good", false)
}

func TestAFileThatWasNeverGoodMakesTheFolderIncomplete(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", bad)
	f.write("prices.yaml", file("prices", "good"))
	open := f.open()
	f.expect(open, "prices: good", true)
	if got := open.Look().Unusable; len(got) != 1 || got[0] != "orders.yaml" {
		t.Errorf("unusable are %v", got)
	}
	f.write("orders.yaml", file("orders", "good"))
	f.expect(open, "orders: good, prices: good", false)
}

// Pipelines and problems that are asked for one by one may be of two moments.
func TestALookIsOfOneMoment(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", bad)
	f.write("prices.yaml", file("prices", "good"))
	open := f.open()
	then := open.Look()
	f.write("orders.yaml", file("orders", "good"))
	now := open.Look()
	if !then.Incomplete() || len(then.Set.Pipelines()) != 1 || len(then.Unusable) != 1 || !strings.Contains(then.Problems.Error(), "orders.yaml:2:1: unknown field") {
		t.Errorf("while a file is bad: %+v", then)
	}
	if now.Incomplete() || len(now.Set.Pipelines()) != 2 || len(now.Problems) != 0 {
		t.Errorf("once it is good: %+v", now)
	}
}

func TestAnOlderProcessDoesNotOverwriteANewerLastGoodVersion(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "old"))
	old := filepath.Join(f.dir, "orders.yaml")
	oldTime := f.at
	f.open()
	f.write("orders.yaml", file("orders", "new"))
	f.open()
	// A process that still sees the old file, as one with a cached view of a bucket does.
	if err := os.WriteFile(old, []byte(file("orders", "old")), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(old, oldTime, oldTime); err != nil {
		t.Fatal(err)
	}
	f.open()
	f.write("orders.yaml", bad)
	f.expect(f.open(), "orders: new", false)
	kept, err := filepath.Glob(filepath.Join(f.dir, ".last-good", "orders.yaml@*"))
	if err != nil || len(kept) != 1 {
		t.Errorf("kept are %v, %v", kept, err)
	}
}

func TestAFolderThatCannotBeWrittenToStillKeepsGoodVersionsInMemory(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "good"))
	// A file where the folder of last good versions would be stands in for a read-only folder: root writes anywhere else.
	if err := os.WriteFile(filepath.Join(f.dir, ".last-good"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	warm := f.open()
	f.write("orders.yaml", bad)
	f.expect(warm, "orders: good", false)
	f.expect(f.open(), "", true)
}

func TestTwoFilesWithOneName(t *testing.T) {
	f := newFolder(t)
	f.write("b.yaml", file("orders", "first"))
	warm := f.open()
	f.write("a.yaml", file("orders", "second"))
	f.expect(warm, "orders: first", true) // the one that had the name keeps it
	if got := warm.Look().Problems.Error(); !strings.Contains(got, "a.yaml:1:7: another pipeline is called orders") {
		t.Errorf("problems are %s", got)
	}
	f.write("a.yaml", file("others", "second"))
	f.expect(warm, "orders: first, others: second", false)
	f.write("a.yaml", file("orders", "third"))
	f.expect(warm, "orders: first, others: second", false)
	_, problems := pipeline.LoadDir(f.dir)
	if got := problems.Error(); !strings.Contains(got, "b.yaml:1:7: another pipeline is called orders") {
		t.Errorf("problems are %s", got)
	}
}

func TestAFileThatIsRenamedKeepsItsPipeline(t *testing.T) {
	f := newFolder(t)
	f.write("b.yaml", file("orders", "good"))
	open := f.open()
	if err := os.Rename(filepath.Join(f.dir, "b.yaml"), filepath.Join(f.dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	f.expect(open, "orders: good", false)
}

func TestAFileThatWasRemovedDoesNotComeBackByItsLastGoodVersion(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "good"))
	f.write("prices.yaml", file("prices", "good"))
	open := f.open()
	if err := os.Remove(filepath.Join(f.dir, "orders.yaml")); err != nil {
		t.Fatal(err)
	}
	f.expect(open, "prices: good", false)
	f.write("orders.yaml", bad)
	f.expect(open, "prices: good", true)
}

func TestProblemsAreLoggedOncePerChange(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", bad)
	open := f.open()
	for range 5 {
		open.Look()
	}
	if n := strings.Count(f.log.String(), "unknown field"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, f.log)
	}
	f.write("orders.yaml", bad+"size: 1\n")
	open.Look()
	if n := strings.Count(f.log.String(), "size"); n == 0 {
		t.Errorf("a new problem was not logged:\n%s", f.log)
	}
}

func TestTheFilesAreLookedAtOnceASecondAtMost(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "one"))
	open, err := pipeline.Open(f.dir, pipeline.FolderOptions{Recheck: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	f.write("orders.yaml", file("orders", "two"))
	f.expect(open, "orders: one", false)
}

func TestAChangeWithinOneTickOfTheClockIsSeen(t *testing.T) {
	f := newFolder(t)
	f.at = time.Now().Add(-time.Minute)
	f.write("orders.yaml", file("orders", "one"))
	open := f.open()
	f.at = f.at.Add(-time.Minute) // the same time, and a text of the same length
	f.write("orders.yaml", file("orders", "two"))
	f.expect(open, "orders: two", false)
}

func TestAFolderThatGoesAwayLeavesItsPipelinesInForce(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "good"))
	open := f.open()
	if err := os.RemoveAll(f.dir); err != nil {
		t.Fatal(err)
	}
	f.expect(open, "orders: good", false)
	if !strings.Contains(f.log.String(), "cannot be read") {
		t.Errorf("not logged: %s", f.log)
	}
	for _, dir := range []string{f.dir, "gs://acme/pipelines"} {
		if _, err := pipeline.Open(dir, pipeline.FolderOptions{}); err == nil {
			t.Errorf("%s was opened", dir)
		}
	}
}

func TestAFolderServesManyAtOnce(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", file("orders", "good"))
	open, err := pipeline.Open(f.dir, pipeline.FolderOptions{Recheck: time.Nanosecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				for _, m := range open.Look().Set.Match(stored("acme", "x")) {
					if _, _, err := m.Evaluate(); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for i := range 20 {
		f.write("orders.yaml", map[bool]string{true: bad, false: file("orders", "good")}[i%2 == 0])
	}
	all.Wait()
}

func TestLoadDirLeavesTheGoodFilesUsable(t *testing.T) {
	f := newFolder(t)
	f.write("orders.yaml", bad)
	f.write("prices.yaml", file("prices", "good"))
	f.write(".hidden.yaml", bad)
	set, problems := pipeline.LoadDir(f.dir)
	if len(set.Pipelines()) != 1 || set.Pipeline("prices") == nil || !problems.HasErrors() || strings.Contains(problems.Error(), "hidden") {
		t.Errorf("pipelines %v, problems %v", set.Pipelines(), problems)
	}
	if _, err := os.Stat(filepath.Join(f.dir, ".last-good")); err == nil {
		t.Error("lint wrote to the folder")
	}
	if _, problems := pipeline.LoadDir(filepath.Join(f.dir, "none")); !problems.HasErrors() {
		t.Error("a folder that is not there has no problem")
	}
}
