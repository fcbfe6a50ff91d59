package objects

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, object string
		match           bool
	}{
		{"daily/*.csv", "daily/seattle-2012.csv", true},
		{"daily/*.csv", "daily/old/seattle-2012.csv", false},
		{"daily/**.csv", "daily/old/seattle-2012.csv", true},
		{"daily/seattle-201?.csv", "daily/seattle-2012.csv", true},
		{"daily/seattle-201?.csv", "daily/seattle-201/.csv", false},
		{"daily/*.csv", "daily/seattle-2012xcsv", false},
		{"daily/*.csv", "not-daily/seattle-2012.csv", false},
		{"daily/*.csv", "daily/seattle-2012.csv.bak", false},
		{"daily/[a-z]*", "daily/a", false},
		{"daily/[a-z]*", "daily/[a-z]b", true},
		{"*/São Paulo %2F.csv", "daily/São Paulo %2F.csv", true},
	} {
		if got := compile(c.pattern).MatchString(c.object); got != c.match {
			t.Errorf("%s matches %s: %v, want %v", c.pattern, c.object, got, c.match)
		}
	}
}

func TestNames(t *testing.T) {
	for _, c := range []struct{ name, bucket, object, refused string }{
		{name: "gs://bucket/a/b.csv", bucket: "bucket", object: "a/b.csv"},
		{name: "gs://bucket/a%2Fb?c#d e", bucket: "bucket", object: "a%2Fb?c#d e"},
		{name: "gs://bucket//../x", bucket: "bucket", object: "/../x"},
		{name: "gs://bucket", refused: `"gs://bucket" names no object; use gs://bucket/object`},
		{name: "gs:///object", refused: `"gs:///object" names no object; use gs://bucket/object`},
		{name: "s3://bucket/object", refused: "s3://bucket/object: no storage for s3://; use gs://bucket/object or the path of a local file"},
		{name: "", refused: "the name of an object is empty; use gs://bucket/object or the path of a local file"},
		{name: "/tmp/file"},
	} {
		bucket, object, _, err := split(c.name)
		if c.refused != "" {
			if err == nil || err.Error() != c.refused {
				t.Errorf("%q: error is %v, want %s", c.name, err, c.refused)
			}
			continue
		}
		if err != nil || bucket != c.bucket || object != c.object {
			t.Errorf("%q is bucket %q, object %q, %v; want %q, %q", c.name, bucket, object, err, c.bucket, c.object)
		}
	}
}

func TestFileIsCompleteOrAsItWas(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	name := filepath.Join(dir, "folder", "out.csv")
	put := func(text string, end error) error {
		return Write(ctx, name, func(w io.Writer) error {
			_, err := io.WriteString(w, text)
			return errors.Join(err, end)
		})
	}
	broken := errors.New("broken off")
	if err := put("half", broken); !errors.Is(err, broken) {
		t.Fatalf("error is %v, want %v", err, broken)
	}
	if _, err := Open(ctx, name); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("after a broken write: %v, want a file that does not exist", err)
	}
	if err := put("first", nil); err != nil {
		t.Fatal(err)
	}
	if err := put("sec", broken); !errors.Is(err, broken) {
		t.Fatalf("error is %v, want %v", err, broken)
	}
	r, err := Open(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || string(got) != "first" {
		t.Errorf("file holds %q, %v; want what the last whole write wrote", got, err)
	}
	found, err := Match(ctx, filepath.Join(dir, "folder", "*"))
	if err != nil || !slices.Equal(found, []string{name}) {
		t.Errorf("folder holds %q, %v; want %s alone", found, err, name)
	}
}
