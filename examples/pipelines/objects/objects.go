// Package objects reads and writes whole objects of Cloud Storage, and local files by the same calls.
//
// A name is gs://bucket/object, or the path of a local file. Object names are taken as they are: nothing in them is decoded, because "%2F", "?" and "#"
// are ordinary characters in the name of an object. That is why the pipelines do not use Beam's own gs:// file system, which parses a name as a URL
// and so reads another object than the one that was asked for.
//
// With STORAGE_EMULATOR_HOST set, requests go to that host without credentials; otherwise application default credentials are used.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"cloud.google.com/go/storage"
	"google.golang.org/api/iterator"
)

// Open opens the object called name for reading. It is not an error for it to be empty.
func Open(ctx context.Context, name string) (io.ReadCloser, error) {
	bucket, object, remote, err := split(name)
	if err != nil {
		return nil, err
	}
	if !remote {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("open input: %w", err)
		}
		return f, nil
	}
	c, err := client()
	if err != nil {
		return nil, err
	}
	r, err := c.Bucket(bucket).Object(object).NewReader(ctx)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	return r, nil
}

// Write creates or replaces the object called name with what the function writes. Readers see all of it or none: when write fails, or the process dies, the
// object is as it was before.
func Write(ctx context.Context, name string, write func(io.Writer) error) error {
	bucket, object, remote, err := split(name)
	if err != nil {
		return err
	}
	if !remote {
		return writeFile(name, write)
	}
	c, err := client()
	if err != nil {
		return err
	}
	// An upload is abandoned by cancelling its context: Close would publish the half that was written.
	ctx, abandon := context.WithCancel(ctx)
	defer abandon()
	w := c.Bucket(bucket).Object(object).NewWriter(ctx)
	w.ContentType = "text/plain; charset=utf-8"
	if strings.HasSuffix(object, ".csv") {
		w.ContentType = "text/csv; charset=utf-8"
	}
	if err := write(w); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// Match lists what pattern names, sorted. An object whose name is the pattern itself, character for character, is the only match, so that a file that somebody
// called "a*.csv" is never taken for a pattern. Otherwise "*" stands for any characters but "/", "**" for any characters, "?" for one character but "/"
// (local files: the rules of [filepath.Glob]). It is an error when nothing matches.
func Match(ctx context.Context, pattern string) ([]string, error) {
	if !strings.ContainsAny(pattern, "*?") {
		return []string{pattern}, nil
	}
	bucket, object, remote, err := split(pattern)
	if err != nil {
		return nil, err
	}
	var names []string
	if remote {
		names, err = matchBucket(ctx, bucket, object)
	} else {
		names, err = filepath.Glob(pattern)
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", pattern, err)
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("nothing matches %s; check the bucket and the pattern", pattern)
	}
	slices.Sort(names)
	return names, nil
}

func matchBucket(ctx context.Context, bucket, pattern string) ([]string, error) {
	c, err := client()
	if err != nil {
		return nil, err
	}
	b := c.Bucket(bucket)
	switch _, err := b.Object(pattern).Attrs(ctx); {
	case err == nil:
		return []string{"gs://" + bucket + "/" + pattern}, nil
	case !errors.Is(err, storage.ErrObjectNotExist):
		return nil, err
	}
	matcher := compile(pattern)
	query := &storage.Query{Prefix: pattern[:strings.IndexAny(pattern, "*?")]}
	if err := query.SetAttrSelection([]string{"Name"}); err != nil {
		return nil, err
	}
	var names []string
	for it := b.Objects(ctx, query); ; {
		attrs, err := it.Next()
		if errors.Is(err, iterator.Done) {
			return names, nil
		}
		if err != nil {
			return nil, err
		}
		if matcher.MatchString(attrs.Name) {
			names = append(names, "gs://"+bucket+"/"+attrs.Name)
		}
	}
}

var wildcard = regexp.MustCompile(`\*\*|\*|\?`)

func compile(pattern string) *regexp.Regexp {
	var expr strings.Builder
	rest := 0
	for _, at := range wildcard.FindAllStringIndex(pattern, -1) {
		expr.WriteString(regexp.QuoteMeta(pattern[rest:at[0]]))
		expr.WriteString(map[string]string{"**": `.*`, "*": `[^/]*`, "?": `[^/]`}[pattern[at[0]:at[1]]])
		rest = at[1]
	}
	expr.WriteString(regexp.QuoteMeta(pattern[rest:]))
	return regexp.MustCompile(`(?s)\A` + expr.String() + `\z`)
}

func split(name string) (bucket, object string, remote bool, err error) {
	rest, remote := strings.CutPrefix(name, "gs://")
	if !remote {
		if scheme, _, ok := strings.Cut(name, "://"); ok {
			return "", "", false, fmt.Errorf("%s: no storage for %s://; use gs://bucket/object or the path of a local file", name, scheme)
		}
		if name == "" {
			return "", "", false, errors.New("the name of an object is empty; use gs://bucket/object or the path of a local file")
		}
		return "", "", false, nil
	}
	bucket, object, _ = strings.Cut(rest, "/")
	if bucket == "" || object == "" {
		return "", "", false, fmt.Errorf("%q names no object; use gs://bucket/object", name)
	}
	return bucket, object, true, nil
}

func writeFile(name string, write func(io.Writer) error) (err error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".writing-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, errors.Join(err, os.Remove(f.Name())))
		}
	}()
	if err := write(f); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// client is made once a process: a pipeline opens many objects, and each client has connections of its own.
var client = sync.OnceValues(func() (*storage.Client, error) {
	c, err := storage.NewClient(context.Background())
	if err != nil {
		return nil, fmt.Errorf("connect to Cloud Storage: %w (set STORAGE_EMULATOR_HOST, or application default credentials)", err)
	}
	return c, nil
})
