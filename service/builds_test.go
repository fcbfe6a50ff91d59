package service

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestLiveBuilds(t *testing.T) {
	s := newState(t, "one", "two")
	before, err := s.AddBuild(t.Context(), Build{ID: "two", Image: image("two"), Created: time.Now(), By: "somebody else"})
	if err != nil || !before {
		t.Errorf("added again: %t, %v, want that it was there", before, err)
	}
	for want, b := range map[string]Build{
		"is alive with image":        {ID: "two", Image: image("other")},
		`and pool "", not`:           {ID: "two", Image: image("two"), Pool: "p"},
		"is not named by digest":     {ID: "three", Image: "registry.example/worker:latest"},
		`"Three" is no build ID`:     {ID: "Three", Image: image("three")},
		`"` + long + `" is no build`: {ID: long, Image: image("three")},
	} {
		if _, err := s.AddBuild(t.Context(), b); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("AddBuild(%+v) = %v, want %q in it", b, err, want)
		}
	}
	wantBuilds(t, s, "two", "one")
	if b, ok, err := s.Build(t.Context(), "one"); err != nil || !ok || b.ID != "one" || b.Image != image("one") {
		t.Errorf("Build(one) = %+v, %t, %v", b, ok, err)
	}
	if _, ok, err := s.Build(t.Context(), "three"); err != nil || ok {
		t.Errorf("Build(three) = %t, %v, want none", ok, err)
	}
	if err := s.RemoveBuilds(t.Context(), "one", "never there"); err != nil {
		t.Error(err)
	}
	wantBuilds(t, s, "two")
}

const long = "a-build-of-17-chr"

func wantBuilds(t *testing.T, s *State, want ...string) {
	t.Helper()
	all, err := s.Builds(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range all {
		got = append(got, b.ID)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("live builds %v, want %v", got, want)
	}
}

// Two deployments at once lose neither's build.
func TestBuildsThatAreAddedAtOnce(t *testing.T) {
	place := t.TempDir()
	var wg sync.WaitGroup
	const adders = 2
	const each = 6
	for a := range adders {
		wg.Go(func() {
			s, err := OpenState(t.Context(), place, "prod", func(string) string { return "" })
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = s.Close() }()
			for i := range each {
				id := fmt.Sprintf("build-%d-%d", a, i)
				if before, err := s.AddBuild(t.Context(), Build{ID: id, Image: image(id)}); err != nil || before {
					t.Errorf("add %s: %t, %v", id, before, err)
				}
			}
		})
	}
	wg.Wait()
	s, err := OpenState(t.Context(), place, "prod", func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	all, err := s.Builds(t.Context())
	if err != nil || len(all) != adders*each {
		t.Errorf("%d builds of %d, %v", len(all), adders*each, err)
	}
}

// What a newer penstock wrote is not cut down to what this one knows.
func TestStateOfAnotherVersion(t *testing.T) {
	for want, text := range map[string]string{
		"use a newer one":            `{"version": 2, "builds": {"one": {"image": "x", "channel": "beta"}}}`,
		"not as penstock writes it":  `{"version": 1, "builds": {"one": {"image": "x", "channel": "beta"}}}`,
		"of version 0, which there":  `{"builds": {}}`,
		"not as penstock writes it:": `{`,
	} {
		s := newState(t)
		if err := os.MkdirAll(filepath.Join(s.objects.String(), "prod"), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(s.objects.String(), "prod", "builds.1.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.AddBuild(t.Context(), Build{ID: "two", Image: image("two")}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("added to %s: %v, want %q", text, err, want)
		}
	}
}

// Before a deployment is pointed at a namespace, its ID may not be known yet.
func TestWhereADeploymentLivesIsKnownByName(t *testing.T) {
	s := newState(t)
	if there, err := s.Lives(t.Context(), "acme", "default"); err != nil || there {
		t.Errorf("before it is settled: %t, %v", there, err)
	}
	if _, err := s.Settle(t.Context(), Home{Project: "acme", Namespace: "default", NamespaceID: "uuid-1"}); err != nil {
		t.Fatal(err)
	}
	if there, err := s.Lives(t.Context(), "acme", "default"); err != nil || !there {
		t.Errorf("at home: %t, %v", there, err)
	}
	for _, other := range []Home{{Project: "acme", Namespace: "eu"}, {Project: "beta", Namespace: "default"}} {
		if _, err := s.Lives(t.Context(), other.Project, other.Namespace); err == nil || !strings.Contains(err.Error(), "not in "+other.place()) {
			t.Errorf("elsewhere: %v, want that it is not in %s", err, other.place())
		}
	}
}

func TestOneIDLivesOnceInAProject(t *testing.T) {
	s := newState(t)
	home := Home{Project: "acme", Namespace: "default", NamespaceID: "uuid-1", Created: time.Unix(0, 0).UTC(), By: "me"}
	if before, err := s.Settle(t.Context(), home); err != nil || before {
		t.Fatalf("settled: %t, %v", before, err)
	}
	home.Created, home.By = time.Now(), "somebody else"
	if before, err := s.Settle(t.Context(), home); err != nil || !before {
		t.Errorf("settled again: %t, %v, want that it was there", before, err)
	}
	for name, other := range map[string]Home{
		"another namespace":            {Project: "acme", Namespace: "eu", NamespaceID: "uuid-2"},
		"a namespace of the same name": {Project: "acme", Namespace: "default", NamespaceID: "uuid-2"},
		"another project, same bucket": {Project: "beta", Namespace: "default", NamespaceID: "uuid-1"},
	} {
		_, err := s.Settle(t.Context(), other)
		if err == nil {
			t.Errorf("%s: it settled, too", name)
			continue
		}
		for _, want := range []string{home.place(), other.place(), "1970-01-01", "deployment.json", "another ID"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v does not say %q", name, err, want)
			}
		}
	}
}
