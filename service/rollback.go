package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	deploymentpb "go.temporal.io/api/deployment/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
)

// RollbackOptions configure Rollback. State, DeploymentName and Timeout are needed.
type RollbackOptions struct {
	State          *State
	DeploymentName string // of Temporal's worker deployment
	// To is the build to go back to. Empty: the one that was current before.
	To string
	// Timeout is how long a fixed worker of that build may take to come up.
	Timeout time.Duration
	// Progress is told what is waited for.
	Progress func(string)
	// DeployCommand is what to run so that the workers are of a build, for people. Empty: none is known.
	DeployCommand func(Build) string
	By            string // who asks, for the record
}

// Rollback is what Rollback did.
type Rollback struct {
	Deployment     string  `json:"deployment"`
	DeploymentName string  `json:"deploymentName"`
	Scaling        Scaling `json:"scaling"`
	Previous       string  `json:"previous"` // the build that was current before
	Current        string  `json:"current"`  // the one that is now
	Image          string  `json:"image"`    // of Current
	Pool           string  `json:"pool,omitempty"`
	// Spread says that all task queues know Current. Tasks of one that does not, go to Previous or wait.
	Spread bool `json:"spread"`
	// Builds are those that open workflows are at, Current and Previous among them.
	Builds []BuildWork `json:"builds"`
}

// BuildWork is the work that a build had open when Rollback looked, just before the change.
type BuildWork struct {
	Build  string `json:"build"`
	Status string `json:"status"` // after the change: current, draining, drained, inactive or created
	// Pinned workflows end on the build: runs, and jobs of runs. Moving ones go on with the current one.
	Pinned int64 `json:"pinned"`
	Moving int64 `json:"moving"`
	// Fate says what becomes of them.
	Fate string `json:"fate,omitempty"`
	// Error is why they could not be counted.
	Error string `json:"error,omitempty"`
}

// Rollback makes a build current that was so before. It is refused for one that is gone, and for one that would not work: whose
// pool Temporal cannot use (serverless), or that no worker polls as, until it has been deployed again (fixed).
func (s *Service) Rollback(ctx context.Context, o RollbackOptions) (Rollback, error) {
	answer := Rollback{Deployment: s.deployment, DeploymentName: o.DeploymentName, Builds: []BuildWork{}}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.To != "" {
		if err := CheckBuild(o.To); err != nil {
			return answer, err
		}
	}
	v := s.versions(o.DeploymentName, o.By)
	d, err := v.describe(ctx)
	if err != nil {
		return answer, err
	}
	if d == nil {
		return answer, fmt.Errorf("no worker deployment %s is known to Temporal in namespace %s: give the name that the worker has (TEMPORAL_DEPLOYMENT_NAME)", o.DeploymentName, s.namespace)
	}
	live, err := o.State.Builds(ctx)
	if err != nil {
		return answer, err
	}
	answer.Previous = d.current()
	to := o.To
	if to == "" {
		if to = before(d); to == "" {
			return answer, fmt.Errorf("no other build than %s has been current: name one with --to, of %s", orNone(d.current()), ids(live))
		}
	}
	i := slices.IndexFunc(live, func(b Build) bool { return b.ID == to })
	if i < 0 {
		return answer, fmt.Errorf("build %s is gone: it is not among the live builds (%s), so its image may be as well; deploy it anew, as a build of another ID", to, ids(live))
	}
	target := live[i]
	answer.Image, answer.Pool = target.Image, target.Pool
	if answer.Scaling, err = v.usable(ctx, target, answer.Previous, o); err != nil {
		return answer, fmt.Errorf("go back to build %s: %w", to, err)
	}
	answer.Builds = v.work(ctx, d, live, to, answer.Scaling)
	if err := v.makeCurrent(ctx, to, answer.Previous); err != nil {
		return answer, err
	}
	answer.Current = to
	answer.Spread = v.told(ctx)
	if d, err := v.describe(ctx); err == nil && d != nil { // else the statuses from before stand, which only inform
		for i := range answer.Builds {
			answer.Builds[i].Status = statusOfBuild(d.summary(answer.Builds[i].Build))
		}
	}
	return answer, nil
}

func ids(live []Build) string {
	if len(live) == 0 {
		return "none"
	}
	names := make([]string, len(live))
	for i, b := range live {
		names[i] = b.ID
	}
	return strings.Join(names, ", ")
}

// formerly are the builds that were current once and are not now, the last first.
func formerly(d *workerDeployment) []string {
	var former []*deploymentpb.WorkerDeploymentInfo_WorkerDeploymentVersionSummary
	for _, version := range d.GetVersionSummaries() {
		if version.GetLastCurrentTime() != nil && version.GetDeploymentVersion().GetBuildId() != d.current() {
			former = append(former, version)
		}
	}
	slices.SortFunc(former, func(a, b *deploymentpb.WorkerDeploymentInfo_WorkerDeploymentVersionSummary) int {
		return b.GetLastCurrentTime().AsTime().Compare(a.GetLastCurrentTime().AsTime())
	})
	names := make([]string, len(former))
	for i, version := range former {
		names[i] = version.GetDeploymentVersion().GetBuildId()
	}
	return names
}

// before is the build that was current before the one that is.
func before(d *workerDeployment) string {
	if former := formerly(d); len(former) > 0 {
		return former[0]
	}
	return ""
}

// usable sees, or waits until, a build can do the work that being current brings.
func (v *versions) usable(ctx context.Context, target Build, current string, o RollbackOptions) (Scaling, error) {
	there, err := v.version(ctx, target.ID)
	if err != nil {
		return "", err
	}
	if config := there.GetWorkerDeploymentVersionInfo().GetComputeConfig(); config != nil {
		if missing := v.unbound(there); len(missing) > 0 {
			return ScalingServerless, fmt.Errorf("its worker has never polled for %s: Temporal would not wake it", kindsOf(missing))
		}
		if err := v.validateCompute(ctx, target.ID, config); err != nil {
			return ScalingServerless, fmt.Errorf("its pool %s is of no use to Temporal: %w", poolOf(config), err)
		}
		return ScalingServerless, nil
	}
	deploy := ""
	if o.DeployCommand != nil {
		deploy = "; deploy it: " + o.DeployCommand(target)
	}
	err = await(ctx, o.Timeout, func(missing string) { o.Progress(missing + deploy) }, v.missingPolls(target.ID, current == target.ID))
	var late *awaitError
	if errors.As(err, &late) {
		err = fmt.Errorf("%w; nothing has been changed%s", err, deploy)
	}
	return ScalingFixed, err
}

// work is what the builds have open, and what becomes of it when to is current.
func (v *versions) work(ctx context.Context, d *workerDeployment, live []Build, to string, scaling Scaling) []BuildWork {
	found := []BuildWork{}
	for _, version := range d.GetVersionSummaries() {
		w := BuildWork{Build: version.GetDeploymentVersion().GetBuildId(), Status: statusOfBuild(version)}
		var errs [2]error
		w.Pinned, errs[0] = v.open(ctx, w.Build, pinned)
		w.Moving, errs[1] = v.open(ctx, w.Build, autoUpgrade)
		if err := errors.Join(errs[:]...); err != nil {
			w.Error = err.Error()
		}
		if w.Pinned+w.Moving == 0 && w.Error == "" && w.Build != to && w.Build != d.current() {
			continue
		}
		scaling := scaling
		if w.Pinned > 0 && scaling == ScalingFixed {
			// A pool that Temporal resizes may stand beside a fixed one, from when the worker was serverless.
			if there, err := v.version(ctx, w.Build); err == nil && there.GetWorkerDeploymentVersionInfo().GetComputeConfig() != nil {
				scaling = ScalingServerless
			}
		}
		w.Fate = fate(w, slices.ContainsFunc(live, func(b Build) bool { return b.ID == w.Build }), to, scaling)
		found = append(found, w)
	}
	return found
}

// fate says what becomes of a build's open workflows once another is current.
func fate(w BuildWork, alive bool, to string, scaling Scaling) string {
	var parts []string
	switch {
	case w.Pinned == 0 || w.Build == to:
	case !alive:
		parts = append(parts, "those pinned stand still, as the build is gone: nobody can go on with them, nor reset them; deploy it again, or terminate them")
	case scaling == ScalingServerless:
		parts = append(parts, "those pinned end on it: keep its pool until it is drained")
	default:
		parts = append(parts, "those pinned stand still while no worker of the build runs")
	}
	if w.Moving > 0 && w.Build != to {
		parts = append(parts, "the others move to "+to+" with their next task")
	}
	return strings.Join(parts, "; ")
}

// statusOfBuild is Temporal's word for what a build is for.
func statusOfBuild(version *deploymentpb.WorkerDeploymentInfo_WorkerDeploymentVersionSummary) string {
	if version == nil {
		return "unknown"
	}
	return strings.ToLower(version.GetStatus().String())
}

// Pruned is what PruneBuilds made of a build.
type Pruned struct {
	Build   string `json:"build"`
	Removed bool   `json:"removed"`
	Status  string `json:"status"` // unknown: Temporal does not know the build
	Reason  string `json:"reason"`
}

// PruneOptions configure PruneBuilds. State and DeploymentName are needed.
type PruneOptions struct {
	State          *State
	DeploymentName string
	// Builds are those to look at; none: all. One that has never been current goes only if it is named.
	Builds []string
	// Keep is how many of the builds that were current before stay, though drained, so that one can go back to them.
	Keep int
	// DryRun changes nothing.
	DryRun bool
	By     string
}

// PruneBuilds takes the builds off the map whose versions are drained: no run needs them any more. What deploys by the map may
// then delete their pools.
func (s *Service) PruneBuilds(ctx context.Context, o PruneOptions) ([]Pruned, error) {
	v := s.versions(o.DeploymentName, o.By)
	live, err := o.State.Builds(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range o.Builds {
		if !slices.ContainsFunc(live, func(b Build) bool { return b.ID == id }) {
			return nil, fmt.Errorf("build %s is not among the live builds: %s", id, ids(live))
		}
	}
	d, err := v.describe(ctx)
	if err != nil {
		return nil, err
	}
	if d == nil {
		return nil, fmt.Errorf("no worker deployment %s is known to Temporal in namespace %s, so nothing tells which builds are needed: give the name that the worker has (TEMPORAL_DEPLOYMENT_NAME)", o.DeploymentName, s.namespace)
	}
	kept := formerly(d)
	kept = kept[:min(max(o.Keep, 0), len(kept))]
	pruned := []Pruned{}
	for _, b := range live {
		named := slices.Contains(o.Builds, b.ID)
		if len(o.Builds) > 0 && !named {
			continue
		}
		p := Pruned{Build: b.ID, Status: statusOfBuild(d.summary(b.ID))}
		if p.Reason, err = v.needed(ctx, d, b.ID, named, slices.Contains(kept, b.ID)); err != nil {
			return pruned, err
		}
		if p.Removed = p.Reason == ""; p.Removed {
			p.Reason = "no run needs it"
			if !o.DryRun {
				if err := v.remove(ctx, o.State, b.ID, &p); err != nil {
					return append(pruned, p), err
				}
			}
		}
		pruned = append(pruned, p)
	}
	return pruned, nil
}

// needed says why a build has to stay; empty: it need not.
func (v *versions) needed(ctx context.Context, d *workerDeployment, build string, named, kept bool) (string, error) {
	summary := d.summary(build)
	switch status := summary.GetStatus(); {
	case build == d.current() || status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT:
		return "it is current", nil
	case build == d.GetRoutingConfig().GetRampingDeploymentVersion().GetBuildId() || status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_RAMPING:
		return "it gets a part of the new runs", nil
	case kept && !named:
		return "it was current before: one can go back to it", nil
	case status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED:
	case status == enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING:
		return "runs are pinned to it, or were a few minutes ago", nil
	case !named:
		return "it has not been current, so it may be about to be: name it to remove it", nil
	case status != enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE && status != enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CREATED && summary != nil:
		return "its status " + statusOfBuild(summary) + " is not known to be drained", nil
	}
	// Drained is not looked at again, also when somebody pins a run to the build by hand.
	n, err := v.open(ctx, build, pinned)
	if err != nil {
		return "", err
	}
	if n > 0 {
		return fmt.Sprintf("%d open workflows are pinned to it", n), nil
	}
	return "", nil
}

// remove takes a build off. A version with a pool goes first: Temporal, which looks once more whether it is needed, would go on
// looking after a pool that is about to be deleted.
func (v *versions) remove(ctx context.Context, state *State, build string, p *Pruned) error {
	there, err := v.version(ctx, build)
	if err != nil {
		p.Removed = false
		return err
	}
	if there.GetWorkerDeploymentVersionInfo().GetComputeConfig() != nil {
		callCtx, cancel := call(ctx)
		_, err := v.api.DeleteWorkerDeploymentVersion(callCtx, &workflowservice.DeleteWorkerDeploymentVersionRequest{Namespace: v.s.namespace, DeploymentVersion: v.id(build), Identity: v.identity})
		cancel()
		var needed *serviceerror.FailedPrecondition
		if errors.As(err, &needed) {
			p.Removed, p.Reason = false, "Temporal still needs it: "+err.Error()
			return nil
		}
		if err != nil && !notFound(err) {
			p.Removed = false
			return fmt.Errorf("delete the version of build %s: %w", build, err)
		}
	}
	if err := state.RemoveBuilds(ctx, build); err != nil {
		p.Removed = false
		return err
	}
	return nil
}
