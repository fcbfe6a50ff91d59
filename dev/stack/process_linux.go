package stack

import "syscall"

// childAttributes puts a child in a process group of its own, so that all of it
// can be signalled and a terminal's Ctrl-C reaches us alone, and lets it die with
// us, also when we are killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
