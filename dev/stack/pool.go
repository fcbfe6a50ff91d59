package stack

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"
)

// WorkerPool stands in for a worker pool of Cloud Run: it runs as many processes of one
// program as it was last asked to, and replaces those that end by themselves. Its methods
// are safe for concurrent use.
type WorkerPool struct {
	stack *Stack
	name  string // of the instances' common log
	argv  []string
	env   func() []string // of an instance

	mu        sync.Mutex
	size      int
	started   int
	closed    bool
	instances []*process // those that are to run
	ending    []*process // those that were asked to end, and may not have yet
}

// replaceAfter is how long a pool waits before it replaces an instance that ended by
// itself: one that cannot start is not started all the time.
const replaceAfter = time.Second

// Size is how many instances the pool was last asked for.
func (p *WorkerPool) Size() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// Running is how many processes there are now, those included that are about to end.
func (p *WorkerPool) Running() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, all := range [][]*process{p.instances, p.ending} {
		for _, i := range all {
			if i.running() {
				n++
			}
		}
	}
	return n
}

// Started is how many processes were ever started.
func (p *WorkerPool) Started() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// Resize asks for a number of instances and does not wait for them. The youngest go first,
// with SIGTERM, and with SIGKILL after 10 seconds.
func (p *WorkerPool) Resize(size int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return fmt.Errorf("resize the worker pool: the stack is being stopped")
	case size < 0:
		return fmt.Errorf("resize the worker pool: it cannot have %d instances", size)
	}
	p.log().Info("resized", "from", p.size, "to", size)
	p.size = size
	p.settle()
	return nil
}

// Kill ends one instance with SIGKILL, as a crash does, and waits for its end. The pool
// replaces it.
func (p *WorkerPool) Kill() error {
	p.mu.Lock()
	var victim *process
	for _, i := range p.instances {
		if i.running() {
			victim = i
		}
	}
	p.mu.Unlock()
	if victim == nil {
		return fmt.Errorf("kill an instance of the worker pool: none runs: %w", os.ErrProcessDone)
	}
	if err := victim.signal(syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill an instance of the worker pool: %w", err)
	}
	if !victim.ended(stopGrace) {
		return fmt.Errorf("an instance of the worker pool (process %d) survives SIGKILL", victim.cmd.Process.Pid)
	}
	return nil
}

// settle starts or stops instances until there are as many as asked for. It is called
// with the lock held.
func (p *WorkerPool) settle() {
	for len(p.instances) > p.size {
		last := len(p.instances) - 1
		p.end(p.instances[last])
		p.instances = p.instances[:last]
	}
	for len(p.instances) < p.size {
		// It is never said to be ready, so that its end is nobody's news but ours.
		i, err := p.stack.spawn(p.name, p.argv, p.env())
		if err != nil {
			p.log().Error("an instance cannot be started", "error", err, "again", replaceAfter)
			p.again()
			return
		}
		p.instances, p.started = append(p.instances, i), p.started+1
		p.stack.watching.Go(func() { p.watch(i) })
	}
}

// end stops an instance. It is called with the lock held.
func (p *WorkerPool) end(i *process) {
	p.ending = append(p.ending, i)
	p.stack.watching.Go(func() {
		if err := i.stop(); err != nil {
			p.log().Error("an instance was stopped", "error", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ending = without(p.ending, i)
	})
}

// watch has an instance replaced that ends by itself.
func (p *WorkerPool) watch(i *process) {
	<-i.done
	p.mu.Lock()
	defer p.mu.Unlock()
	before := len(p.instances)
	if p.instances = without(p.instances, i); len(p.instances) == before {
		return // it was asked to
	}
	p.log().Warn("an instance ended by itself and is replaced", "exit", i.exit())
	p.again()
}

// again settles a little later.
func (p *WorkerPool) again() {
	time.AfterFunc(replaceAfter, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if !p.closed {
			p.settle()
		}
	})
}

// close stops all instances and waits for their end. Nil is closed.
func (p *WorkerPool) close() {
	if p == nil {
		return
	}
	p.mu.Lock()
	p.closed, p.size = true, 0
	p.settle()
	ending := p.ending
	p.mu.Unlock()
	for _, i := range ending {
		<-i.done // SIGKILL sees to it
	}
}

func without(all []*process, one *process) []*process {
	var rest []*process
	for _, p := range all {
		if p != one {
			rest = append(rest, p)
		}
	}
	return rest
}

// ServeHTTP is the face that a Temporal server resizes the pool by; see dev/temporal. GET
// answers how many instances were asked for and how many processes run.
func (p *WorkerPool) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodGet:
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"size": %d, "running": %d}`+"\n", p.Size(), p.Running())
	case http.MethodPut:
		var asked struct {
			Size *int `json:"size"`
		}
		err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&asked)
		if err != nil || asked.Size == nil {
			http.Error(w, `want {"size": N}`, http.StatusBadRequest)
			return
		}
		if err := p.Resize(*asked.Size); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	default:
		http.Error(w, "GET or PUT", http.StatusMethodNotAllowed)
	}
}
