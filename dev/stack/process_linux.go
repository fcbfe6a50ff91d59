package stack

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// childAttributes puts a child in a process group of its own, so that all of it
// can be signalled and a terminal's Ctrl-C reaches us alone, and lets it die with
// us, also when we are killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// cldStopped is CLD_STOPPED of sigaction(2), the same on every Linux.
const cldStopped = 5

// awaitStopped returns once every thread of a child has stopped: a signal is only
// queued when kill(2) returns, and a thread on another processor may still answer a
// request by then. The report is left for others to read. os.ErrProcessDone: it has
// ended.
func awaitStopped(pid int) error {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD): // whoever waits for its end was first
			return os.ErrProcessDone
		case err != nil:
			return os.NewSyscallError("waitid", err)
		case info.Code != cldStopped:
			return os.ErrProcessDone
		default:
			return nil
		}
	}
}
