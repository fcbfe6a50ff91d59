package service

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
)

const (
	isCurrent  = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_CURRENT
	isDraining = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINING
	isDrained  = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_DRAINED
	isInactive = enumspb.WORKER_DEPLOYMENT_VERSION_STATUS_INACTIVE
)

func fixed(s *State, build string) SetupOptions {
	return SetupOptions{State: s, Project: "acme", Scaling: ScalingFixed, DeploymentName: name, Build: build, Timeout: 10 * time.Minute, By: "me"}
}

func onDemand(s *State, build string) SetupOptions {
	o := fixed(s, build)
	o.Scaling = ScalingServerless
	o.Compute = Compute{Project: "acme", Region: "europe-west1", Pool: "pool-" + build, Invoker: "invoker@acme.iam.gserviceaccount.com", Max: 10}
	return o
}

// A fixed build is made current as soon as it polls, and not before; setup again finds all done.
func TestSetupOfFixedWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := newState(t, "one", "two")
		d := newDeployments(map[string]*version{"one": polling(time.Now()).is(isCurrent, time.Now()), "two": polling(time.Now().Add(time.Minute))})
		o := fixed(state, "two")
		var said []string
		o.Progress = func(text string) {
			said = append(said, text)
			if d.current != "one" {
				t.Errorf("%s is current while setup waits: %s", d.current, text)
			}
		}
		began := time.Now()
		got, err := d.service().Setup(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if want := "home: done, search attributes: found, build: found, worker: found, current: done"; results(got.Steps) != want {
			t.Errorf("did %s\nwant %s", results(got.Steps), want)
		}
		if d.current != "two" || got.Previous != "one" || got.Current != "two" || d.modifier != "me" {
			t.Errorf("current is %s by %s; %+v", d.current, d.modifier, got)
		}
		if took := time.Since(began); took < time.Minute || took > time.Minute+2*versionsEvery {
			t.Errorf("it took %s, and the worker polls after a minute", took)
		}
		if len(said) == 0 || len(said) > 4 || !strings.Contains(said[0], "no worker of build two has ever polled") {
			t.Errorf("said %q", said)
		}

		got, err = d.service().Setup(t.Context(), o)
		if want := "home: found, search attributes: found, build: found, worker: found, current: found"; err != nil || results(got.Steps) != want {
			t.Errorf("again: %s, %v\nwant %s", results(got.Steps), err, want)
		}
		if len(d.writes) != 1 {
			t.Errorf("changed %q, want the current version alone", d.writes)
		}
	})
}

func TestNoBuildIsMadeCurrentThatDoesNotPoll(t *testing.T) {
	versioned := enumspb.WORKER_VERSIONING_MODE_VERSIONED
	polls := func(p *taskqueuepb.PollerInfo) *version {
		v := polling(time.Now())
		v.polls = []*taskqueuepb.PollerInfo{p}
		return v
	}
	for row, of := range map[string]struct {
		build func() *version
		says  string
	}{
		"it was never seen":        {func() *version { return nil }, "no worker of build two has ever polled"},
		"it was killed":            {func() *version { return polls(poller(name, "two", versioned, time.Now().Add(-2*time.Minute))) }, "no worker of build two polls"},
		"it was replaced just now": {func() *version { return polls(poller(name, "two", versioned, time.Now().Add(-5*time.Second))) }, "no worker of build two polls"},
		"another build polls":      {func() *version { return polls(poller(name, "three", versioned, time.Now())) }, "no worker of build two polls"},
		"another deployment polls": {func() *version { return polls(poller("other", "two", versioned, time.Now())) }, "no worker of build two polls"},
		"it polls without its version": {func() *version {
			return polls(poller(name, "two", enumspb.WORKER_VERSIONING_MODE_UNVERSIONED, time.Now()))
		}, "no worker of build two polls"},
		"it polls for half of the tasks": {func() *version {
			v := polling(time.Now())
			v.kinds = kinds[:1]
			return v
		}, "for activity tasks"},
		"Temporal resizes it": {func() *version { return rested(t, "pool") }, "so it is not fixed"},
	} {
		t.Run(row, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployments(map[string]*version{"one": polling(time.Now()).is(isCurrent, time.Now())})
				if v := of.build(); v != nil {
					d.builds["two"] = v
				}
				got, err := d.service().Setup(t.Context(), fixed(newState(t, "one", "two"), "two"))
				if err == nil || !strings.Contains(err.Error(), of.says) {
					t.Errorf("setup ends with %v, want %q", err, of.says)
				}
				if d.current != "one" || len(d.writes) > 0 {
					t.Errorf("%s is current; changed %q", d.current, d.writes)
				}
				if last := got.Steps[len(got.Steps)-1]; last.Name != "worker" || last.Result != StepFailed {
					t.Errorf("the last step is %+v", last)
				}
			})
		})
	}
}

// A serverless build is registered with its pool, which Temporal raises; it is made current once it has bound its queues.
func TestSetupOfServerlessWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := newState(t, "one")
		d := newDeployments(nil)
		d.comeUp = 40 * time.Second
		o := onDemand(state, "one")
		o.Progress = func(text string) {
			if d.current != "" || !strings.Contains(text, "has not come up") {
				t.Errorf("%q is current while setup waits: %s", d.current, text)
			}
		}
		got, err := d.service().Setup(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if want := "home: done, search attributes: found, build: found, worker deployment: done, version: done, worker: found, current: done"; results(got.Steps) != want {
			t.Errorf("did %s\nwant %s", results(got.Steps), want)
		}
		if want := []string{"create deployment", "create version one", "make one current"}; !slices.Equal(d.writes, want) {
			t.Errorf("changed %q, want %q", d.writes, want)
		}
		group := d.builds["one"].compute.ScalingGroups["default"]
		if group.Provider.Type != "gcp-cloud-run" || group.Scaler.Type != "rate-based" || len(group.TaskQueueTypes) > 0 ||
			string(group.Provider.Details.Data) != `{"project":"acme","region":"europe-west1","service_account":"invoker@acme.iam.gserviceaccount.com","worker_pool":"pool-one"}` ||
			string(group.Scaler.Details.Data) != `{"max_count":10,"min_count":0}` || string(group.Provider.Details.Metadata["encoding"]) != "json/plain" {
			t.Errorf("registered %v", group)
		}

		got, err = d.service().Setup(t.Context(), o)
		if want := "home: found, search attributes: found, build: found, worker deployment: found, version: found, worker: found, current: found"; err != nil || results(got.Steps) != want || len(d.writes) != 3 {
			t.Errorf("again: %s, %v, %q\nwant %s", results(got.Steps), err, d.writes, want)
		}

		o.Compute.Max = 20
		if _, err = d.service().Setup(t.Context(), o); err != nil || string(d.builds["one"].compute.ScalingGroups["default"].Scaler.Details.Data) != `{"max_count":20,"min_count":0}` {
			t.Errorf("with another size: %v, %v", err, d.builds["one"].compute)
		}
		o.Compute.Pool = "other"
		if _, err = d.service().Setup(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is registered with the pool pool-one, not other") || poolOf(d.builds["one"].compute) != "pool-one" {
			t.Errorf("with another pool: %v", err)
		}
	})
}

func TestServerlessWorkersThatCannotBeSetUp(t *testing.T) {
	for row, of := range map[string]struct {
		change func(*deployments, *SetupOptions)
		says   string
	}{
		"the server does not scale": {func(d *deployments, _ *SetupOptions) {
			d.fails["CreateWorkerDeployment"] = serviceerror.NewUnimplemented("unknown method")
		}, "workercontroller.enabled"},
		"Temporal may not resize the pool": {func(d *deployments, _ *SetupOptions) {
			d.fails["CreateWorkerDeploymentVersion"] = serviceerror.NewInvalidArgument("permission run.workerPools.update denied")
		}, "denied; see that the pool exists, that the invoker may get and update it"},
		"the worker does not come up": {func(d *deployments, _ *SetupOptions) { d.comeUp = 0 }, "after 10m0s: the worker of build one has not come up"},
		"Temporal has lost the pool": {func(d *deployments, _ *SetupOptions) {
			d.exists, d.builds["one"] = true, rested(t, "pool-one")
			d.builds["one"].bound, d.builds["one"].trouble = nil, "pool-one not found"
		}, "Temporal cannot use its pool: pool-one not found"},
		"its pool is another's among the live builds": {func(_ *deployments, o *SetupOptions) {
			if err := o.State.RemoveBuilds(t.Context(), "one"); err != nil {
				t.Fatal(err)
			}
			if _, err := o.State.AddBuild(t.Context(), Build{ID: "one", Image: image("one"), Pool: "pool-two"}); err != nil {
				t.Fatal(err)
			}
		}, "build one has the pool pool-two among the live builds, not pool-one"},
	} {
		t.Run(row, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployments(nil)
				d.comeUp = time.Second
				o := onDemand(newState(t, "one"), "one")
				of.change(d, &o)
				if _, err := d.service().Setup(t.Context(), o); err == nil || !strings.Contains(err.Error(), of.says) {
					t.Errorf("setup ends with %v, want %q", err, of.says)
				}
				if d.current != "" {
					t.Errorf("%s is current", d.current)
				}
			})
		})
	}
}

func TestSearchAttributesThatAreToBeRegistered(t *testing.T) {
	denied := serviceerror.NewPermissionDenied("Request unauthorized.", "")
	for row, of := range map[string]struct {
		change func(*deployments)
		want   StepResult // empty: setup fails
		says   []string
		adds   int
	}{
		"all are there":  {func(*deployments) {}, StepFound, []string{"all are registered"}, 0},
		"one is missing": {func(d *deployments) { delete(d.attributes, "PenstockStep") }, StepDone, []string{"registered PenstockStep"}, 1},
		"Temporal Cloud": {func(d *deployments) { d.listing, d.adding = denied, denied }, StepRefused, []string{
			"runs go on without", `tcld namespace search-attributes add --namespace default --sa "PenstockPipeline=Keyword"`, "temporal operator search-attribute create --namespace default --name PenstockPipeline --type Keyword",
		}, 0},
		"one has another type": {func(d *deployments) { d.attributes["PenstockKey"] = enumspb.INDEXED_VALUE_TYPE_TEXT }, StepRefused, []string{"has PenstockKey with another type than Keyword"}, 0},
		"Temporal is away":     {func(d *deployments) { d.listing = serviceerror.NewUnavailable("no") }, "", []string{"search attributes: list those of namespace default"}, 0},
		"it goes away":         {func(d *deployments) { d.attributes, d.adding = nil, serviceerror.NewUnavailable("no") }, "", []string{"register PenstockPipeline"}, 0},
	} {
		t.Run(row, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newDeployments(map[string]*version{"one": polling(time.Now())})
				of.change(d)
				got, err := d.service().Setup(t.Context(), fixed(newState(t, "one"), "one"))
				if len(got.Steps) < 2 {
					t.Fatal(got.Steps, err)
				}
				step := got.Steps[1]
				text := step.Detail + " " + step.Do
				if of.want == "" {
					if err == nil || step.Result != StepFailed || d.current != "" {
						t.Fatalf("%+v, %v; current %q", step, err, d.current)
					}
					text = err.Error()
				} else if err != nil || step.Result != of.want || d.current != "one" {
					t.Errorf("%+v, %v; current %q; want %s, and that setup goes on", step, err, d.current, of.want)
				}
				for _, want := range of.says {
					if !strings.Contains(text, want) {
						t.Errorf("says %s, want %q", text, want)
					}
				}
				if adds := len(d.writes) - len(slices.DeleteFunc(slices.Clone(d.writes), func(w string) bool { return strings.HasPrefix(w, "add") })); adds != of.adds {
					t.Errorf("changed %q", d.writes)
				}
			})
		})
	}
}

// Who takes the ID of a deployment in the project is told, before anything is changed.
func TestSetupOfAnIDThatLivesElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		state := newState(t, "one")
		if _, err := newDeployments(map[string]*version{"one": polling(time.Now())}).service().Setup(t.Context(), fixed(state, "one")); err != nil {
			t.Fatal(err)
		}
		other := newDeployments(nil)
		other.id, other.attributes = "uuid-2", nil
		_, err := other.service().Setup(t.Context(), onDemand(state, "one"))
		if err == nil || !strings.Contains(err.Error(), "(uuid-1)") || !strings.Contains(err.Error(), "(uuid-2)") {
			t.Errorf("setup ends with %v", err)
		}
		if len(other.writes) > 0 {
			t.Errorf("changed %q", other.writes)
		}
	})
}

func TestSetupOfABuildThatNobodyKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployments(map[string]*version{"one": polling(time.Now())})
		if _, err := d.service().Setup(t.Context(), fixed(newState(t), "one")); err == nil || !strings.Contains(err.Error(), "penstock builds add one") {
			t.Errorf("setup ends with %v", err)
		}
		if d.current != "" {
			t.Errorf("%s is current", d.current)
		}
	})
}

// Two who deploy at once do not undo each other unseen.
func TestSetupBesideOthers(t *testing.T) {
	start := func(t *testing.T) *deployments {
		t.Helper()
		return newDeployments(map[string]*version{"one": polling(time.Now()).is(isCurrent, time.Now()), "two": polling(time.Now()), "three": polling(time.Now())})
	}
	t.Run("who make another build current", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d, n := start(t), 0
			d.onDescribe = func(d *deployments) {
				if n++; n == 3 { // between the look at what is current and the change
					d.current, d.modifier = "three", "CI"
					d.token++
				}
			}
			_, err := d.service().Setup(t.Context(), fixed(newState(t, "two"), "two"))
			if err == nil || !strings.Contains(err.Error(), "meanwhile three became so, by CI") || d.current != "three" {
				t.Errorf("setup ends with %v; current %s", err, d.current)
			}
		})
	})
	t.Run("who change something else", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d, n := start(t), 0
			d.fails["SetWorkerDeploymentCurrentVersion"] = serviceerror.NewFailedPrecondition("conflict token mismatch")
			d.onDescribe = func(d *deployments) {
				if n++; n >= 4 {
					delete(d.fails, "SetWorkerDeploymentCurrentVersion")
				}
				d.token++
			}
			if _, err := d.service().Setup(t.Context(), fixed(newState(t, "two"), "two")); err != nil || d.current != "two" {
				t.Errorf("setup ends with %v; current %s", err, d.current)
			}
		})
	})
	t.Run("or of a deployment that is managed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			d := start(t)
			d.fails["SetWorkerDeploymentCurrentVersion"] = serviceerror.NewFailedPrecondition("ManagerIdentity 'x' is set")
			if _, err := d.service().Setup(t.Context(), fixed(newState(t, "two"), "two")); err == nil || !strings.Contains(err.Error(), "ManagerIdentity 'x' is set") {
				t.Errorf("setup ends with %v", err)
			}
		})
	})
}

// An outage while setup waits is waited out; a wrong key is not.
func TestTroubleWhileSetupWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDeployments(map[string]*version{"one": polling(time.Now())})
		d.fails["DescribeWorkerDeploymentVersion"] = serviceerror.NewUnavailable("shutting down")
		time.AfterFunc(time.Minute, func() { delete(d.fails, "DescribeWorkerDeploymentVersion") })
		o := fixed(newState(t, "one"), "one")
		if _, err := d.service().Setup(t.Context(), o); err != nil || d.current != "one" {
			t.Errorf("after an outage: %v, current %q", err, d.current)
		}
		d.fails["DescribeWorkerDeploymentVersion"] = serviceerror.NewPermissionDenied("no", "")
		began := time.Now()
		var denied *serviceerror.PermissionDenied
		if _, err := d.service().Setup(t.Context(), o); !errors.As(err, &denied) || time.Since(began) > 0 {
			t.Errorf("with a wrong key: %v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithCancel(t.Context())
		d.fails["DescribeWorkerDeploymentVersion"] = serviceerror.NewUnavailable("shutting down")
		time.AfterFunc(5*time.Second, cancel)
		if _, err := d.service().Setup(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
	})
}

func TestSetupThatMakesNoSense(t *testing.T) {
	for want, change := range map[string]func(*SetupOptions){
		`"" is no build ID`:              func(o *SetupOptions) { o.Build = "" },
		"no project is given":            func(o *SetupOptions) { o.Project = "" },
		`scaling is "elastic"`:           func(o *SetupOptions) { o.Scaling = "elastic" },
		"the timeout is 0s":              func(o *SetupOptions) { o.Timeout = 0 },
		"the pool's region and invoker":  func(o *SetupOptions) { o.Compute.Region, o.Compute.Invoker = "", "" },
		"cannot have 3 to 2 instances":   func(o *SetupOptions) { o.Compute.Min, o.Compute.Max = 3, 2 },
		"no state is given":              func(o *SetupOptions) { o.State = nil },
		"no name of a worker deployment": func(o *SetupOptions) { o.DeploymentName = "" },
	} {
		o := onDemand(newState(t, "one"), "one")
		change(&o)
		d := newDeployments(nil)
		if _, err := d.service().Setup(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) || len(d.writes) > 0 {
			t.Errorf("setup ends with %v, want %q; changed %q", err, want, d.writes)
		}
	}
}
