package main

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/pipeline"
)

// stage is one staging.
type stage struct {
	root      string // of the production module
	out       string
	pipelines string // folder to stage as pipelines/; empty for none
	stderr    io.Writer

	hash string // of what was staged
}

// marker is a file in a staged folder that says it may be staged anew. It is not part of what is deployed.
const marker = ".staged"

// run stages into s.out.
func (s *stage) run() error {
	files, err := s.sources()
	if err != nil {
		return err
	}
	if s.pipelines != "" {
		more, err := s.pipelineFiles()
		if err != nil {
			return err
		}
		for name, from := range more {
			files[name] = from
		}
	}
	if err := s.clear(); err != nil {
		return err
	}
	for name, from := range files {
		if err := copyFile(filepath.Join(s.out, filepath.FromSlash(name)), from); err != nil {
			return err
		}
	}
	// Without the tests and the other commands, most requirements go.
	if err := goCommand(s.out, io.Discard, "mod", "tidy"); err != nil {
		return err
	}
	contents, err := s.contents()
	if err != nil {
		return err
	}
	s.hash = hash(contents)
	if err := s.settle(contents); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.out, marker), []byte(s.hash+"\n"), 0o644)
}

// sources are the files of the root package and of everything of ours that it imports, by their path in the module.
func (s *stage) sources() (map[string]string, error) {
	var list bytes.Buffer
	if err := goCommand(s.root, &list, "list", "-deps", "-json=Dir,Module,GoFiles,IgnoredGoFiles,EmbedFiles", "."); err != nil {
		return nil, err
	}
	root, err := filepath.Abs(s.root)
	if err != nil {
		return nil, err
	}
	if root, err = filepath.EvalSymlinks(root); err != nil {
		return nil, err
	}
	files := map[string]string{"go.mod": filepath.Join(root, "go.mod"), "go.sum": filepath.Join(root, "go.sum")}
	if license := filepath.Join(root, "LICENSE"); exists(license) {
		files["LICENSE"] = license
	}
	for dec := json.NewDecoder(&list); ; {
		var p struct {
			Dir                                 string
			Module                              *struct{ Main bool }
			GoFiles, IgnoredGoFiles, EmbedFiles []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return nil, fmt.Errorf("read the output of go list: %w", err)
		}
		if p.Module == nil || !p.Module.Main {
			continue
		}
		rel, err := filepath.Rel(root, p.Dir)
		if err != nil {
			return nil, err
		}
		// Files for other platforms, too: what is staged is also what a developer's machine serves.
		others := slices.DeleteFunc(p.IgnoredGoFiles, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
		for _, name := range slices.Concat(p.GoFiles, others, p.EmbedFiles) {
			files[path.Join(filepath.ToSlash(rel), filepath.ToSlash(name))] = filepath.Join(p.Dir, filepath.FromSlash(name))
		}
	}
}

// pipelineFiles are the files of the pipelines folder, if they lint.
func (s *stage) pipelineFiles() (map[string]string, error) {
	_, problems := pipeline.LoadDir(s.pipelines)
	if problems.HasErrors() {
		return nil, problems
	}
	for _, p := range problems {
		fmt.Fprintln(s.stderr, p.Error())
	}
	entries, err := os.ReadDir(s.pipelines)
	if err != nil {
		return nil, fmt.Errorf("read the pipelines: %w", err)
	}
	files := make(map[string]string)
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); !e.IsDir() && !strings.HasPrefix(e.Name(), ".") && (ext == ".yaml" || ext == ".yml") {
			files["pipelines/"+e.Name()] = filepath.Join(s.pipelines, e.Name())
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no pipelines file in %s: -pipelines wants the folder that holds the *.yaml files", s.pipelines)
	}
	return files, nil
}

// clear empties the folder to stage into, unless it holds what was not staged.
func (s *stage) clear() error {
	entries, err := os.ReadDir(s.out)
	switch {
	case errors.Is(err, fs.ErrNotExist), err == nil && len(entries) == 0:
	case err != nil:
		return err
	case !exists(filepath.Join(s.out, marker)):
		return fmt.Errorf("%s is not empty and was not staged before: name another folder", s.out)
	}
	if err := os.RemoveAll(s.out); err != nil {
		return err
	}
	return os.MkdirAll(s.out, 0o755)
}

// contents reads what was staged, by name.
func (s *stage) contents() (map[string][]byte, error) {
	contents := make(map[string][]byte)
	err := fs.WalkDir(os.DirFS(s.out), ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || name == marker {
			return err
		}
		contents[name], err = os.ReadFile(filepath.Join(s.out, filepath.FromSlash(name)))
		return err
	})
	return contents, err
}

// epoch is the time of every staged file: the earliest that a zip archive can hold.
var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// settle gives the files the same times and modes wherever they are staged.
func (s *stage) settle(contents map[string][]byte) error {
	for name := range contents {
		file := filepath.Join(s.out, filepath.FromSlash(name))
		if err := errors.Join(os.Chmod(file, 0o644), os.Chtimes(file, epoch, epoch)); err != nil {
			return err
		}
	}
	return nil
}

// hash is of names and contents alone: not of the archive, whose bytes depend on the compressor's version.
func hash(contents map[string][]byte) string {
	h := sha256.New()
	for _, name := range sorted(contents) {
		fmt.Fprintf(h, "%d:%s%d:", len(name), name, len(contents[name]))
		h.Write(contents[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}

// zip writes the archive beside the staged folder and returns its path.
func (s *stage) zip() (string, error) {
	contents, err := s.contents()
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, name := range sorted(contents) {
		header := &zip.FileHeader{Name: name, Method: zip.Deflate, Modified: epoch}
		header.SetMode(0o644)
		f, err := w.CreateHeader(header)
		if err != nil {
			return "", fmt.Errorf("write the archive: %w", err)
		}
		if _, err := f.Write(contents[name]); err != nil {
			return "", fmt.Errorf("write the archive: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("write the archive: %w", err)
	}
	name := filepath.Join(filepath.Dir(filepath.Clean(s.out)), "functions-"+s.hash[:16]+".zip")
	if err := os.WriteFile(name, b.Bytes(), 0o644); err != nil {
		return "", err
	}
	return name, nil
}

func sorted(contents map[string][]byte) []string {
	names := make([]string, 0, len(contents))
	for name := range contents {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// goCommand runs the go command for the function's platform, apart from any workspace.
func goCommand(dir string, stdout io.Writer, args ...string) error {
	cmd := exec.CommandContext(context.Background(), "go", args...)
	var stderr bytes.Buffer
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, stdout, &stderr
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=mod", "GOOS=linux", "GOARCH=amd64", "CGO_ENABLED=0")
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o644)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
