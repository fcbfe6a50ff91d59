package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/penstock/penstock/runs"
)

// Check holds the witnesses against each other and returns what they show to be broken:
//
//   - I1: each step of each key ran exactly one job that counted, under names without a hole, never two at once, and as many as it was to;
//   - I2: each acknowledged event led to a run, a decision on record or a dead letter;
//   - I3: each run says of its jobs what they themselves came to;
//   - I4: the last run closed within the bound after the last fault;
//   - left: no job is active and no workflow open.
func Check(r Record) []Violation {
	c := &checker{Record: r, jobs: map[string][]Job{}, runs: map[string][]Execution{}, claimed: map[string]bool{}}
	for _, j := range r.Jobs {
		c.jobs[j.Name] = append(c.jobs[j.Name], j)
	}
	for _, run := range r.Runs {
		c.runs[run.ID] = append(c.runs[run.ID], run)
	}
	for _, w := range r.Wants {
		if w.Pipeline == "" {
			continue
		}
		for _, step := range w.Steps {
			c.step(w, step)
		}
		c.run(w)
	}
	c.accounts()
	c.strangers()
	c.recovery()
	c.left()
	return c.found
}

type checker struct {
	Record
	jobs    map[string][]Job       // by name, in the order of launch
	runs    map[string][]Execution // by ID, in the order of start
	claimed map[string]bool        // names of jobs that a key's step accounts for
	found   []Violation
}

func (c *checker) report(invariant, format string, args ...any) {
	c.found = append(c.found, Violation{invariant, fmt.Sprintf(format, args...)})
}

func (c *checker) deployment(w Want) string { return cmp.Or(w.Deployment, c.Deployment) }

// holes is how far behind a name without a job another is looked for.
const holes = 10

// attempts are the jobs of a step, in the order of their names, and the first number that has none though a later one has.
func (c *checker) attempts(w Want, step string) (jobs []Job, hole int) {
	missing := 0
	for n := 1; n <= missing+holes || missing == 0; n++ {
		name := runs.JobName(c.deployment(w), w.Pipeline, w.Key, step, n)
		c.claimed[name] = true
		these := c.jobs[name]
		if slices.Contains(c.Foreign, name) {
			these = nil // somebody else's, under our name
		}
		switch {
		case len(these) > 0 && missing != 0:
			hole = missing
			jobs = append(jobs, these...)
		case len(these) > 0:
			jobs = append(jobs, these...)
		case missing == 0:
			missing = n
		}
	}
	return jobs, hole
}

// succeeded says that a job in this state is work done.
func succeeded(state string) bool { return state == "JOB_STATE_DONE" || state == "JOB_STATE_DRAINED" }

// step checks I1 of one step of one key.
func (c *checker) step(w Want, step string) {
	jobs, hole := c.attempts(w, step)
	of := fmt.Sprintf("step %s of %s %s", step, w.Pipeline, w.Key)
	if hole > 0 {
		c.report("I1", "%s has no job of attempt %d but later ones", of, hole)
	}
	byName, done := map[string]int{}, 0
	for i, j := range jobs {
		if j.Replaces == "" {
			byName[j.Name]++
		}
		if i > 0 && j.Replaces != jobs[i-1].ID {
			if before := jobs[i-1]; before.Ended.IsZero() || j.Launched.Before(before.Ended) {
				c.report("I1", "%s had two jobs at once: %s (%s) was launched at %s, while %s (%s) ended at %s", of,
					j.Name, j.ID, clock(j.Launched), before.Name, before.ID, clock(before.Ended))
			}
			if succeeded(jobs[i-1].State) {
				c.report("I1", "%s launched %s (%s) after %s was %s", of, j.Name, j.ID, jobs[i-1].Name, jobs[i-1].State)
			}
		}
		if succeeded(j.State) {
			done++
		}
	}
	for name, n := range byName {
		if n > 1 {
			c.report("I1", "%s launched %d jobs named %s", of, n, name)
		}
	}
	switch {
	case done > 1:
		c.report("I1", "%s has %d jobs that were done", of, done)
	case w.Outcome == runs.OutcomeSucceeded && done == 0 && !c.open(w):
		c.report("I1", "%s has no job that was done, of %d", of, len(jobs))
	}
	launched := len(slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return j.Replaces != "" }))
	closed := len(c.runs[runs.RunID(c.deployment(w), w.Pipeline, w.Key)]) > 0 && !c.open(w)
	if want := w.jobs(step); want != AnyJobs && (launched > want || launched < want && closed) {
		c.report("I1", "%s has %d jobs, want %d", of, launched, want)
	}
}

// jobs is how many jobs a step is to have.
func (w Want) jobs(step string) int {
	n, said := w.Jobs[step]
	switch {
	case w.Fate == Anything:
		return AnyJobs
	case w.Fate != Runs:
		return 0
	case !said:
		return 1
	}
	return n
}

// open says that the key's run is not over, which left reports.
func (c *checker) open(w Want) bool {
	return slices.Contains(c.Open, runs.RunID(c.deployment(w), w.Pipeline, w.Key))
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return t.UTC().Format("15:04:05.000")
}

// run checks I1 and I3 of one key.
func (c *checker) run(w Want) {
	id := runs.RunID(c.deployment(w), w.Pipeline, w.Key)
	executions := c.runs[id]
	if len(executions) == 0 {
		return // accounts says so
	}
	if w.Fate != Runs && w.Fate != Anything {
		c.report("I2", "%s was to lead to %s, and has the run %s", w.Identity, w.Fate, id)
		return
	}
	if want := max(w.Executions, 1); len(executions) != want && w.Fate == Runs {
		c.report("I1", "run %s was started %d times, want %d", id, len(executions), want)
	}
	last := executions[len(executions)-1]
	if last.Closed.IsZero() {
		return // left says so
	}
	if w.Outcome != "" && last.Outcome != w.Outcome {
		c.report("I3", "run %s is %s, want %s: %s", id, last.Outcome, w.Outcome, last.Result.Error)
	}
	if last.Outcome == Terminated || last.Outcome == runs.OutcomeDuplicate || last.Outcome == runs.OutcomeKeyTaken {
		return // it tells of no jobs
	}
	for _, step := range w.Steps {
		i := slices.IndexFunc(last.Result.Steps, func(s runs.StepResult) bool { return s.Name == step })
		if i < 0 {
			c.report("I3", "run %s says nothing of its step %s", id, step)
			continue
		}
		c.truth(w, id, last.Result.Steps[i])
	}
	allSucceeded := !slices.ContainsFunc(last.Result.Steps, func(s runs.StepResult) bool { return s.Outcome != runs.OutcomeSucceeded })
	if allSucceeded != (last.Outcome == runs.OutcomeSucceeded) {
		c.report("I3", "run %s is %s, which its steps do not bear out", id, last.Outcome)
	}
}

// truth compares what a run says of a step with what the step's jobs came to.
func (c *checker) truth(w Want, id string, said runs.StepResult) {
	jobs, _ := c.attempts(w, said.Name)
	var told []runs.JobResult
	for _, a := range said.Attempts {
		if a.JobID != "" {
			told = append(told, a)
		}
	}
	// A streaming update goes on in another job under the same name: its last one is told of.
	jobs = slices.DeleteFunc(slices.Clone(jobs), func(j Job) bool { return j.State == "JOB_STATE_UPDATED" })
	if len(told) != len(jobs) {
		c.report("I3", "run %s tells of %d jobs of step %s; Dataflow had %d", id, len(told), said.Name, len(jobs))
		return
	}
	for i, j := range jobs {
		if told[i].JobID != j.ID || told[i].State != j.State {
			c.report("I3", "run %s says that attempt %d of step %s was job %s, %s; it was %s, %s", id, told[i].Attempt, said.Name, told[i].JobID, told[i].State, j.ID, j.State)
		}
	}
	var last string
	if len(jobs) > 0 {
		last = jobs[len(jobs)-1].State
	}
	if (said.Outcome == runs.OutcomeSucceeded) != truly(last, said) {
		c.report("I3", "run %s says that step %s is %s; its last job is %s", id, said.Name, said.Outcome, last)
	}
}

// truly says whether a step whose last job came to this state succeeded. A drain is a success unless it is how a stop was done.
func truly(last string, said runs.StepResult) bool {
	switch last {
	case "JOB_STATE_DONE":
		return true
	case "JOB_STATE_DRAINED":
		return said.Outcome != runs.OutcomeCancelled && said.Outcome != runs.OutcomeTimedOut
	}
	return false
}

// accounts checks I2: of every event that was acknowledged, and of every decision that names a run or a letter.
func (c *checker) accounts() {
	letters, lettersOf := map[string]bool{}, map[string]bool{}
	stored := map[string]bool{} // identities of objects whose events the stack delivers
	for _, l := range c.Letters {
		letters[l.Body] = true
		lettersOf[l.Identity] = true
	}
	decided := map[string]map[string]bool{} // of an identity: its decisions
	for _, d := range c.Decisions {
		if decided[d.Identity] == nil {
			decided[d.Identity] = map[string]bool{}
		}
		decided[d.Identity][d.Decision] = true
		if d.Decision == "started" && c.runs[d.RunID] == nil {
			c.report("I2", "the functions say that they started %s, which Temporal does not have", d.RunID)
		}
		if d.Decision == "dead-lettered" && d.Identity != "" && !lettersOf[d.Identity] {
			c.report("I2", "the functions say that %s went to the dead-letter topic, which does not have it", d.Identity)
		}
	}
	acknowledged, answered := map[sent]time.Time{}, map[string]bool{} // the first time; by body
	pending := map[sent]int{}
	for _, d := range c.Deliveries {
		to := sent{cmp.Or(d.Deployment, c.Deployment), d.Identity}
		if !d.acknowledged() && !d.GivenUp {
			pending[to]++
			continue
		}
		answered[d.Body] = true
		if at, again := acknowledged[to]; !again || d.Time.Before(at) {
			acknowledged[to] = d.Time
		}
		if d.GivenUp {
			letters[d.Body], lettersOf[d.Identity] = true, true
		}
		if d.Function == uploaded {
			stored[d.Identity] = true
		}
	}
	wanted := map[sent]bool{}
	for _, w := range c.Wants {
		to := sent{c.deployment(w), w.Identity}
		wanted[to] = true
		at, ok := acknowledged[to]
		if w.Identity != "" && !ok || w.Identity == "" && !answered[w.Body] {
			c.report("I2", "%s was never acknowledged, in %d attempts", name(w), pending[to])
			continue
		}
		executions := c.runs[runs.RunID(c.deployment(w), w.Pipeline, w.Key)]
		run := len(executions) > 0 && w.Pipeline != ""
		letter := letters[w.Body] && w.Body != "" || lettersOf[w.Identity] && w.Identity != ""
		skipped := decided[w.Identity]["skipped"]
		met := map[Fate]bool{Runs: run, DeadLetters: letter, Skipped: skipped, Anything: run || letter || skipped || decided[w.Identity]["signalled"] || decided[w.Identity]["key-taken"]}[w.Fate]
		switch {
		case !met:
			c.report("I2", "%s was acknowledged and did not lead to %s; its decisions: %s", name(w), w.Fate, list(decided[w.Identity]))
		case w.Fate == Runs && !letter && !stored[w.Identity] && executions[0].Started.After(at):
			// A delivery that came later has covered it up.
			c.report("I2", "%s was acknowledged at %s, before its run was started at %s", name(w), clock(at), clock(executions[0].Started))
		}
	}
	for to := range acknowledged {
		if to.identity != "" && !wanted[to] {
			c.report("I2", "%s was sent, and the scenario does not say what it is to lead to", to.identity)
		}
	}
}

// sent is an event as one deployment gets it.
type sent struct{ deployment, identity string }

func name(w Want) string {
	if w.Identity != "" {
		return w.Identity
	}
	return "the event with the body " + w.Body
}

func list(set map[string]bool) string {
	if len(set) == 0 {
		return "none"
	}
	var all []string
	for s := range set {
		all = append(all, s)
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// strangers finds jobs and runs that nobody asked for.
func (c *checker) strangers() {
	for _, j := range c.Jobs {
		if !c.claimed[j.Name] && !slices.Contains(c.Foreign, j.Name) {
			c.report("I1", "job %s (%s) is of no key and step that was to run", j.Name, j.ID)
		}
	}
	wanted := map[string]bool{}
	for _, w := range c.Wants {
		wanted[runs.RunID(c.deployment(w), w.Pipeline, w.Key)] = true
	}
	for id := range c.runs {
		if !wanted[id] {
			c.report("I1", "run %s is of no event that was sent", id)
		}
	}
}

// recovery checks I4.
func (c *checker) recovery() {
	late, last := 0, Execution{}
	for _, run := range c.Runs {
		if run.Closed.IsZero() || run.Closed.Sub(c.Ended) <= c.Bound {
			continue
		}
		late++
		if run.Closed.After(last.Closed) {
			last = run
		}
	}
	if late > 0 {
		c.report("I4", "%d runs closed later than %s after the last fault, the last one, %s, after %s", late, c.Bound, last.ID, last.Closed.Sub(c.Ended).Round(100*time.Millisecond))
	}
}

// left finds what should be over.
func (c *checker) left() {
	for _, j := range c.Jobs {
		if j.Ended.IsZero() && !slices.Contains(c.Foreign, j.Name) {
			c.report("left", "job %s (%s) is still %s", j.Name, j.ID, j.State)
		}
	}
	for _, id := range c.Open {
		c.report("left", "workflow %s is still open", id)
	}
}
