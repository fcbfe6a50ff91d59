package worker

import (
	"time"

	"go.temporal.io/sdk/workflow"

	"github.com/penstock/penstock/runs"
)

// acquire launches or adopts the attempt's job. It returns false when the attempt
// has no job and will have none, or when the workflow hands over.
func (j *job) acquire() bool {
	var (
		doubt    time.Time // until then a launch that nobody answered for may show up; zero: there is none
		lookedAt time.Time // when the last look that saw no job of ours began
		next     = workflow.Now(j.ctx)
		looks    = lookAgain
		backoff  = firstBackoff
		quota    = quotaBackoff
		troubled = false // the last try met trouble before it had resolved its hints
	)
	if !j.in.First {
		doubt = j.horizon() // whoever had the name before may be writing still
	}
	for {
		j.drain()
		now := workflow.Now(j.ctx)
		if j.handingOver {
			return false
		}
		hinted := len(j.hints) > 0 && !(troubled && j.hintsWait())
		if !hinted && j.full() {
			// The new history knows nothing of a launch in doubt: it is to look first.
			j.in.First = j.in.First && doubt.IsZero()
			j.renewing = true
			return false
		}
		if j.deadlinePassed(now) {
			j.setStop(runs.StopTimeout)
		}
		over := j.refusal != "" || j.state.Stop != nil
		if over && len(j.hints) == 0 && (doubt.IsZero() || !lookedAt.Before(doubt)) {
			return false
		}
		if now.Before(next) && !hinted {
			j.wait(j.orDeadline(next))
			continue
		}
		asked := len(j.hints)
		reply := j.launch(over || now.Before(doubt), !doubt.IsZero())
		troubled = asked > 0 && len(j.hints) >= asked
		after := workflow.Now(j.ctx)
		j.message = reply.Message
		switch reply.Kind {
		case replyLaunched, replyAdopted:
			j.refusal = ""
			j.state.Adopted = reply.Kind == replyAdopted
			j.state.Parameters, j.state.SpecHash = reply.Parameters, reply.SpecHash
			j.become(reply.Job)
			return true
		case replyNone:
			lookedAt = now
			next = after
			if after.Before(doubt) {
				next = earlier(after.Add(looks), doubt)
				looks *= 2
			}
		case replyRefused:
			// A refusal speaks for its own try: a job that shows up while there is doubt
			// overrules it.
			lookedAt, j.refusal, j.namesake = now, reply.Refusal, reply.Job
			next = later(after, doubt)
		case replyUnanswered:
			doubt, looks = j.horizon(), lookAgain
			next = after.Add(looks)
			if j.in.Sweep { // runs that began earlier looked without heeding it, and have to replay so
				next = after.Add(max(looks, reply.RetryAfter))
			}
			j.message = "the launch was not answered; looking for its job: " + reply.Message
		case replyQuota:
			next = after.Add(max(j.quotaWait(quota), reply.RetryAfter))
			quota = min(2*quota, mostQuota)
		default:
			next = after.Add(max(backoff, reply.RetryAfter))
			backoff = min(2*backoff, mostBackoff)
		}
	}
}

// changeHintsWait marks histories of jobs that are not looked at again at once, for a hint,
// when the look before met trouble.
const changeHintsWait = "hints-wait"

func (j *job) hintsWait() bool {
	return workflow.GetVersion(j.ctx, changeHintsWait, workflow.DefaultVersion, 1) >= 1
}

// quotaWait is this job's wait before it asks for its share of the quota again, of at most
// most. Jobs that were refused together do not all come back together, of which the quota
// would take some and stand idle until the next time.
func (j *job) quotaWait(most time.Duration) time.Duration {
	if !j.in.Sweep { // which has to replay as it was
		return most
	}
	return most/2 + j.share(most/2)
}

// horizon is when a launch that may be in flight now will be in Dataflow's list for sure.
func (j *job) horizon() time.Time {
	return workflow.Now(j.ctx).Add(j.timing.Call + j.timing.Horizon)
}

// changeRefusedLook marks histories of jobs of which a look was refused while a launch was in doubt.
const changeRefusedLook = "refused-look"

// launch runs the activity, once, and waits for it whatever happens. An
// activity that did not report (its worker was killed) may have written.
func (j *job) launch(lookOnly, doubt bool) launchReply {
	hints := j.hints
	req := launchRequest{Job: j.in, Hints: hints, LookOnly: lookOnly}
	req.Job.Resume = nil
	var reply launchReply
	if err := workflow.ExecuteActivity(j.once(), activityLaunch, req).Get(j.ctx, &reply); err != nil {
		if lookOnly {
			return launchReply{Kind: replyTransient, Message: err.Error()}
		}
		return launchReply{Kind: replyUnanswered, Message: err.Error()}
	}
	if reply.Unseen && doubt && workflow.GetVersion(j.ctx, changeRefusedLook, workflow.DefaultVersion, 1) >= 1 {
		// Nothing was seen: there may be a job, and the launch was not refused.
		reply.Kind, reply.Refusal = replyTransient, ""
	}
	if reply.Kind != replyTransient {
		j.hints = j.hints[len(hints):] // resolved; what came meanwhile stays
	}
	return reply
}
