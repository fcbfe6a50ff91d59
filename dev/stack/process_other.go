//go:build !linux

package stack

import "syscall"

// childAttributes puts a child in a process group of its own, so that all of it
// can be signalled and a terminal's Ctrl-C reaches us alone. Only Linux can also
// let it die with a parent that is killed.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// awaitStopped cannot wait here: only Linux tells of a stop without taking the news
// from whoever waits for the end.
func awaitStopped(int) error { return nil }
