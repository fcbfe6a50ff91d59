package service

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"time"

	"github.com/penstock/penstock/ledger"
	"github.com/penstock/penstock/runs"
)

// State is what is to be remembered of a deployment between two changes of it: where it lives, and which builds of its worker are
// alive. It lies in a bucket or folder that people and CI share:
//
//	<deployment>/deployment.json  its home: project and namespace; written once
//	<deployment>/builds.json      its live builds
//
// Deployments of one project should share the place, as that is how two that take the same ID come to know of each other.
// Use OpenState.
type State struct {
	objects    *ledger.Objects
	deployment string
	pause      time.Duration // at most, before a lost race is run again
}

// Home is where a deployment lives. Its ID stands in the names of runs and jobs, so it may not live twice in a project.
type Home struct {
	Version     int       `json:"version"`
	Deployment  string    `json:"deployment"`
	Project     string    `json:"project"`
	Namespace   string    `json:"namespace"`
	NamespaceID string    `json:"namespaceId"` // which tells a namespace from a later one of its name
	Created     time.Time `json:"created"`
	By          string    `json:"by,omitempty"` // who wrote it
}

// Build is a build of the worker that is alive: deployed, or kept so that one can go back to it.
type Build struct {
	// ID is the build ID that the worker tells Temporal (TEMPORAL_WORKER_BUILD_ID).
	ID string `json:"build,omitempty"`
	// Image is its container image, by digest.
	Image string `json:"image"`
	// Pool is the worker pool that is its own; empty: it shares one, or it follows from the ID.
	Pool    string    `json:"pool,omitempty"`
	Created time.Time `json:"created"` // when it was added here
	By      string    `json:"by,omitempty"`
}

// builds is builds.json.
type builds struct {
	Version int              `json:"version"`
	Builds  map[string]Build `json:"builds"`
}

const (
	stateVersion = 1
	// stateRounds is how often a write that lost a race is made again, on what the winner wrote.
	stateRounds = 20
	statePause  = 200 * time.Millisecond
)

// The forms that terraform/variables.tf wants: worker pools are named after builds, and what was tested is what runs.
var (
	buildRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,14}[a-z0-9])?$`)
	imageRE = regexp.MustCompile(`^[^@\s]+/[^@\s]+@sha256:[0-9a-f]{64}$`)
)

// CheckBuild says what is wrong with a build ID.
func CheckBuild(id string) error {
	if !buildRE.MatchString(id) {
		return fmt.Errorf("%q is no build ID: at most 16 lower-case letters, digits and dashes, since worker pools are named after it; try the first 12 digits of the image's digest", id)
	}
	return nil
}

// OpenState opens a deployment's state at place: gs://BUCKET or gs://BUCKET/PREFIX, else a local folder. It calls no API; getenv is
// asked for STORAGE_EMULATOR_HOST. Close it.
func OpenState(ctx context.Context, place, deployment string, getenv func(string) string) (*State, error) {
	if err := runs.CheckDeployment(deployment); err != nil {
		return nil, err
	}
	objects, err := ledger.OpenObjects(ctx, place, getenv)
	if err != nil {
		return nil, fmt.Errorf("the deployment's state: %w", err)
	}
	return &State{objects: objects, deployment: deployment, pause: statePause}, nil
}

// Close frees what OpenState took.
func (s *State) Close() error { return s.objects.Close() }

// Settle makes home the deployment's home, and says whether it was before. Another home is an error that names both.
func (s *State) Settle(ctx context.Context, home Home) (before bool, err error) {
	home.Version, home.Deployment = stateVersion, s.deployment
	data, err := marshalState(home)
	if err != nil {
		return false, err
	}
	err = s.objects.Write(ctx, s.homeName(), data, 0)
	if err == nil {
		return false, nil
	}
	if !errors.Is(err, ledger.ErrChanged) {
		return false, fmt.Errorf("write where deployment %s lives: %w", s.deployment, err)
	}
	there, err := s.readHome(ctx)
	if err != nil {
		return false, err
	}
	return true, s.same(there, home)
}

// Lives says whether the deployment has a home, and that it is the project and the namespace of that name, without asking Temporal: for
// whoever is about to point a deployment there. Another home is an error that names both.
func (s *State) Lives(ctx context.Context, project, namespace string) (bool, error) {
	there, err := s.readHome(ctx)
	if errors.Is(err, ledger.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.same(there, Home{Project: project, Namespace: namespace})
}

func (s *State) homeName() string { return s.deployment + "/deployment.json" }

func (s *State) readHome(ctx context.Context) (Home, error) {
	var there Home
	data, _, err := s.objects.Read(ctx, s.homeName())
	if err != nil {
		return there, fmt.Errorf("read where deployment %s lives: %w", s.deployment, err)
	}
	if err := unmarshalState(data, &there, &there.Version); err != nil {
		return there, fmt.Errorf("read where deployment %s lives: %s: %w", s.deployment, s.objects.URL(s.homeName()), err)
	}
	return there, nil
}

// same is an error where home is not there. Without an ID, home's namespace goes by its name alone.
func (s *State) same(there, home Home) error {
	if there.Project == home.Project && there.Namespace == home.Namespace && (home.NamespaceID == "" || there.NamespaceID == home.NamespaceID) {
		return nil
	}
	return fmt.Errorf("deployment %s lives in %s since %s, not in %s: two that share an ID and a project would take each other's jobs for their own or for a stranger's; "+
		"give the new one another ID, or delete %s if the other is gone for good",
		s.deployment, there.place(), there.Created.UTC().Format(time.RFC3339), home.place(), s.objects.URL(s.homeName()))
}

func (h Home) place() string {
	if h.NamespaceID == "" {
		return fmt.Sprintf("project %s, namespace %s", h.Project, h.Namespace)
	}
	return fmt.Sprintf("project %s, namespace %s (%s)", h.Project, h.Namespace, h.NamespaceID)
}

// Builds are the live builds, the newest first.
func (s *State) Builds(ctx context.Context) ([]Build, error) {
	b, _, err := s.readBuilds(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Build, 0, len(b.Builds))
	for id, build := range b.Builds {
		build.ID = id
		all = append(all, build)
	}
	slices.SortFunc(all, func(a, b Build) int { return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(a.ID, b.ID)) })
	return all, nil
}

// Build looks for a live build; false: there is none of that ID.
func (s *State) Build(ctx context.Context, id string) (Build, bool, error) {
	b, _, err := s.readBuilds(ctx)
	if err != nil {
		return Build{}, false, err
	}
	build, ok := b.Builds[id]
	build.ID = id
	return build, ok, nil
}

// AddBuild adds a live build, and says whether it was there before. A build that is there with another image or pool is an
// error: runs that are pinned to it would be replayed by other code.
func (s *State) AddBuild(ctx context.Context, build Build) (before bool, err error) {
	if err := CheckBuild(build.ID); err != nil {
		return false, err
	}
	if !imageRE.MatchString(build.Image) {
		return false, fmt.Errorf("the image %q is not named by digest (REGISTRY/REPOSITORY@sha256:…), so what runs could differ from what was tested: scripts/build-image prints that name", build.Image)
	}
	err = s.update(ctx, func(all map[string]Build) (bool, error) {
		there, ok := all[build.ID]
		if before = ok; !ok {
			entry := build
			entry.ID = "" // it is the key
			all[build.ID] = entry
			return true, nil
		}
		if there.Image != build.Image || there.Pool != build.Pool {
			return false, fmt.Errorf("build %s is alive with image %s and pool %q, not %s and %q: runs may be pinned to it, so give other code another build ID",
				build.ID, there.Image, there.Pool, build.Image, build.Pool)
		}
		return false, nil
	})
	return before, err
}

// RemoveBuilds takes builds off the map, whatever Temporal says of them: see Service.PruneBuilds.
func (s *State) RemoveBuilds(ctx context.Context, ids ...string) error {
	return s.update(ctx, func(all map[string]Build) (bool, error) {
		before := len(all)
		for _, id := range ids {
			delete(all, id)
		}
		return len(all) < before, nil
	})
}

// update changes builds.json. change says whether it changed anything; it may be called again, on what somebody else wrote.
func (s *State) update(ctx context.Context, change func(map[string]Build) (bool, error)) error {
	for range stateRounds {
		b, generation, err := s.readBuilds(ctx)
		if err != nil {
			return err
		}
		changed, err := change(b.Builds)
		if err != nil || !changed {
			return err
		}
		data, err := marshalState(b)
		if err != nil {
			return err
		}
		err = s.objects.Write(ctx, s.buildsName(), data, generation)
		if err == nil {
			return nil
		}
		if !errors.Is(err, ledger.ErrChanged) {
			return fmt.Errorf("write the live builds of deployment %s: %w", s.deployment, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(rand.N(s.pause)): // so that those who lost together do not meet again
		}
	}
	return fmt.Errorf("write the live builds of deployment %s: others changed them %d times meanwhile; try again", s.deployment, stateRounds)
}

func (s *State) buildsName() string { return s.deployment + "/builds.json" }

func (s *State) readBuilds(ctx context.Context) (builds, int64, error) {
	var b builds
	data, generation, err := s.objects.Read(ctx, s.buildsName())
	switch {
	case errors.Is(err, ledger.ErrNotFound):
	case err != nil:
		return b, 0, fmt.Errorf("read the live builds of deployment %s: %w", s.deployment, err)
	default:
		if err := unmarshalState(data, &b, &b.Version); err != nil {
			return b, 0, fmt.Errorf("read the live builds of deployment %s: %s: %w", s.deployment, s.objects.URL(s.buildsName()), err)
		}
	}
	if b.Version = stateVersion; b.Builds == nil {
		b.Builds = map[string]Build{}
	}
	return b, generation, nil
}

func marshalState(v any) ([]byte, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the deployment's state: %w", err)
	}
	return append(data, '\n'), nil
}

// unmarshalState reads only what it knows all of: what is written again would lose the rest.
func unmarshalState(data []byte, into any, version *int) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	err := d.Decode(into)
	if *version > stateVersion {
		return fmt.Errorf("it is of version %d, and this penstock knows %d: use a newer one", *version, stateVersion)
	}
	if err != nil {
		return fmt.Errorf("it is not as penstock writes it: %w", err)
	}
	if *version != stateVersion {
		return fmt.Errorf("it is of version %d, which there is not", *version)
	}
	return nil
}
