package dataflowemulator

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
)

// SDK says how a pipeline's command is told to run against the job's own Prism.
type SDK string

// The SDKs that a Command knows the arguments of. NoSDK runs a command that is no Beam pipeline: its exit status is the job's outcome.
const (
	Go     SDK = "go"
	Python SDK = "python"
	NoSDK  SDK = "none"
)

// Command is a Program that runs each job as a process of its own: a Beam pipeline, which is given a Prism (Beam's local runner) of its own to run on. Prism's
// states, counters and messages become the job's.
type Command struct {
	// Argv is the command and its first arguments. It is executed as it is: no shell reads it.
	Argv []string
	// Args are the arguments that follow. In them ${param.NAME}, ${job.name}, ${job.id}, ${job.project}, ${job.location} and ${endpoint} stand for the job's own;
	// an argument that speaks of a parameter the launch does not have is left out. "${params}" as a whole argument stands for all parameters as --name=value.
	// Nil: "${params}", and what the SDK needs to run on Prism.
	Args []string
	// SDK defaults to Go.
	SDK SDK
	// Env are additional variables of the environment, as NAME=value.
	Env []string
	// Dir is the working directory; empty: the emulator's.
	Dir string
	// Streaming says that the jobs are streaming jobs. A Beam pipeline with an unbounded collection is one without it.
	Streaming bool
	// Prism is the command that serves a Prism until its stdin is closed or it is killed. The first line on its stdout is the endpoint of its job service,
	// host:port. Unused with NoSDK.
	Prism []string
	// Logs is a folder that gets what each job's processes print, as <job ID>.log. Empty: only what an error message needs is kept.
	Logs string
	// Grace is how long a process may take to end after its job has ended or was cancelled, before it is killed. 0: 10 seconds.
	Grace time.Duration
}

const (
	defaultGrace = 10 * time.Second
	prismStart   = 30 * time.Second
	tailSize     = 16 << 10
)

var sdkArgs = map[SDK][]string{
	Go:     {"${params}", "--runner=universal", "--endpoint=${endpoint}", "--environment_type=LOOPBACK", "--job_name=${job.name}"},
	Python: {"${params}", "--runner=PortableRunner", "--job_endpoint=${endpoint}", "--environment_type=LOOPBACK", "--job_name=${job.name}"},
	NoSDK:  {"${params}"},
}

// DeclaredStreaming implements Program.
func (c Command) DeclaredStreaming() bool { return c.Streaming }

// Run implements Program.
func (c Command) Run(ctx context.Context, launch Launch, control *Control) Outcome {
	if c.SDK == "" {
		c.SDK = Go
	}
	if c.Grace == 0 {
		c.Grace = defaultGrace
	}
	log, err := c.openLog(launch)
	if err != nil {
		return Failed("%v", err)
	}
	defer log.Close()
	if c.SDK == NoSDK {
		return c.runPlain(ctx, launch, control, log)
	}
	prism, err := startPrism(ctx, c.Prism, log)
	if err != nil {
		return Failed("%v", err)
	}
	defer prism.kill()
	return c.runBeam(ctx, launch, control, log, prism)
}

func (c Command) runPlain(ctx context.Context, launch Launch, control *Control, log io.Writer) Outcome {
	child, err := c.start(launch, "", log)
	if err != nil {
		return Failed("%v", err)
	}
	defer child.kill()
	control.State(pb.JobState_JOB_STATE_RUNNING)
	for {
		select {
		case <-child.exited:
			if child.err != nil {
				return Failed("%s", child.describe("The pipeline's process"))
			}
			return Done()
		case stop := <-control.Stops():
			if stop != ForceCancel {
				child.interrupt()
				if child.wait(c.Grace) {
					return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
				}
			}
			return Outcome{State: pb.JobState_JOB_STATE_CANCELLED}
		case <-ctx.Done():
			return Outcome{}
		}
	}
}

// start starts the pipeline's process.
func (c Command) start(launch Launch, endpoint string, log io.Writer) (*process, error) {
	if len(c.Argv) == 0 {
		return nil, fmt.Errorf("the image %q is mapped to an empty command", launch.Image)
	}
	args := c.Args
	if args == nil {
		known, ok := sdkArgs[c.SDK]
		if !ok {
			return nil, fmt.Errorf("the image %q is mapped to a command of the unknown SDK %q. Use go, python or none, or give its arguments", launch.Image, c.SDK)
		}
		args = known
	}
	argv := append(slices.Clone(c.Argv), expand(args, launch, endpoint)...)
	p, err := startProcess(argv, c.Dir, append(os.Environ(), c.Env...), log)
	if err != nil {
		return nil, fmt.Errorf("the command of image %q cannot be started: %w", launch.Image, err)
	}
	return p, nil
}

var placeholder = regexp.MustCompile(`\$\{([a-z]+)(?:\.([^}]*))?\}`)

// expand fills the placeholders of an argument template. What it puts in is never looked at again.
func expand(args []string, l Launch, endpoint string) []string {
	var out []string
	for _, arg := range args {
		if arg == "${params}" {
			for _, name := range slices.Sorted(maps.Keys(l.Parameters)) {
				out = append(out, "--"+name+"="+l.Parameters[name])
			}
			for _, option := range l.PipelineOptions {
				out = append(out, "--"+strings.TrimLeft(option, "-"))
			}
			continue
		}
		missing := false
		filled := placeholder.ReplaceAllStringFunc(arg, func(match string) string {
			m := placeholder.FindStringSubmatch(match)
			switch m[1] + "." + m[2] {
			case "job.name":
				return l.JobName
			case "job.id":
				return l.JobID
			case "job.project":
				return l.Project
			case "job.location":
				return l.Location
			case "endpoint.":
				return endpoint
			}
			value, ok := l.Parameters[m[2]]
			if m[1] != "param" || !ok {
				missing = true
			}
			return value
		})
		if !missing {
			out = append(out, filled)
		}
	}
	return out
}

func (c Command) openLog(l Launch) (io.WriteCloser, error) {
	if c.Logs == "" {
		return nopCloser{io.Discard}, nil
	}
	f, err := os.OpenFile(filepath.Join(c.Logs, l.JobID+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the job's log cannot be opened: %w", err)
	}
	return f, nil
}

type nopCloser struct{ io.Writer }

// Close does nothing.
func (nopCloser) Close() error { return nil }

// process is a child with a process group of its own, so that what it starts ends with it.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // after exited
	tail   *tail
}

func startProcess(argv []string, dir string, env []string, log io.Writer) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), exited: make(chan struct{}), tail: &tail{next: log}}
	p.cmd.Dir, p.cmd.Env = dir, env
	p.cmd.Stdout, p.cmd.Stderr = p.tail, p.tail
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// A grandchild that keeps the pipes open must not keep the job open.
	p.cmd.WaitDelay = time.Second
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	return p, nil
}

func (p *process) interrupt() { _ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM) }

// kill ends the whole process group and waits for the process.
func (p *process) kill() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}

// wait reports whether the process exited within d.
func (p *process) wait(d time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(d):
		return false
	}
}

// describe says how the process ended and what it last printed.
func (p *process) describe(what string) string {
	how := "exited with status 0"
	if exit := (*exec.ExitError)(nil); errors.As(p.err, &exit) {
		how = "ended with " + exit.String()
	} else if p.err != nil {
		how = "ended: " + p.err.Error()
	}
	text := strings.TrimSpace(p.tail.String())
	if text == "" {
		return what + " " + how + "; it printed nothing."
	}
	return what + " " + how + ". It printed:\n" + text
}

// tail passes on what is written and keeps the end of it.
type tail struct {
	next io.Writer
	mu   sync.Mutex
	kept []byte
}

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.kept = append(t.kept, b...)
	if over := len(t.kept) - tailSize; over > tailSize {
		t.kept = slices.Delete(t.kept, 0, over)
	}
	return t.next.Write(b)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.kept[max(0, len(t.kept)-tailSize):])
}

// prismServer is a running Prism: the job service of one job.
type prismServer struct {
	endpoint string
	cmd      *exec.Cmd
	stdin    io.Closer
	exited   chan struct{}
}

func startPrism(ctx context.Context, argv []string, log io.Writer) (*prismServer, error) {
	if len(argv) == 0 {
		return nil, errors.New("the job cannot run: the emulator was given no Prism command")
	}
	s := &prismServer{cmd: exec.Command(argv[0], argv[1:]...), exited: make(chan struct{})}
	s.cmd.Stderr = log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	s.cmd.WaitDelay = time.Second
	// The child holds the other end of this pipe: when the emulator dies, however it dies, Prism's stdin closes and it goes too.
	in, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start of the job's runner: Prism cannot be started: %w", err)
	}
	s.stdin = in
	out, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start of the job's runner: Prism cannot be started: %w", err)
	}
	defer w.Close()
	s.cmd.Stdout = w
	if err := s.cmd.Start(); err != nil {
		out.Close()
		return nil, fmt.Errorf("start of the job's runner: Prism cannot be started: %w", err)
	}
	go func() {
		_ = s.cmd.Wait()
		close(s.exited)
	}()
	lines := make(chan string, 1)
	go func() {
		defer out.Close()
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		lines <- strings.TrimSpace(line)
		_, _ = io.Copy(log, r)
	}()
	select {
	case s.endpoint = <-lines:
	case <-s.exited:
		// Its last words may be the endpoint of a server that is gone: no use either way.
	case <-time.After(prismStart):
	case <-ctx.Done():
	}
	if !strings.Contains(s.endpoint, ":") {
		s.kill()
		return nil, fmt.Errorf("start of the job's runner: Prism did not start: its command %q did not print an endpoint, host:port, within %v", strings.Join(argv, " "), prismStart)
	}
	return s, nil
}

func (s *prismServer) kill() {
	_ = s.stdin.Close()
	_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
	<-s.exited
}
