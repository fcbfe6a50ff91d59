package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// stopGrace is what a part gets between SIGTERM and SIGKILL: Cloud Run's 10 s.
const stopGrace = 10 * time.Second

// process is one part that runs as a process of its own, with whatever it starts
// in its process group.
type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended, once done

	mu      sync.Mutex
	asked   bool // to end: its end is no death
	started bool // until then whoever starts it tells of its end
	told    bool // of its death
}

// spawn starts a process whose output goes to the part's log. When it ends
// without being asked to, once it is ready, Died tells.
func (s *Stack) spawn(name string, argv, env []string) (*process, error) {
	log := s.logs.part(name)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = s.o.Root
	cmd.Env = env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()
	cmd.WaitDelay = time.Second // a grandchild may hold the output open
	p := &process{name: name, cmd: cmd, done: make(chan struct{})}
	if err := onSpawner(cmd.Start); err != nil {
		return nil, fmt.Errorf("run %s: %w", argv[0], err)
	}
	s.watching.Go(func() {
		p.err = cmd.Wait()
		close(p.done)
		// What it left behind in its group ends with it.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		s.tell(p)
	})
	return p, nil
}

// ready says that a process has started: from now on its end is news.
func (s *Stack) ready(p *process) {
	p.mu.Lock()
	p.started = true
	p.mu.Unlock()
	if !p.running() {
		s.tell(p)
	}
}

// tell reports the death of a process that is done, once.
func (s *Stack) tell(p *process) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.asked || !p.started || p.told {
		return
	}
	p.told = true
	select {
	case s.died <- fmt.Errorf("the %s ended by itself: %s; %s", p.name, p.exit(), s.logs.lastLines(p.name)):
	default: // nobody listens and others died before
	}
}

// exit describes the end of a process that is done.
func (p *process) exit() string {
	if p.cmd.ProcessState == nil {
		return fmt.Sprint(p.err)
	}
	return p.cmd.ProcessState.String()
}

func (p *process) running() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// stop ends it in order: SIGTERM, then SIGKILL after stopGrace. A paused one goes on
// for it. Nil is stopped.
func (p *process) stop() error {
	if p == nil {
		return nil
	}
	p.ask()
	_ = p.signal(syscall.SIGTERM) // gone already: just as well
	_ = p.signal(syscall.SIGCONT)
	if p.ended(stopGrace) {
		return nil
	}
	return errors.Join(fmt.Errorf("the %s did not stop within %s of SIGTERM and was killed", p.name, stopGrace), p.kill())
}

// kill ends it at once, and all of its group.
func (p *process) kill() error {
	if p == nil {
		return nil
	}
	p.ask()
	_ = p.signal(syscall.SIGKILL) // gone already: just as well
	if !p.ended(stopGrace) {
		return fmt.Errorf("the %s (process %d) survives SIGKILL", p.name, p.cmd.Process.Pid)
	}
	return nil
}

// ask makes its end no death.
func (p *process) ask() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = true
}

// signal sends a signal to its whole group.
func (p *process) signal(sig syscall.Signal) error {
	if !p.running() {
		return os.ErrProcessDone
	}
	return syscall.Kill(-p.cmd.Process.Pid, sig)
}

func (p *process) ended(within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	select {
	case <-p.done:
		return true
	case <-timer.C:
		return false
	}
}

// awaitReady polls a probe until it succeeds; it fails when the process ends
// or the context does.
func (s *Stack) awaitReady(ctx context.Context, p *process, within time.Duration, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended while starting: %s; %s", p.exit(), s.logs.lastLines(p.name))
		case <-ctx.Done():
			return fmt.Errorf("it did not become ready within %s: %w; %s", within, err, s.logs.lastLines(p.name))
		case <-ticker.C:
		}
	}
}

// spawner is a goroutine bound to one thread for good: on Linux a child's
// parent-death signal fires when the thread that forked it ends, and Go ends
// threads as it likes.
var spawner = sync.OnceValue(func() chan func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

func onSpawner(f func() error) error {
	result := make(chan error)
	spawner() <- func() { result <- f() }
	return <-result
}

// lookPath finds a program; "" when there is none.
func lookPath(name string) string {
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
