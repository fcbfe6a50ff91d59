package faults_test

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

// dialAnswering connects, through a proxy under a rule that comes once the connection stands, to a server that answers each line. Lines that reach it are heard.
func dialAnswering(t *testing.T, rule string) (ask func(line string), answer func(within time.Duration) (string, error), heard chan string, end func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	heard = make(chan string, 10)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		for lines := bufio.NewScanner(conn); lines.Scan(); {
			heard <- lines.Text()
			fmt.Fprintln(conn, "answer to", lines.Text())
		}
	}()
	lab, _ := open(t)
	p, err := lab.StartProxy("functions", listener.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	conn, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	answers := bufio.NewReader(conn)
	ask = func(line string) {
		t.Helper()
		if _, err := fmt.Fprintln(conn, line); err != nil {
			t.Fatal(err)
		}
	}
	answer = func(within time.Duration) (string, error) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
			t.Fatal(err)
		}
		return answers.ReadString('\n')
	}
	ask("hello")
	if _, err := answer(within); err != nil {
		t.Fatal(err)
	}
	<-heard
	put(t, lab, rule)
	return ask, answer, heard, func() { lab.Delete("one-way") }
}

const moment = 200 * time.Millisecond

func TestAnswersAloneHang(t *testing.T) {
	ask, answer, heard, end := dialAnswering(t, `{"name": "one-way", "at": "temporal", "fault": "hang", "direction": "answers"}`)
	ask("start")
	select {
	case <-heard:
	case <-time.After(within):
		t.Fatal("the request did not pass")
	}
	if got, err := answer(moment); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("answered %q, %v", got, err)
	}
	end()
	if got, err := answer(within); got != "answer to start\n" {
		t.Errorf("after the rule: %q, %v", got, err)
	}
}

func TestRequestsAloneHang(t *testing.T) {
	ask, answer, heard, end := dialAnswering(t, `{"name": "one-way", "at": "temporal", "fault": "hang", "direction": "requests"}`)
	ask("start")
	select {
	case line := <-heard:
		t.Errorf("%s reached the server", line)
	case <-time.After(moment):
	}
	end()
	if got, err := answer(within); got != "answer to start\n" {
		t.Errorf("after the rule: %q, %v", got, err)
	}
}

func TestAnswersAloneAreCut(t *testing.T) {
	ask, answer, heard, _ := dialAnswering(t, `{"name": "one-way", "at": "temporal", "fault": "cut", "bytes": 1, "direction": "answers"}`)
	ask("start")
	select {
	case <-heard:
	case <-time.After(within):
		t.Fatal("the request did not pass")
	}
	if got, err := answer(within); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("answered %q, %v", got, err)
	}
}
