package stack

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// names are what pipelines files speak of that has to exist.
type names struct {
	buckets, templateBuckets, topics []string
}

// They are read from the text, so that a file with mistakes, which the functions
// report, still finds its buckets. A name in a comment makes a bucket too many,
// which does no harm.
var (
	bucketField = regexp.MustCompile(`(?m)\bbucket:[ \t]*["']?([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])["']?[ \t]*(?:[,}#\r]|$)`)
	bucketURI   = regexp.MustCompile(`gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])(?:[/"'\s,}]|$)`)
	templateURI = regexp.MustCompile(`(?m)\btemplate:[ \t]*["']?gs://([a-z0-9][a-z0-9._-]{1,220}[a-z0-9])/`)
	topicField  = regexp.MustCompile(`(?m)\btopic:[ \t]*["']?([A-Za-z0-9][A-Za-z0-9._~+%/-]+)`)
)

// readNames reads the *.yaml and *.yml files of a folder; "" has none.
func readNames(dir string) (names, error) {
	if dir == "" {
		return names{}, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return names{}, fmt.Errorf("read the pipelines folder: %w", err)
	}
	buckets, templates, topics := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); e.IsDir() || ext != ".yaml" && ext != ".yml" {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return names{}, fmt.Errorf("read a pipelines file: %w", err)
		}
		for _, found := range []struct {
			pattern *regexp.Regexp
			into    map[string]bool
		}{{bucketField, buckets}, {bucketURI, buckets}, {templateURI, templates}, {topicField, topics}} {
			for _, match := range found.pattern.FindAllSubmatch(text, -1) {
				found.into[string(match[1])] = true
			}
		}
	}
	sorted := func(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
	return names{buckets: sorted(buckets), templateBuckets: sorted(templates), topics: sorted(topics)}, nil
}

func (s *Stack) makeResources(buckets, topics []string) error {
	for _, b := range buckets {
		if err := s.Storage.EnsureBucket(b); err != nil {
			return fmt.Errorf("make bucket %s: %w", b, err)
		}
	}
	for _, t := range topics {
		if !strings.HasPrefix(t, "projects/") {
			t = "projects/" + s.o.Project + "/topics/" + t
		}
		if err := s.PubSub.EnsureTopic(t); err != nil {
			return err
		}
	}
	return nil
}

// watchPipelines makes the buckets and topics of files that come or change
// while the stack runs. The functions read the folder themselves.
func (s *Stack) watchPipelines(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	failed := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		named, err := readNames(s.o.Pipelines)
		if err == nil {
			err = s.makeResources(named.buckets, named.topics)
		}
		switch {
		case err == nil:
			failed = ""
		case err.Error() != failed: // said once, not every second
			failed = err.Error()
			s.logs.logger("stack").Warn("buckets and topics of the pipelines not made", "error", err)
		}
	}
}
