package main

import (
	"errors"
	"slices"
	"testing"
)

func TestPipelineIsChosenByArgumentOrFlag(t *testing.T) {
	for _, c := range []struct {
		args []string
		name string
		rest []string
	}{
		{[]string{"clean", "--input=x"}, "clean", []string{"--input=x"}},
		{[]string{"--input=x", "--pipeline=clean", "--output=y"}, "clean", []string{"--input=x", "--output=y"}},
		{[]string{"-pipeline=clean"}, "clean", nil},
		{[]string{"--worker", "--id=1"}, "", []string{"--worker", "--id=1"}},
		{nil, "", nil},
	} {
		name, rest := choose(c.args)
		if name != c.name || !slices.Equal(rest, c.rest) {
			t.Errorf("%q chooses %q with %q, want %q with %q", c.args, name, rest, c.name, c.rest)
		}
	}
}

func TestErrorIsThePipelinesOwn(t *testing.T) {
	for _, c := range []struct{ name, beam, want string }{
		{"an error of a DoFn", "job job-001 failed:\nbundle inst010 failed: plan\n\tcaused by:\nsource failed\n\tcaused by:\nDoFn[UID:6, PID:e14, Name: weather.judgeFn] failed:\n3 rows are bad; the DoFn failed:\nso", "3 rows are bad; the DoFn failed:\nso"},
		{"an error of the runner", "connecting to job service\n\tcaused by:\nno such host", "no such host"},
		{"an error without a cause", "job failed to prepare", "job failed to prepare"},
	} {
		if got := cause(errors.New(c.beam)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}
