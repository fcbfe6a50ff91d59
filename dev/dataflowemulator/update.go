package dataflowemulator

import (
	"context"
	"maps"
	"time"

	pb "cloud.google.com/go/dataflow/apiv1beta3/dataflowpb"
	"google.golang.org/grpc/codes"
)

// forceLabel on a request to cancel makes it one by force.
const forceLabel = "force_cancel_job"

// UpdateJob changes a job: its requestedState (a cancel or a drain), or with an update mask the parameters that can change while it runs. Labels replace the
// job's own; an empty map changes nothing.
func (e *Emulator) UpdateJob(ctx context.Context, in *pb.UpdateJobRequest) (*pb.Job, error) {
	op := e.named(Operation{Method: "jobs.update", Project: in.ProjectId, Location: e.location(in.Location), JobID: in.JobId})
	if err := e.before(ctx, op); err != nil {
		return nil, err
	}
	out, err := e.update(in, e.behaviour(op))
	if err != nil {
		return nil, err
	}
	if err := e.committed(ctx, op); err != nil {
		return nil, err
	}
	return out, nil
}

func (e *Emulator) update(in *pb.UpdateJobRequest, b Behaviour) (*pb.Job, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	j, err := e.find(in.ProjectId, in.Location, in.JobId)
	if err != nil {
		return nil, err
	}
	if e.closed {
		return nil, refuse(codes.Unavailable, "The emulator is shutting down.")
	}
	asked := in.GetJob()
	mask := in.GetUpdateMask().GetPaths()
	if len(mask) > 0 {
		if asked.GetRequestedState() != pb.JobState_JOB_STATE_UNKNOWN {
			return nil, invalid("An update cannot have both a requested state and an update mask.")
		}
		if err := e.updateRunning(j, asked.GetRuntimeUpdatableParams(), mask); err != nil {
			return nil, err
		}
		e.updated(j)
		return view(j, pb.JobView_JOB_VIEW_ALL), nil
	}
	labels := maps.Clone(asked.GetLabels())
	force := labels[forceLabel] == "true"
	delete(labels, forceLabel)
	if err := checkLabels(labels); err != nil {
		return nil, err
	}
	switch asked.GetRequestedState() {
	case pb.JobState_JOB_STATE_UNKNOWN:
	case pb.JobState_JOB_STATE_CANCELLED:
		err = e.cancel(j, force, b.CancelNotReady)
	case pb.JobState_JOB_STATE_DRAINED, pb.JobState_JOB_STATE_DRAINING:
		err = e.drain(j)
	case pb.JobState_JOB_STATE_RUNNING:
		if terminal(j.record.CurrentState) {
			err = modificationFailed("Operation run not allowed for job %s. Job has terminated in state %s.", j.record.Id, j.record.CurrentState)
		}
	default:
		err = invalid("Invalid requested state %s: a job can be asked for JOB_STATE_CANCELLED, JOB_STATE_DRAINED or JOB_STATE_DRAINING.", asked.GetRequestedState())
	}
	if err != nil {
		return nil, err
	}
	if len(labels) > 0 {
		j.record.Labels = labels
	}
	if len(labels) > 0 || force {
		e.updated(j)
	}
	return view(j, pb.JobView_JOB_VIEW_ALL), nil
}

func (e *Emulator) cancel(j *job, force bool, notReady time.Duration) error {
	now := time.Now()
	state := j.record.CurrentState
	switch {
	case terminal(state):
		return modificationFailed("Operation cancel not allowed for job %s. Job has terminated in state %s.", j.record.Id, state)
	case now.Sub(j.record.CreateTime.AsTime()) < notReady:
		return modificationFailed("Job %s is not yet ready for canceling. Please retry in a few minutes.", j.record.Id)
	case force && state != pb.JobState_JOB_STATE_CANCELLING:
		return modificationFailed("Job %s cannot be cancelled by force: cancel it plainly first.", j.record.Id)
	case force && now.Sub(j.record.CurrentStateTime.AsTime()) < e.config.ForceCancelAfter:
		return modificationFailed("Job %s cannot be cancelled by force before it was cancelling for %v.", j.record.Id, e.config.ForceCancelAfter)
	}
	j.record.RequestedState = pb.JobState_JOB_STATE_CANCELLED
	j.stopping = pb.JobState_JOB_STATE_CANCELLED
	switch {
	case force:
		j.stop = ForceCancel
		j.send(ForceCancel)
	case state != pb.JobState_JOB_STATE_CANCELLING:
		j.stop = Cancel
		e.setState(j, pb.JobState_JOB_STATE_CANCELLING)
		j.send(Cancel)
	}
	return nil
}

func (e *Emulator) drain(j *job) error {
	state := j.record.CurrentState
	switch {
	case terminal(state):
		return modificationFailed("Operation drain not allowed for job %s. Job has terminated in state %s.", j.record.Id, state)
	case !j.streaming():
		return modificationFailed("Operation drain not allowed for job %s. Only a streaming job can be drained.", j.record.Id)
	case state != pb.JobState_JOB_STATE_RUNNING:
		return modificationFailed("Operation drain not allowed for job %s. Job is in state %s, not running.", j.record.Id, state)
	}
	j.record.RequestedState = pb.JobState_JOB_STATE_DRAINED
	j.stopping = pb.JobState_JOB_STATE_DRAINED
	j.stop = Drain
	e.setState(j, pb.JobState_JOB_STATE_DRAINING)
	j.send(Drain)
	return nil
}

// send never blocks: a job takes one drain, one cancel and any number of forced cancels, of which one is enough.
func (j *job) send(s Stop) {
	select {
	case j.stops <- s:
	default:
	}
}

func (e *Emulator) updateRunning(j *job, to *pb.RuntimeUpdatableParams, mask []string) error {
	if j.record.CurrentState != pb.JobState_JOB_STATE_RUNNING {
		return modificationFailed("The parameters of job %s cannot be changed: it is in state %s, not running.", j.record.Id, j.record.CurrentState)
	}
	if !j.streaming() {
		return modificationFailed("The parameters of job %s cannot be changed: it is not a streaming job.", j.record.Id)
	}
	if to == nil {
		to = &pb.RuntimeUpdatableParams{}
	}
	next := &pb.RuntimeUpdatableParams{}
	if old := j.record.RuntimeUpdatableParams; old != nil {
		next.MinNumWorkers, next.MaxNumWorkers, next.WorkerUtilizationHint = old.MinNumWorkers, old.MaxNumWorkers, old.WorkerUtilizationHint
	}
	for _, path := range mask {
		switch path {
		case "runtime_updatable_params.min_num_workers":
			next.MinNumWorkers = to.MinNumWorkers
		case "runtime_updatable_params.max_num_workers":
			next.MaxNumWorkers = to.MaxNumWorkers
		case "runtime_updatable_params.worker_utilization_hint":
			next.WorkerUtilizationHint = to.WorkerUtilizationHint
		default:
			return invalid("The update mask's path %q cannot be updated. It can name runtime_updatable_params.min_num_workers, .max_num_workers and .worker_utilization_hint.", cut(path))
		}
	}
	switch {
	case next.MinNumWorkers != nil && *next.MinNumWorkers < 1, next.MaxNumWorkers != nil && *next.MaxNumWorkers < 1:
		return invalid("A number of workers must be 1 or more.")
	case next.MinNumWorkers != nil && next.MaxNumWorkers != nil && *next.MinNumWorkers > *next.MaxNumWorkers:
		return invalid("min_num_workers (%d) must not be above max_num_workers (%d).", *next.MinNumWorkers, *next.MaxNumWorkers)
	case next.WorkerUtilizationHint != nil && (*next.WorkerUtilizationHint < 0.1 || *next.WorkerUtilizationHint > 0.9):
		return invalid("worker_utilization_hint must be between 0.1 and 0.9.")
	}
	j.record.RuntimeUpdatableParams = next
	return nil
}
