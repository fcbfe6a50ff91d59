package dataflowemulator

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// job is one Dataflow job. Its fields are guarded by the emulator's mu, except those that never change.
type job struct {
	record   *pb.Job
	launch   Launch
	program  Program
	ended    chan struct{} // closed when terminal
	over     chan struct{} // closed when its program has returned
	stops    chan Stop
	kill     context.CancelFunc
	after    *job // the job that this one replaces: its program must be gone first
	messages []*pb.JobMessage
	metrics  *pb.JobMetrics
	stopping pb.JobState // the terminal state that was asked for; unknown: none
	stop     Stop        // how it was last asked to stop; 0: not
	failure  string      // of one that failed
	resumed  *Past       // of one that an emulator before this one ran
	events   eventQueue
}

func terminal(s pb.JobState) bool {
	switch s {
	case pb.JobState_JOB_STATE_DONE, pb.JobState_JOB_STATE_FAILED, pb.JobState_JOB_STATE_CANCELLED, pb.JobState_JOB_STATE_UPDATED, pb.JobState_JOB_STATE_DRAINED:
		return true
	}
	return false
}

func (j *job) key() activeKey {
	return activeKey{j.record.ProjectId, j.record.Location, j.record.Name}
}

func (j *job) streaming() bool { return j.record.Type == pb.JobType_JOB_TYPE_STREAMING }

// setState moves the job and tells the ledger and the sink. A terminal job stays as it is. The caller holds mu.
func (e *Emulator) setState(j *job, state pb.JobState) {
	if terminal(j.record.CurrentState) || j.record.CurrentState == state {
		return
	}
	e.write(j.move(state))
	if terminal(state) {
		if e.active[j.key()] == j {
			delete(e.active, j.key())
		}
		close(j.ended)
	}
	e.publish(j)
}

// move changes the job's state and returns the ledger's line of that.
func (j *job) move(state pb.JobState) ledgerLine {
	now := time.Now().UTC().Truncate(time.Microsecond)
	// Whoever compares currentStateTime must be able to order two states of one job.
	if last := j.record.CurrentStateTime.AsTime(); !now.After(last) {
		now = last.Add(time.Microsecond)
	}
	j.record.CurrentState = state
	j.record.CurrentStateTime = timestamppb.New(now)
	line := j.line("state", now)
	line.State, line.ReplacedBy, line.Stop = state.String(), j.record.ReplacedByJobId, stopNames[j.stop]
	if terminal(state) {
		line.Message = j.failure
		if j.metrics != nil {
			line.Metrics = messageJSON(j.metrics)
		}
	}
	return line
}

// line begins a line of the ledger about the job.
func (j *job) line(kind string, at time.Time) ledgerLine {
	return ledgerLine{Time: at, Kind: kind, ID: j.record.Id, Job: j.record.Name, Project: j.record.ProjectId, Location: j.record.Location}
}

// updated writes what changed of a job beside its state to the ledger. The caller holds mu.
func (e *Emulator) updated(j *job) {
	if e.ledger == nil {
		return
	}
	line := j.line("update", time.Now().UTC())
	line.Record, line.Stop = messageJSON(j.record), stopNames[j.stop]
	e.write(line)
}

// messageJSON is a message in JSON. Only text that is no UTF-8 cannot be; what jobs hold was checked or made valid.
func messageJSON(m proto.Message) json.RawMessage {
	text, err := protojson.Marshal(m)
	if err != nil {
		return nil
	}
	return text
}

func (e *Emulator) write(line ledgerLine) {
	if e.ledger == nil {
		return
	}
	if err := e.ledger.append(line); err != nil {
		e.config.Log.Error("the launch ledger cannot be written", "error", err)
	}
}

// newJobID has the form of Dataflow's: the time in US Pacific time, and a number.
func newJobID(now time.Time) string {
	var b [8]byte
	rand.Read(b[:])
	return fmt.Sprintf("%s-%d", now.In(pacific).Format("2006-01-02_15_04_05"), binary.BigEndian.Uint64(b[:])|1<<63)
}

// pacific is a fixed offset: the zone database may be absent, and nobody may read a time out of an ID.
var pacific = time.FixedZone("PST", -8*60*60)

// view copies what a view shows of a record.
func view(j *job, v pb.JobView) *pb.Job {
	out := proto.Clone(j.record).(*pb.Job)
	if v == pb.JobView_JOB_VIEW_SUMMARY {
		out.Environment, out.Labels, out.RuntimeUpdatableParams, out.TransformNameMapping = nil, nil, nil, nil
	}
	return out
}

func (j *job) addMessage(importance pb.JobMessageImportance, text string) {
	const kept, longest = 10_000, 64 << 10
	if len(text) > longest {
		text = text[:longest] + " …"
	}
	// The first error is what a user looks for: it is never the one that makes room.
	if len(j.messages) >= kept {
		drop := slices.IndexFunc(j.messages, func(m *pb.JobMessage) bool {
			return m.MessageImportance != pb.JobMessageImportance_JOB_MESSAGE_ERROR
		})
		if drop < 0 {
			return
		}
		j.messages = slices.Delete(j.messages, drop, drop+1)
	}
	at := time.Now().UTC().Truncate(time.Microsecond)
	j.messages = append(j.messages, &pb.JobMessage{
		Id:                incident(),
		Time:              timestamppb.New(at),
		MessageText:       validText(text),
		MessageImportance: importance,
	})
}
