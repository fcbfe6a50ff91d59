package pipeline

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// FolderOptions change how a Folder works. The zero value is ready for use.
type FolderOptions struct {
	// Logger is told of problems and changes, once each. Defaults to slog.Default().
	Logger *slog.Logger
	// Recheck is the least time between two looks at the files. Zero means one second; a negative value looks each time.
	Recheck time.Duration
}

// Folder keeps the pipelines of a folder loaded while its files change: one pipeline a file, *.yaml or *.yml, not in folders below.
//
// A file that turns bad leaves its last good version in force. That version is also kept beside the files, in .last-good/, so
// that a process which starts while the file is bad has it too; where the folder cannot be written to, it is kept in memory
// only. It is safe for concurrent use.
//
// A file should be replaced by renaming a new one over it: one that is written in place may be read half-written, and half of
// a YAML file can be a valid one.
type Folder struct {
	dir     string
	log     *slog.Logger
	recheck time.Duration

	checking sync.Mutex // held by whoever looks at the files
	files    map[string]*folderFile
	dirError string // that was logged last
	next     atomic.Int64
	state    atomic.Pointer[Look]
}

// Look is what one look at the files found. It is not to be changed.
type Look struct {
	// Set holds the pipelines in force.
	Set *Set
	// Problems are what is wrong with the files as they are. The set may hold older versions of them.
	Problems Problems
	// Unusable names the files that have no usable version.
	Unusable []string
}

// Incomplete reports whether some file has no usable version, so that an event may be for a pipeline which is not in the set.
func (l Look) Incomplete() bool { return len(l.Unusable) > 0 }

// folderFile is one file and what is known of it.
type folderFile struct {
	mtime  time.Time
	size   int64
	readAt time.Time
	sum    [sha256.Size]byte
	src    []byte // of current, until it is kept as a last good version

	current  *Pipeline // nil if the file is bad as it is
	problems Problems
	lastGood *Pipeline // the version to fall back on; nil if there is none
	inForce  *Pipeline
	logged   string // the problems that were logged last
}

const lastGoodDir = ".last-good"

// racy is how young a file's time must be for a second change within one tick of the file system's clock to be possible.
const racy = 2 * time.Second

// Open loads a folder. Bad files are no error: see [Folder.Look]. It fails if the folder cannot be read, or holds no
// pipelines file. One that loses its last file later keeps what it had in force.
func Open(dir string, opts FolderOptions) (*Folder, error) {
	if strings.HasPrefix(dir, "gs://") {
		return nil, fmt.Errorf("open pipelines folder %s: only a local folder can be read: mount the bucket or bake the files into the image", dir)
	}
	f := &Folder{dir: dir, log: opts.Logger, recheck: opts.Recheck, files: map[string]*folderFile{}}
	if f.log == nil {
		f.log = slog.Default()
	}
	if f.recheck == 0 {
		f.recheck = time.Second
	}
	f.checking.Lock()
	defer f.checking.Unlock()
	if err := f.check(); err != nil {
		return nil, fmt.Errorf("open pipelines folder: %w", err)
	}
	return f, nil
}

// LoadDir reads every pipelines file of a folder as it is now, for lint and for tools that run once. A bad file leaves the others
// usable. It never looks at last good versions.
func LoadDir(dir string) (*Set, Problems) {
	paths, err := Files(dir)
	if err != nil {
		return NewSet(nil), Problems{{File: dir, Message: err.Error(), Hint: "name a folder that holds pipelines files"}}
	}
	return LoadFiles(paths)
}

// Files lists the paths of a folder's pipelines files, in the order of their names.
func Files(dir string) ([]string, error) {
	names, err := pipelineFiles(dir)
	if err != nil {
		return nil, err
	}
	paths := make([]string, len(names))
	for i, name := range names {
		paths[i] = filepath.Join(dir, name)
	}
	return paths, nil
}

// LoadFiles reads pipelines files as LoadDir does, as if they lay in one folder: a name belongs to the first that claims it.
func LoadFiles(paths []string) (*Set, Problems) {
	var pipelines []*Pipeline
	var problems Problems
	owners := map[string]string{}
	for _, path := range paths {
		p, found := loadFile(path)
		problems = append(problems, found...)
		if p == nil {
			continue
		}
		if owner, taken := owners[p.Name]; taken {
			problems = append(problems, duplicateName(p, owner))
			continue
		}
		owners[p.Name] = path
		pipelines = append(pipelines, p)
	}
	return NewSet(pipelines), problems
}

func duplicateName(p *Pipeline, owner string) Problem {
	return Problem{File: p.File, Line: p.namePosition.Line, Col: p.namePosition.Col,
		Message: fmt.Sprintf("another pipeline is called %s", p.Name), Hint: "it is in " + owner + ": rename one of them"}
}

func loadFile(path string) (*Pipeline, Problems) {
	src, info, err := readFile(path)
	if err != nil {
		return nil, Problems{{File: path, Message: err.Error()}}
	}
	p, problems := Parse(path, src)
	if p != nil {
		p.Version.ChangedAt = info.ModTime().UTC()
	}
	return p, problems
}

// readFile reads a file, and one byte more than Parse takes at most.
func readFile(path string) ([]byte, fs.FileInfo, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read pipelines file: %w", err)
	}
	defer func() { _ = file.Close() }() // only read from
	info, err := file.Stat()
	if err != nil {
		return nil, nil, fmt.Errorf("read pipelines file: %w", err)
	}
	src, err := io.ReadAll(io.LimitReader(file, maxFileSize+1))
	if err != nil {
		return nil, nil, fmt.Errorf("read pipelines file: %w", err)
	}
	return src, info, nil
}

// pipelineFiles lists the names of a folder's pipelines files in order. Hidden files are somebody's editor's.
func pipelineFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("read pipelines folder: %w", err)
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if e.IsDir() || strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		names = append(names, e.Name())
	}
	return names, nil
}

// Look returns the pipelines in force, and what is wrong with the files, as of one moment. It looks at the files first if the last
// look is older than FolderOptions.Recheck; only one caller at a time does, the others get what is known.
func (f *Folder) Look() Look {
	f.refresh()
	return *f.state.Load()
}

func (f *Folder) refresh() {
	if now := time.Now().UnixNano(); f.recheck > 0 && now < f.next.Load() {
		return
	}
	if f.recheck < 0 {
		f.checking.Lock()
	} else if !f.checking.TryLock() {
		return
	}
	defer f.checking.Unlock()
	if err := f.check(); err != nil {
		if f.dirError != err.Error() {
			f.dirError = err.Error()
			f.log.Error("pipelines folder cannot be read; the pipelines known stay in force", "error", err)
		}
		return
	}
	f.dirError = ""
}

// check looks at every file. It is called with checking held.
func (f *Folder) check() error {
	defer func() { f.next.Store(time.Now().Add(f.recheck).UnixNano()) }()
	names, err := pipelineFiles(f.dir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		// A mistaken path, or a moment of an upload, rather than a wish that no event is for anybody any more.
		return fmt.Errorf("there is no pipelines file in %s", f.dir)
	}
	changed := f.state.Load() == nil
	var same, fresh []string
	for _, name := range names {
		if f.look(name) {
			changed = true
			fresh = append(fresh, name)
		} else {
			same = append(same, name)
		}
	}
	for name := range f.files {
		if !slices.Contains(names, name) {
			changed = true
			delete(f.files, name)
			f.forget(name)
			f.log.Info("pipelines file is gone", "file", filepath.Join(f.dir, name))
		}
	}
	if changed {
		// Files that did not change keep their names against those that did.
		f.settle(append(same, fresh...), names)
	}
	return nil
}

// look reads a file if it changed, and says whether it did.
func (f *Folder) look(name string) bool {
	path := filepath.Join(f.dir, name)
	file, known := f.files[name]
	info, err := os.Stat(path)
	if err == nil && known && info.ModTime().Equal(file.mtime) && info.Size() == file.size && file.readAt.Sub(file.mtime) > racy {
		return false
	}
	now := time.Now()
	var src []byte
	if err == nil {
		src, info, err = readFile(path)
	}
	if !known {
		file = &folderFile{}
		f.files[name] = file
	}
	if err != nil {
		problems := Problems{{File: path, Message: err.Error()}}
		unchanged := known && file.current == nil && slices.Equal(file.problems, problems)
		file.current, file.problems, file.mtime, file.size = nil, problems, time.Time{}, 0
		return !unchanged
	}
	sum := sha256.Sum256(src)
	same := known && sum == file.sum && info.ModTime().Equal(file.mtime)
	file.mtime, file.size, file.readAt, file.sum = info.ModTime(), info.Size(), now, sum
	if same {
		return false
	}
	file.current, file.problems = Parse(path, src)
	if file.current != nil {
		file.current.Version.ChangedAt = info.ModTime().UTC()
		file.src = src
	}
	return true
}

// settle decides which version of each file is in force, and publishes them. A name belongs to the first file that claims it;
// one that comes too late falls back as a bad file does.
func (f *Folder) settle(claims, names []string) {
	owners := map[string]string{}
	duplicates := map[string]Problem{}
	claim := func(name string, p *Pipeline) bool {
		if p == nil {
			return false
		}
		if owner, taken := owners[p.Name]; taken {
			if duplicates[name].File == "" {
				duplicates[name] = duplicateName(p, owner)
			}
			return false
		}
		owners[p.Name] = filepath.Join(f.dir, name)
		return true
	}
	// First those whose name is theirs already, so that a newcomer cannot take it.
	order := slices.Clone(claims)
	slices.SortStableFunc(order, func(a, b string) int {
		return rank(f.files[a]) - rank(f.files[b])
	})
	for _, name := range order {
		file := f.files[name]
		file.inForce = nil
		switch {
		case claim(name, file.current):
			file.inForce, file.lastGood = file.current, file.current
			if file.src != nil {
				f.keep(name, file.src, file.mtime)
			}
		default:
			if file.lastGood == nil {
				file.lastGood = f.recall(name)
			}
			if claim(name, file.lastGood) {
				file.inForce = file.lastGood
			}
		}
		file.src = nil
	}
	state := &Look{}
	var pipelines []*Pipeline
	for _, name := range names {
		file := f.files[name]
		problems := file.problems
		if d, ok := duplicates[name]; ok && file.inForce != file.current {
			problems = append(slices.Clone(problems), d)
		}
		state.Problems = append(state.Problems, problems...)
		if file.inForce == nil {
			state.Unusable = append(state.Unusable, name)
		} else {
			pipelines = append(pipelines, file.inForce)
		}
		f.tell(name, file, problems)
	}
	state.Set = NewSet(pipelines)
	f.state.Store(state)
}

func rank(file *folderFile) int {
	if file.current != nil && file.inForce != nil && file.current.Name == file.inForce.Name {
		return 0
	}
	return 1
}

// tell logs a file's problems when they are new.
func (f *Folder) tell(name string, file *folderFile, problems Problems) {
	text := problems.Error()
	if text == file.logged {
		return
	}
	file.logged = text
	for _, p := range problems {
		level := slog.LevelError
		if p.Severity == Warning {
			level = slog.LevelWarn
		}
		f.log.Log(context.Background(), level, "pipelines file has a problem", "problem", p.Error(), "file", p.File, "line", p.Line, "col", p.Col)
	}
	switch path := filepath.Join(f.dir, name); {
	case file.inForce == nil:
		f.log.Error("pipelines file has no usable version; events are refused until it has", "file", path)
	case file.inForce != file.current:
		f.log.Error("pipelines file is bad; its last good version stays in force", "file", path, "pipeline", file.inForce.Name, "version", file.inForce.Version.Hash)
	}
}

// generationName is the name of a last good version. Its generation is in it, so that no process overwrites another's: the highest
// counts.
func generationName(name string, generation int64) string {
	return fmt.Sprintf("%s@%020d", name, generation)
}

func (f *Folder) generations(name string) []string {
	entries, err := os.ReadDir(filepath.Join(f.dir, lastGoodDir))
	if err != nil {
		return nil
	}
	var found []string
	for _, e := range entries {
		if rest, ok := strings.CutPrefix(e.Name(), name+"@"); ok {
			if _, err := strconv.ParseInt(rest, 10, 64); err == nil {
				found = append(found, e.Name())
			}
		}
	}
	return found // in order: the numbers have one length
}

// keep stores a good version beside the files, if it is newer than what is there. A folder that cannot be written to keeps none.
func (f *Folder) keep(name string, src []byte, mtime time.Time) {
	dir := filepath.Join(f.dir, lastGoodDir)
	mine := generationName(name, mtime.UnixNano())
	older := f.generations(name)
	if len(older) > 0 && older[len(older)-1] > mine {
		return
	}
	path := filepath.Join(dir, mine)
	if have, err := os.ReadFile(path); err == nil && bytes.Equal(have, src) {
		return
	}
	if err := store(dir, path, src, mtime); err != nil {
		if !errors.Is(err, fs.ErrPermission) && !isReadOnly(err) {
			f.log.Warn("last good version of a pipelines file cannot be kept", "file", filepath.Join(f.dir, name), "error", err)
		}
		return
	}
	for _, o := range older {
		if o < mine {
			_ = os.Remove(filepath.Join(dir, o)) // another process may have been faster
		}
	}
}

func store(dir, path string, src []byte, mtime time.Time) error {
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep a last good version: %w", err)
	}
	// They are no part of the user's repository, if the folder is.
	if err := os.WriteFile(filepath.Join(dir, ".gitignore"), []byte("*\n"), 0o644); err != nil {
		return fmt.Errorf("keep a last good version: %w", err)
	}
	temp, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("keep a last good version: %w", err)
	}
	_, err = temp.Write(src)
	if err == nil {
		err = temp.Sync()
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Chtimes(temp.Name(), mtime, mtime)
	}
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("keep a last good version: %w", err), os.Remove(temp.Name()))
	}
	return nil
}

// recall reads a file's last good version, or nil.
func (f *Folder) recall(name string) *Pipeline {
	found := f.generations(name)
	for _, g := range slices.Backward(found) {
		src, info, err := readFile(filepath.Join(f.dir, lastGoodDir, g))
		if err != nil {
			continue
		}
		if p, _ := Parse(filepath.Join(f.dir, name), src); p != nil {
			p.Version.ChangedAt = info.ModTime().UTC()
			return p
		}
	}
	return nil
}

// forget drops what was kept of a file that was removed: a later file of its name is another one.
func (f *Folder) forget(name string) {
	for _, g := range f.generations(name) {
		_ = os.Remove(filepath.Join(f.dir, lastGoodDir, g)) // where it cannot be written to, nothing was kept
	}
}
