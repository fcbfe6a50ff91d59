package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Part is one program of the stack that runs as a process of its own, and that can
// be killed, paused and started again while the others go on. Its methods are safe
// for concurrent use.
type Part struct {
	stack  *Stack
	name   string
	health string // the path that is asked whether it is ready; empty: await asks
	// command says how it is run at an address.
	command func(addr string) (argv, env []string, err error)
	// await probes one that has no HTTP face.
	await func(context.Context) error
	// only200 makes it ready by a 200 alone, not by any answer.
	only200 bool

	starting sync.Mutex // held through a start

	mu      sync.Mutex
	addr    string // host:port, chosen at the first start and kept
	process *process
}

// PartOptions say what a further part runs.
type PartOptions struct {
	// Binary is the program. Empty: the one that the stack's own part runs.
	Binary string
	// Env are variables after those of Options.Env, as KEY=VALUE.
	Env []string
	// Stopped leaves the part to its Start.
	Stopped bool
}

// addPart keeps a part under its name, which is also its log's and its proxy's.
func (s *Stack) addPart(p *Part) (*Part, error) {
	s.partsMu.Lock()
	defer s.partsMu.Unlock()
	if p.name == "" || p.name != filepath.Base(p.name) {
		return nil, fmt.Errorf("a part cannot be named %q: the name is its log file's", p.name)
	}
	if s.part(p.name) != nil {
		return nil, fmt.Errorf("there is a part %q already; give this one another name", p.name)
	}
	p.stack = s
	s.parts = append(s.parts, p)
	return p, nil
}

// part is the part of a name. The caller holds partsMu.
func (s *Stack) part(name string) *Part {
	for _, p := range s.parts {
		if p.name == name {
			return p
		}
	}
	return nil
}

// Part returns a part by its name: temporal, functions, worker, dataflow with
// Options.DataflowProcess, and those that were added. Nil: there is none.
func (s *Stack) Part(name string) *Part {
	s.partsMu.Lock()
	defer s.partsMu.Unlock()
	return s.part(name)
}

// Name is the part's name, which Stack.Logs takes.
func (p *Part) Name() string { return p.name }

// Addr is the host:port that the part serves on. It is kept from the first start on.
func (p *Part) Addr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

// URL is http:// and Addr.
func (p *Part) URL() string { return "http://" + p.Addr() }

// portTries is how many ports the first start of a part tries, and how often a later
// one tries its own.
const portTries = 5

// Start starts the part, at first or after its end, and returns when it is ready. It
// comes back at the same address.
func (p *Part) Start(ctx context.Context) error {
	p.starting.Lock()
	defer p.starting.Unlock()
	if p.Running() {
		return fmt.Errorf("the %s is running", p.name)
	}
	addr := p.Addr()
	first := addr == ""
	for try := 1; ; try++ {
		var err error
		if first {
			if addr, err = freeAddr(); err != nil {
				return err
			}
		}
		if err = p.startAt(ctx, addr); err == nil {
			p.stack.progress("%-10s %s", p.name, addr)
			return nil
		}
		if !errors.Is(err, errPortTaken) || try == portTries {
			return fmt.Errorf("start the %s: %w", p.name, err)
		}
		select { // whoever has the port may be about to give it back
		case <-ctx.Done():
			return fmt.Errorf("start the %s: %w", p.name, err)
		case <-time.After(time.Duration(try) * 100 * time.Millisecond):
		}
	}
}

// errPortTaken says that somebody took a port between the look for a free one and
// the part's start.
var errPortTaken = errors.New("its port was taken meanwhile")

func (p *Part) startAt(ctx context.Context, addr string) error {
	argv, env, err := p.command(addr)
	if err != nil {
		return err
	}
	started, err := p.stack.spawn(p.name, argv, env)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.addr, p.process = addr, started
	p.mu.Unlock()
	probe := p.await
	if probe == nil {
		probe = answers("http://"+addr+p.health, p.only200)
	}
	if err = p.stack.awaitReady(ctx, started, startWithin, probe); err == nil {
		p.stack.ready(started)
		return nil
	}
	taken := !started.running() && strings.Contains(err.Error(), "address already in use")
	// One that does not become ready is not left behind, and its end is told by this
	// error alone.
	err = errors.Join(err, started.kill())
	if taken {
		return fmt.Errorf("%w: %w", errPortTaken, err)
	}
	return err
}

// Kill ends the part with SIGKILL, as a crash does, and waits for its end.
func (p *Part) Kill() error { return p.current().kill() }

// Stop ends the part with SIGTERM, as a deployment does, and with SIGKILL after 10
// seconds, which is an error. A paused part is resumed for it.
func (p *Part) Stop() error { return p.current().stop() }

// Pause stops the part in mid-step with SIGSTOP: its connections stay open, and from
// its return on nobody answers on them (on Linux; elsewhere a moment later).
func (p *Part) Pause() error {
	running := p.current()
	if err := p.send(running, "pause", syscall.SIGSTOP); err != nil {
		return err
	}
	if err := awaitStopped(running.cmd.Process.Pid); err != nil {
		return fmt.Errorf("pause the %s: %w", p.name, err)
	}
	return nil
}

// Resume lets a paused part go on, as if no time had passed for it.
func (p *Part) Resume() error { return p.send(p.current(), "resume", syscall.SIGCONT) }

func (p *Part) send(running *process, what string, sig syscall.Signal) error {
	if !running.running() {
		return fmt.Errorf("%s the %s: it does not run", what, p.name)
	}
	if err := running.signal(sig); err != nil {
		return fmt.Errorf("%s the %s: %w", what, p.name, err)
	}
	return nil
}

// Running says whether the part's process is there, paused or not.
func (p *Part) Running() bool { return p.current().running() }

// Pid is the ID of the part's process; 0 while it does not run.
func (p *Part) Pid() int {
	running := p.current()
	if !running.running() {
		return 0
	}
	return running.cmd.Process.Pid
}

// current is the part's latest process; nil of a part that never ran, and of no part.
func (p *Part) current() *process {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

// RSS is how much memory the part's process has in use, in bytes. It asks /proc, so
// only Linux can tell.
func (p *Part) RSS() (int64, error) {
	fields, err := p.proc("statm")
	if err != nil {
		return 0, err
	}
	if len(fields) < 2 {
		return 0, fmt.Errorf("memory of the %s: /proc answers %q", p.name, fields)
	}
	pages, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("memory of the %s: %w", p.name, err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// clockTick is the unit of times in /proc: USER_HZ is 100 on every Linux that Go
// runs on (proc(5)).
const clockTick = 10 * time.Millisecond

// CPU is how much processor time the part's process has used since it started. Only
// Linux can tell.
func (p *Part) CPU() (time.Duration, error) {
	fields, err := p.proc("stat")
	if err != nil {
		return 0, err
	}
	// Fields 14 and 15 of proc(5); proc counts from the third, after the name.
	const user, system = 14 - 3, 15 - 3
	if len(fields) <= system {
		return 0, fmt.Errorf("processor time of the %s: /proc answers %q", p.name, fields)
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("processor time of the %s: %w", p.name, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * clockTick, nil
}

// proc reads the fields of a file of the part's process in /proc; those of stat after
// the program's name, which may hold anything.
func (p *Part) proc(file string) ([]string, error) {
	pid := p.Pid()
	if pid == 0 {
		return nil, fmt.Errorf("look at the %s: it does not run", p.name)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return nil, fmt.Errorf("look at the %s: %w", p.name, err)
	}
	if end := bytes.LastIndexByte(text, ')'); end >= 0 {
		text = text[end+1:]
	}
	return strings.Fields(string(text)), nil
}

// answers is a probe of an HTTP server: any answer, or only 200.
func answers(url string, only200 bool) func(context.Context) error {
	probe := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	return func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		response, err := probe.Do(r)
		if err != nil {
			return err
		}
		response.Body.Close()
		if only200 && response.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", url, response.Status)
		}
		return nil
	}
}

// freeAddr finds a loopback port that is free now, below those that the system hands
// out by itself: so that no connection and no listener on port 0 takes it before the
// part does, nor while the part is down.
func freeAddr() (string, error) {
	const tries = 100
	var err error
	for range tries {
		var l net.Listener
		port := lowestPort + rand.IntN(highestPort-lowestPort+1)
		if l, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			addr := l.Addr().String()
			return addr, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

// The ports of parts: below 32768, where Linux's own choices begin
// (net.ipv4.ip_local_port_range; other systems begin higher).
const lowestPort, highestPort = 12000, 31999
