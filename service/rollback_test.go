package service

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
)

func back(s *State, to string) RollbackOptions {
	return RollbackOptions{State: s, DeploymentName: name, To: to, Timeout: time.Minute, By: "me", DeployCommand: func(b Build) string { return "deploy " + b.Image }}
}

func (r Rollback) work(build string) BuildWork {
	for _, w := range r.Builds {
		if w.Build == build {
			return w
		}
	}
	return BuildWork{Build: build, Status: "not listed"}
}

// The build before is deployed again, waited for, and made current; without a name it is the one that was current last.
func TestRollbackOfFixedWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := newState(t, "one", "two", "three")
		now := time.Now()
		d := newDeployments(map[string]*version{
			"one":   polling(now).is(isDrained, now.Add(-3*time.Hour)),
			"two":   polling(now.Add(20*time.Second)).is(isDrained, now.Add(-2*time.Hour)),
			"three": polling(now).is(isCurrent, now.Add(-time.Hour)).has(0, 7),
			"never": polling(now).is(isInactive, time.Time{}),
		})
		d.builds["two"].bound = kinds // it served before
		var said []string
		o := back(state, "")
		o.Progress = func(text string) {
			said = append(said, text)
			if d.current != "three" {
				t.Errorf("%s is current while rollback waits: %s", d.current, text)
			}
		}
		d.modifier = "CI"
		// Its version is known from before; only nobody polls.
		d.builds["two"].polls = []*taskqueuepb.PollerInfo{poller(name, "two", enumspb.WORKER_VERSIONING_MODE_VERSIONED, now.Add(-time.Hour))}
		d.builds["two"].pollsFrom = now
		time.AfterFunc(20*time.Second, func() { d.builds["two"].polls = nil })
		got, err := d.service().Rollback(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got.Previous != "three" || got.Current != "two" || d.current != "two" || d.modifier != "me" || got.Image != image("two") || got.Scaling != ScalingFixed || !got.Spread {
			t.Errorf("rolled back: %+v; current %s by %s", got, d.current, d.modifier)
		}
		if len(said) == 0 || !strings.Contains(said[0], "no worker of build two polls") || !strings.Contains(said[0], "deploy it: deploy "+image("two")) {
			t.Errorf("said %q", said)
		}
		if w := got.work("three"); w.Moving != 7 || w.Status != "draining" || w.Fate != "the others move to two with their next task" {
			t.Errorf("of the build before: %+v", w)
		}
		if w := got.work("two"); w.Status != "current" {
			t.Errorf("of the build now: %+v", w)
		}

		// Again: forward.
		if got, err = d.service().Rollback(t.Context(), back(state, "")); err != nil || got.Current != "three" {
			t.Errorf("rolled back again: %+v, %v", got, err)
		}
		// By name, twice.
		for range 2 {
			if got, err = d.service().Rollback(t.Context(), back(state, "one")); err != nil || d.current != "one" || got.Current != "one" {
				t.Errorf("rolled back to one: %+v, %v", got, err)
			}
		}
		if got.Previous != "one" || len(d.writes) != 3 {
			t.Errorf("rolled back to what is current: %+v; changed %q", got, d.writes)
		}
	})
}

func TestRollbackThatIsRefused(t *testing.T) {
	for row, of := range map[string]struct {
		to     string
		change func(*deployments, *State)
		says   string
	}{
		"to a build that is gone": {"one", func(_ *deployments, s *State) {
			if err := s.RemoveBuilds(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
		}, "build one is gone: it is not among the live builds (two)"},
		"to the build before, which is gone": {"", func(_ *deployments, s *State) {
			if err := s.RemoveBuilds(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
		}, "build one is gone"},
		"to a build that nobody polls as": {"one", func(d *deployments, _ *State) { d.builds["one"].kinds, d.builds["one"].bound = nil, kinds }, "after 1m0s: no worker of build one polls"},
		"to a build that was replaced just now": {"one", func(d *deployments, _ *State) {
			d.builds["one"].polls = []*taskqueuepb.PollerInfo{poller(name, "one", enumspb.WORKER_VERSIONING_MODE_VERSIONED, time.Now())}
		}, "after 1m0s: a worker of build one has polled task queue penstock-prod for workflow and activity tasks, and not again yet"},
		"to a build that nobody has ever seen": {"one", func(d *deployments, _ *State) { delete(d.builds, "one") }, "nothing has been changed; deploy it: deploy " + image("one")},
		"to a pool that is gone": {"one", func(d *deployments, _ *State) {
			d.builds["one"] = rested(t, "pool-one").is(isDrained, time.Now())
			d.builds["one"].trouble = "worker pool pool-one not found"
		}, "its pool pool-one is of no use to Temporal: worker pool pool-one not found"},
		"to a pool that has never come up": {"one", func(d *deployments, _ *State) {
			d.builds["one"] = rested(t, "pool-one").is(isInactive, time.Time{})
			d.builds["one"].bound = kinds[:1]
		}, "its worker has never polled for activity tasks"},
		"when no other has been current": {"", func(d *deployments, _ *State) { d.builds["one"].lastCurrent = time.Time{} }, "no other build than two has been current: name one with --to, of two, one"},
		"of a deployment nobody knows":   {"", func(d *deployments, _ *State) { d.exists = false }, "no worker deployment penstock-prod is known"},
		"to what is no build":            {"One", func(*deployments, *State) {}, `"One" is no build ID`},
		"when somebody else was faster": {"one", func(d *deployments, _ *State) {
			n := 0
			d.onDescribe = func(d *deployments) {
				if n++; n == 2 {
					d.current = "three"
					d.token++
				}
			}
		}, "meanwhile three became so"},
	} {
		t.Run(row, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				now := time.Now()
				d := newDeployments(map[string]*version{
					"one": polling(now).is(isDrained, now.Add(-2*time.Hour)), "two": polling(now).is(isCurrent, now.Add(-time.Hour)),
				})
				state := newState(t, "one", "two")
				of.change(d, state)
				if _, err := d.service().Rollback(t.Context(), back(state, of.to)); err == nil || !strings.Contains(err.Error(), of.says) {
					t.Errorf("rollback ends with %v, want %q", err, of.says)
				}
				if len(d.writes) > 0 || d.current == "one" {
					t.Errorf("changed %q", d.writes)
				}
			})
		})
	}
}

// A serverless build has its pool still: nobody need poll. What is pinned ends where it is.
func TestRollbackOfServerlessWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d := newDeployments(map[string]*version{
			"gone": rested(t, "pool-gone").is(isDraining, now.Add(-3*time.Hour)).has(1, 0),
			"one":  rested(t, "pool-one").is(isDraining, now.Add(-2*time.Hour)).has(2, 0),
			"two":  rested(t, "pool-two").is(isCurrent, now.Add(-time.Hour)).has(5, 3),
		})
		o := back(newState(t, "one", "two"), "")
		o.Progress = func(text string) { t.Errorf("it waits: %s", text) }
		got, err := d.service().Rollback(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if got.Scaling != ScalingServerless || got.Previous != "two" || got.Current != "one" || d.current != "one" {
			t.Errorf("rolled back: %+v", got)
		}
		if w := got.work("two"); w.Pinned != 5 || w.Moving != 3 || w.Status != "draining" ||
			w.Fate != "those pinned end on it: keep its pool until it is drained; the others move to one with their next task" {
			t.Errorf("of the build before: %+v", w)
		}
		if w := got.work("one"); w.Pinned != 2 || w.Status != "current" || w.Fate != "" {
			t.Errorf("of the build now: %+v", w)
		}
		if w := got.work("gone"); w.Pinned != 1 || !strings.Contains(w.Fate, "stand still, as the build is gone") {
			t.Errorf("of a build that is gone: %+v", w)
		}
	})
}

// The runs of a build from when the worker was serverless end on it, whatever fixed build is current.
func TestRollbackOfFixedWorkersBesideAServerlessPool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d := newDeployments(map[string]*version{
			"old": rested(t, "pool-old").is(isDraining, now.Add(-3*time.Hour)).has(2, 0),
			"one": polling(now).is(isDrained, now.Add(-2*time.Hour)).has(1, 0),
			"two": polling(now).is(isCurrent, now.Add(-time.Hour)).has(1, 0),
		})
		got, err := d.service().Rollback(t.Context(), back(newState(t, "old", "one", "two"), "one"))
		if err != nil {
			t.Fatal(err)
		}
		if w := got.work("old"); w.Fate != "those pinned end on it: keep its pool until it is drained" {
			t.Errorf("of the serverless build: %+v", w)
		}
		if w := got.work("two"); w.Fate != "those pinned stand still while no worker of the build runs" {
			t.Errorf("of the fixed build before: %+v", w)
		}
	})
}

// What cannot be counted does not keep anybody from going back.
func TestRollbackWithoutVisibility(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		d := newDeployments(map[string]*version{"one": polling(now).is(isDrained, now.Add(-2*time.Hour)), "two": polling(now).is(isCurrent, now.Add(-time.Hour))})
		d.fails["CountWorkflow"] = errors.New("visibility is away")
		got, err := d.service().Rollback(t.Context(), back(newState(t, "one", "two"), ""))
		if err != nil || d.current != "one" || !strings.Contains(got.work("two").Error, "visibility is away") {
			t.Errorf("rolled back: %+v, %v", got, err)
		}
	})
}

func TestBuildsThatArePruned(t *testing.T) {
	now := time.Now()
	ago := func(hours int) time.Time { return now.Add(-time.Duration(hours) * time.Hour) }
	start := func(t *testing.T) (*deployments, *State) {
		t.Helper()
		d := newDeployments(map[string]*version{
			"current":  rested(t, "p1").is(isCurrent, ago(1)),
			"before":   rested(t, "p2").is(isDrained, ago(2)),
			"draining": rested(t, "p3").is(isDraining, ago(3)).has(2, 0),
			"drained":  rested(t, "p4").is(isDrained, ago(4)),
			"by-hand":  rested(t, "p5").is(isDrained, ago(5)).has(1, 0),
			"new":      rested(t, "p6").is(isInactive, time.Time{}),
		})
		return d, newState(t, "unknown", "new", "by-hand", "drained", "draining", "before", "current")
	}
	for row, of := range map[string]struct {
		named   []string
		keep    int
		removed []string
		says    map[string]string
	}{
		"all": {nil, 1, []string{"drained"}, map[string]string{
			"current": "it is current", "before": "one can go back to it", "draining": "pinned to it", "by-hand": "1 open workflows are pinned to it",
			"new": "name it to remove it", "unknown": "name it to remove it",
		}},
		"all, none to go back to": {nil, 0, []string{"before", "drained"}, nil},
		"those that are named": {[]string{"before", "new", "unknown", "current", "draining"}, 1, []string{"before", "new", "unknown"}, map[string]string{
			"current": "it is current", "draining": "pinned to it",
		}},
	} {
		t.Run(row, func(t *testing.T) {
			for _, dry := range []bool{true, false} {
				d, state := start(t)
				pruned, err := d.service().PruneBuilds(t.Context(), PruneOptions{State: state, DeploymentName: name, Builds: of.named, Keep: of.keep, DryRun: dry})
				if err != nil {
					t.Fatal(err)
				}
				var removed []string
				for _, p := range pruned {
					if p.Removed {
						removed = append(removed, p.Build)
					}
					if want := of.says[p.Build]; !strings.Contains(p.Reason, want) || of.says != nil && !p.Removed && want == "" {
						t.Errorf("of %s it says %q, want %q", p.Build, p.Reason, want)
					}
				}
				slices.Sort(removed)
				if !slices.Equal(removed, of.removed) {
					t.Errorf("removed %q, want %q", removed, of.removed)
				}
				all, err := state.Builds(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				stay := 7
				if !dry {
					stay -= len(removed)
				}
				if len(all) != stay {
					t.Errorf("%d live builds after that, want %d (dry: %t)", len(all), stay, dry)
				}
				for _, id := range removed {
					if there := d.builds[id] != nil; there != dry && id != "unknown" {
						t.Errorf("Temporal knows %s: %t (dry: %t)", id, there, dry)
					}
				}
				if dry && len(d.writes) > 0 {
					t.Errorf("a dry run changed %q", d.writes)
				}
			}
		})
	}
	t.Run("but not one that Temporal does not let go", func(t *testing.T) {
		d, state := start(t)
		d.builds["drained"].polls = []*taskqueuepb.PollerInfo{{}}
		pruned, err := d.service().PruneBuilds(t.Context(), PruneOptions{State: state, DeploymentName: name, Builds: []string{"drained"}})
		if err != nil || len(pruned) != 1 || pruned[0].Removed || !strings.Contains(pruned[0].Reason, "active pollers") {
			t.Errorf("%+v, %v", pruned, err)
		}
		wantBuilds(t, state, "current", "before", "draining", "drained", "by-hand", "new", "unknown")
	})
	for says, o := range map[string]PruneOptions{
		"build nobody is not among the live builds": {Builds: []string{"nobody"}, DeploymentName: name},
		"nothing tells which builds are needed":     {DeploymentName: "other"},
	} {
		d, state := start(t)
		o.State = state
		if _, err := d.service().PruneBuilds(t.Context(), o); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("pruned: %v, want %q", err, says)
		}
	}
	t.Run("nor when it cannot be told", func(t *testing.T) {
		d, state := start(t)
		d.fails["CountWorkflow"] = serviceerror.NewUnavailable("visibility is away")
		if pruned, err := d.service().PruneBuilds(t.Context(), PruneOptions{State: state, DeploymentName: name, Keep: 1}); err == nil || len(d.writes) > 0 {
			t.Error(fmt.Sprint(pruned), err)
		}
	})
}
