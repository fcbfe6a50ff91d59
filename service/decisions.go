package service

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// digest stands for an identity, or for a pipeline and an identity, where many are kept.
type digest [16]byte

func digestOf(text string) digest {
	sum := sha256.Sum256([]byte(text))
	return digest(sum[:16])
}

// DecisionLog is what functions logged of events and pipelines. The zero value has nothing.
type DecisionLog struct {
	byEvent map[digest]decided
	// Decisions is how many were read, Ignored how many lines were none.
	Decisions, Ignored int
}

// decided is the weightiest decision on an event and a pipeline.
type decided struct {
	decision, reason string
	runID            string
}

// weights order decisions by what they say of a run: of several on one event, the weightiest counts, and of equals the last.
var weights = map[string]int{
	"started": 4, "duplicate": 4, "signalled": 4,
	"key-taken": 3, "dead-lettered": 2, "skipped": 2,
	"rejected": 1, "undecided": 1, "crashed": 1,
}

// maxLogLine bounds a line of a log. Cloud Logging takes entries of 256 KB.
const maxLogLine = 1 << 20

// ReadDecisions reads the log of the functions: one JSON object a line, as they write it, or what
// `gcloud logging read --format=json` prints, an array of log entries whose jsonPayload is that. Lines that are no decision
// are passed over. It keeps some hundred bytes for each event, however long the log is.
func ReadDecisions(r io.Reader) (*DecisionLog, error) {
	l := &DecisionLog{byEvent: map[digest]decided{}}
	in := bufio.NewReaderSize(r, 64<<10)
	first, err := firstByte(in)
	switch {
	case errors.Is(err, io.EOF):
		return l, nil
	case err != nil:
		return nil, fmt.Errorf("read the decision log: %w", err)
	case first == '[':
		err = l.readArray(in)
	default:
		err = l.readLines(in)
	}
	if err != nil {
		return nil, fmt.Errorf("read the decision log: %w", err)
	}
	if l.Decisions == 0 && l.Ignored > 0 {
		return nil, fmt.Errorf("the decision log has no decision in %d entries: give the functions' log, one JSON object a line, or what gcloud logging read --format=json prints", l.Ignored)
	}
	return l, nil
}

func firstByte(in *bufio.Reader) (byte, error) {
	for {
		b, err := in.ReadByte()
		if err != nil {
			return 0, err
		}
		if b != ' ' && b != '\t' && b != '\r' && b != '\n' {
			return b, in.UnreadByte()
		}
	}
}

func (l *DecisionLog) readArray(in io.Reader) error {
	d := json.NewDecoder(in)
	if _, err := d.Token(); err != nil {
		return err
	}
	for d.More() {
		var entry json.RawMessage
		if err := d.Decode(&entry); err != nil {
			return fmt.Errorf("entry %d: %w", l.Decisions+l.Ignored+1, err)
		}
		l.add(entry)
	}
	_, err := d.Token() // its end: a log that was cut off misses decisions
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (l *DecisionLog) readLines(in *bufio.Reader) error {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 64<<10), maxLogLine)
	for s.Scan() {
		if line := bytes.TrimSpace(s.Bytes()); len(line) > 0 {
			l.add(line)
		}
	}
	if errors.Is(s.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("line %d has more than %d bytes", l.Decisions+l.Ignored+1, maxLogLine)
	}
	return s.Err()
}

// line is what a decision's line has.
type line struct {
	Identity string `json:"identity"`
	Pipeline string `json:"pipeline"`
	Decision string `json:"decision"`
	Reason   string `json:"reason"`
	RunID    string `json:"runId"`
}

func (l *DecisionLog) add(entry []byte) {
	var e struct {
		line
		Payload *line `json:"jsonPayload"`
	}
	if err := json.Unmarshal(entry, &e); err != nil {
		l.Ignored++
		return
	}
	got := e.line
	if e.Payload != nil {
		got = *e.Payload
	}
	weight := weights[got.Decision]
	if weight == 0 || got.Identity == "" {
		l.Ignored++
		return
	}
	l.Decisions++
	of := digestOf(got.Pipeline + "\x00" + got.Identity)
	if weights[l.byEvent[of].decision] <= weight {
		l.byEvent[of] = decided{decision: got.Decision, reason: got.Reason, runID: got.RunID}
	}
}

// on is what was decided on an event and a pipeline, or on the event before it got as far.
func (l *DecisionLog) on(pipeline, identity string) (decided, bool) {
	if l == nil {
		return decided{}, false
	}
	for _, name := range []string{pipeline, ""} {
		if d, ok := l.byEvent[digestOf(name+"\x00"+identity)]; ok {
			return d, true
		}
	}
	return decided{}, false
}
