package dataflowemulator

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// ledgerLine is one line of the ledger. Kinds and fields are only added: others read it.
type ledgerLine struct {
	Time time.Time `json:"time"`
	// Kind is launch; state, of a job that came into one; update, of a job's record by itself; or told, once the status event of a state was delivered.
	Kind       string            `json:"kind"`
	ID         string            `json:"id"`
	Job        string            `json:"job"`
	Project    string            `json:"project"`
	Location   string            `json:"location"`
	State      string            `json:"state,omitempty"`
	Template   string            `json:"template,omitempty"`
	Image      string            `json:"image,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	Replaces   string            `json:"replaces,omitempty"`
	ReplacedBy string            `json:"replacedBy,omitempty"`

	// Number and Options are of a launch; OverQuota the quota that it was over.
	Number    int      `json:"number,omitempty"`
	Options   []string `json:"options,omitempty"`
	OverQuota *int     `json:"overQuota,omitempty"`
	// Message is a failure's, Metrics those of a job that is over.
	Message string          `json:"message,omitempty"`
	Metrics json.RawMessage `json:"metrics,omitempty"`
	// Stop is what the job was last asked for: drain, cancel or force.
	Stop string `json:"stop,omitempty"`
	// Record is the job as jobs.get shows it, of launches and updates.
	Record json.RawMessage `json:"record,omitempty"`
}

type ledger struct {
	mu   sync.Mutex
	file *os.File
}

// openLedger opens a ledger for this process alone, and reads what it holds. A last line that was cut off by a crash is taken away: nobody was told of it.
func openLedger(path string) (*ledger, []ledgerLine, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open the launch ledger: %w (give a file in a folder that exists and can be written)", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open the launch ledger %s: another emulator writes to it (%w); stop that one, or give this one a ledger of its own", path, err), f.Close())
	}
	lines, whole, err := readLedger(f)
	if err == nil {
		err = f.Truncate(whole)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("read the launch ledger %s: %w", path, err), f.Close())
	}
	return &ledger{file: f}, lines, nil
}

// readLedger reads whole lines, and says how many bytes those are.
func readLedger(from io.Reader) (lines []ledgerLine, whole int64, err error) {
	r := bufio.NewReader(from)
	for {
		text, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return lines, whole, nil
		}
		if err != nil {
			return nil, 0, err
		}
		var line ledgerLine
		if err := json.Unmarshal(text, &line); err != nil {
			return nil, 0, fmt.Errorf("line %d is not one of a ledger: %w; move the file away to begin a new one", len(lines)+1, err)
		}
		lines, whole = append(lines, line), whole+int64(len(text))
	}
}

// append writes lines together and returns once they are on the disk.
func (l *ledger) append(lines ...ledgerLine) error {
	if err := l.note(lines...); err != nil {
		return err
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("flush job %s to the launch ledger: %w", lines[0].ID, err)
	}
	return nil
}

// note writes lines that survive this process, but not this machine.
func (l *ledger) note(lines ...ledgerLine) error {
	var text bytes.Buffer
	encode := json.NewEncoder(&text)
	for _, line := range lines {
		if err := encode.Encode(line); err != nil {
			return fmt.Errorf("write job %s to the launch ledger: %w", line.ID, err)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(text.Bytes()); err != nil {
		return fmt.Errorf("write job %s to the launch ledger: %w", lines[0].ID, err)
	}
	return nil
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
