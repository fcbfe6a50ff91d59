package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// logs keeps what each part prints: whole in a file, the last lines in memory,
// and each line with its part's name on the common output.
type logs struct {
	dir   string
	out   io.Writer
	color bool

	mu    sync.Mutex
	parts map[string]*partLog
}

type partLog struct {
	logs *logs
	name string
	file *os.File
	tail []string // the last tailLines
	rest []byte   // a line not yet ended
}

const (
	tailLines = 20
	nameWidth = 9
	buildLog  = "build" // file only: Options.Progress tells of the builds
)

var colors = []string{"36", "33", "35", "32", "34", "31", "96", "93"}

func openLogs(dir string, out io.Writer, color bool) (*logs, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("make the folder for logs: %w", err)
	}
	return &logs{dir: dir, out: out, color: color, parts: map[string]*partLog{}}, nil
}

// part returns the writer for a part; the stack's first use of it empties its file.
func (l *logs) part(name string) *partLog {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := l.parts[name]
	if p == nil {
		p = &partLog{logs: l, name: name}
		p.file, _ = os.Create(filepath.Join(l.dir, name+".log")) // without a file there is still the output
		l.parts[name] = p
	}
	return p
}

func (l *logs) logger(part string) *slog.Logger {
	return slog.New(slog.NewTextHandler(l.part(part), &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// Write takes bytes as they come and passes whole lines on.
func (p *partLog) Write(data []byte) (int, error) {
	p.logs.mu.Lock()
	defer p.logs.mu.Unlock()
	p.rest = append(p.rest, data...)
	for {
		line, rest, ok := bytes.Cut(p.rest, []byte("\n"))
		if !ok {
			break
		}
		p.line(string(line))
		p.rest = rest
	}
	return len(data), nil
}

// line is called with the lock held.
func (p *partLog) line(line string) {
	if len(p.tail) == tailLines {
		p.tail = p.tail[1:]
	}
	p.tail = append(p.tail, line)
	if p.file != nil {
		fmt.Fprintln(p.file, line)
	}
	if p.logs.out == nil || p.name == buildLog {
		return
	}
	name := fmt.Sprintf("%-*s", nameWidth, p.name)
	if p.logs.color {
		sum := 0
		for _, c := range p.name {
			sum += int(c)
		}
		name = "\x1b[" + colors[sum%len(colors)] + "m" + name + "\x1b[0m"
	}
	fmt.Fprintf(p.logs.out, "%s | %s\n", name, line)
}

// lastLines are what a part said at the end, for the report of its death.
func (l *logs) lastLines(part string) string {
	p := l.part(part)
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := p.tail
	if len(p.rest) > 0 {
		lines = append(lines[:len(lines):len(lines)], string(p.rest))
	}
	if len(lines) == 0 {
		return "it printed nothing"
	}
	return "its last lines were:\n    " + strings.Join(lines, "\n    ")
}

func (l *logs) text(part string) string {
	l.part(part)
	text, err := os.ReadFile(filepath.Join(l.dir, part+".log"))
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (l *logs) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	for _, p := range l.parts {
		if p.file != nil {
			errs = append(errs, p.file.Close())
			p.file = nil
		}
	}
	return errors.Join(errs...)
}
