package ledger

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// folder keeps each generation of an object as a file of its own, which is never
// changed: "claim.json" is claim.1.json, then claim.2.json; the highest number is
// in force. To replace generation n is to create n+1, which a hard link does for
// exactly one of all who try, on any local file system, without a lock that a
// crash could leave behind.
type folder struct {
	dir  string
	root *os.Root

	// beforeLink, where set, is called between the two steps of a write: a test's hold.
	beforeLink func()
}

func openFolder(dir string) (*folder, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find the folder: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("create the folder: %w; give one that can be written", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open the folder: %w", err)
	}
	return &folder{dir: dir, root: root}, nil
}

func (f *folder) close() error { return f.root.Close() }

func (f *folder) url(name string) string { return filepath.Join(f.dir, filepath.FromSlash(name)) }

func (f *folder) read(ctx context.Context, name string) ([]byte, int64, error) {
	data, generation, err := f.current(ctx, name)
	if err != nil {
		return nil, 0, &Error{Op: "read", Object: f.url(name), Err: err}
	}
	return data, generation, nil
}

func (f *folder) current(ctx context.Context, name string) ([]byte, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	generation, err := f.generation(name)
	if err != nil {
		return nil, 0, err
	}
	if generation == 0 {
		return nil, 0, ErrNotFound
	}
	file, err := f.root.Open(generationFile(name, generation))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, ErrNotFound // somebody deleted it just now
	}
	if err != nil {
		return nil, 0, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxObject+1))
	if err != nil {
		return nil, 0, err
	}
	if len(data) > maxObject {
		return nil, 0, errTooLarge
	}
	return data, generation, nil
}

func (f *folder) write(ctx context.Context, name string, data []byte, generation int64) (int64, error) {
	err := f.create(ctx, name, data, generation)
	if err != nil {
		e := &Error{Op: "write", Object: f.url(name), Err: err}
		if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, fs.ErrPermission) {
			e.Hint = "the ledger's folder must be writable, on a file system with hard links"
		}
		return 0, e
	}
	return generation + 1, nil
}

// create makes the generation that follows one. The file gets its name only when
// it is whole and on the disk, so a crash leaves it or nothing of that name.
func (f *folder) create(ctx context.Context, name string, data []byte, generation int64) (err error) {
	if err := ctx.Err(); err != nil {
		return err
	}
	dir := path.Dir(name)
	_, missing := f.root.Stat(dir)
	if err := f.root.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if current, err := f.generation(name); err != nil {
		return err
	} else if current != generation {
		return errChanged
	}
	temporary := path.Join(dir, ".writing-"+rand.Text())
	file, err := f.root.OpenFile(temporary, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	defer func() { _ = f.root.Remove(temporary) }() // one that stays is never read
	_, err = file.Write(data)
	err = errors.Join(err, file.Sync(), file.Close())
	if err != nil {
		return err
	}
	if f.beforeLink != nil {
		f.beforeLink()
	}
	err = f.root.Link(temporary, generationFile(name, generation+1))
	if errors.Is(err, fs.ErrExist) {
		return errChanged
	}
	if err != nil {
		return err
	}
	// The names must be on the disk too, of new folders up to the root.
	for ; ; dir = path.Dir(dir) {
		if err := f.syncDir(dir); err != nil {
			return err
		}
		if missing == nil || dir == "." {
			return nil
		}
	}
}

func (f *folder) syncDir(name string) error {
	if runtime.GOOS == "windows" { // which has no such call
		return nil
	}
	d, err := f.root.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// generation is the highest of an object; zero: there is none.
func (f *folder) generation(name string) (int64, error) {
	entries, err := f.readDir(path.Dir(name))
	if err != nil {
		return 0, err
	}
	var highest int64
	for _, e := range entries {
		if object, generation := parseGenerationFile(e.Name()); object == path.Base(name) {
			highest = max(highest, generation)
		}
	}
	return highest, nil
}

// readDir lists a folder, which may be missing.
func (f *folder) readDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.root.FS(), path.Clean(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return entries, err
}

func (f *folder) list(ctx context.Context, prefix string, page func([]listed) bool) error {
	entries, err := f.readDir(prefix)
	if err != nil {
		return &Error{Op: "list", Object: f.url(prefix), Err: err}
	}
	if objects := objectsIn(prefix, entries); len(objects) > 0 && !page(objects) {
		return nil
	}
	for some := range slices.Chunk(entries, 1000) {
		var objects []listed
		for _, dir := range some {
			if err := ctx.Err(); err != nil {
				return &Error{Op: "list", Object: f.url(prefix), Err: err}
			}
			if !dir.IsDir() {
				continue
			}
			files, err := f.readDir(prefix + dir.Name())
			if err != nil {
				return &Error{Op: "list", Object: f.url(prefix + dir.Name()), Err: err}
			}
			objects = append(objects, objectsIn(prefix+dir.Name()+"/", files)...)
		}
		if !page(objects) {
			return nil
		}
	}
	return nil
}

// objectsIn are the objects whose generations are among a directory's entries.
func objectsIn(dir string, entries []fs.DirEntry) []listed {
	written := map[string]time.Time{}
	for _, file := range entries {
		object, generation := parseGenerationFile(file.Name())
		if generation == 0 || file.IsDir() {
			continue
		}
		info, err := file.Info()
		if err != nil {
			continue // deleted since
		}
		if t := info.ModTime(); t.After(written[object]) {
			written[object] = t
		}
	}
	objects := make([]listed, 0, len(written))
	for object, t := range written {
		objects = append(objects, listed{name: dir + object, written: t})
	}
	return objects
}

// generationFile is the file of an object's generation: claim.json's third is claim.3.json.
func generationFile(name string, generation int64) string {
	return strings.TrimSuffix(name, ".json") + "." + strconv.FormatInt(generation, 10) + ".json"
}

// parseGenerationFile is the other way; zero: it is no such file.
func parseGenerationFile(file string) (object string, generation int64) {
	rest, ok := strings.CutSuffix(file, ".json")
	i := strings.LastIndexByte(rest, '.')
	if !ok || i < 0 {
		return "", 0
	}
	n, err := strconv.ParseInt(rest[i+1:], 10, 64)
	if err != nil || n < 1 || rest[i+1:] != strconv.FormatInt(n, 10) {
		return "", 0
	}
	return rest[:i] + ".json", n
}
