package dataflowemulator

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
)

// ledgerLine is one line of the ledger: a launch, or a state of a job.
type ledgerLine struct {
	Time       time.Time         `json:"time"`
	Kind       string            `json:"kind"` // launch or state
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
}

type ledger struct {
	mu   sync.Mutex
	file *os.File
}

func openLedger(path string) (*ledger, error) {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the launch ledger: %w (give a file in a folder that exists and can be written)", err)
	}
	return &ledger{file: f}, nil
}

func (l *ledger) append(line ledgerLine) error {
	b, err := json.Marshal(line)
	if err != nil {
		return fmt.Errorf("write job %s to the launch ledger: %w", line.ID, err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("write job %s to the launch ledger: %w", line.ID, err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("flush job %s to the launch ledger: %w", line.ID, err)
	}
	return nil
}

func (l *ledger) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
