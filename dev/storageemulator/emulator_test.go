package storageemulator_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/storage"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/iterator"

	"github.com/penstock/penstock/dev/storageemulator"
)

type bundle struct {
	*storageemulator.Emulator
	client *storage.Client
	ctx    context.Context

	mu      sync.Mutex
	changes []storageemulator.Change
}

func setup(t *testing.T, dir string) *bundle {
	t.Helper()
	b := &bundle{ctx: t.Context()}
	var err error
	b.Emulator, err = storageemulator.Start(storageemulator.Options{Dir: dir, OnChange: func(c storageemulator.Change) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.changes = append(b.changes, c)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	t.Setenv("STORAGE_EMULATOR_HOST", b.Addr())
	if b.client, err = storage.NewClient(b.ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.client.Close() })
	if err := b.EnsureBucket("landing"); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bundle) write(t *testing.T, o *storage.ObjectHandle, content string) *storage.ObjectAttrs {
	t.Helper()
	w := o.NewWriter(b.ctx)
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatalf("write %q: %v", o.ObjectName(), err)
	}
	return w.Attrs()
}

func (b *bundle) read(t *testing.T, o *storage.ObjectHandle) string {
	t.Helper()
	r, err := o.NewReader(b.ctx)
	if err != nil {
		t.Fatalf("read %q: %v", o.ObjectName(), err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func (b *bundle) kinds() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var kinds []string
	for _, c := range b.changes {
		kinds = append(kinds, fmt.Sprintf("%s %s", c.Kind, c.Object.Name))
	}
	return kinds
}

func wantCode(t *testing.T, err error, code int) {
	t.Helper()
	var api *googleapi.Error
	if !errors.As(err, &api) || api.Code != code {
		t.Errorf("error is %v, want HTTP %d", err, code)
	}
}

// hostileNames are legal object names that break careless code.
var hostileNames = []string{
	"plain.csv",
	"with space.csv",
	"日本/données 🌧.csv",
	"../../etc/passwd",
	"a/../b",
	"a/./b//c",
	"/leading/slash",
	"trailing/",
	"percent%2Fencoded",
	"100%",
	"query?generation=1#fragment",
	`quotes"'` + "`" + `.csv`,
	"${env} {{template}} $(cmd) `x`",
	"commas,semi;colons:&=+",
	"tab\tand\x01control",
	"back\\slash",
	"o/x/compose",
	"a/rewriteTo/b/other/o/x",
	"same", "same/inside", // one is a prefix "folder" of the other
	"Case", "case",
	strings.Repeat("n", 1024),
	strings.Repeat("é", 512),
}

func TestHostileNamesSurvive(t *testing.T) {
	for _, mode := range []string{"memory", "folder"} {
		t.Run(mode, func(t *testing.T) {
			dir := ""
			if mode == "folder" {
				dir = filepath.Join(t.TempDir(), "storage")
			}
			b := setup(t, dir)
			for _, name := range hostileNames {
				o := b.client.Bucket("landing").Object(name)
				if attrs := b.write(t, o, "content of "+name); attrs.Name != name {
					t.Errorf("written as %q, want %q", attrs.Name, name)
				}
				if got := b.read(t, o); got != "content of "+name {
					t.Errorf("%q holds %q", name, got)
				}
				attrs, err := o.Attrs(b.ctx)
				if err != nil || attrs.Name != name {
					t.Errorf("attributes of %q: %v, %v", name, attrs, err)
				}
			}
			var listed []string
			for it := b.client.Bucket("landing").Objects(b.ctx, nil); ; {
				attrs, err := it.Next()
				if errors.Is(err, iterator.Done) {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				listed = append(listed, attrs.Name)
			}
			want := slices.Sorted(slices.Values(hostileNames))
			if !slices.Equal(listed, want) {
				t.Errorf("listed %q\nwant %q", listed, want)
			}
			for _, name := range hostileNames {
				if err := b.client.Bucket("landing").Object(name).Delete(b.ctx); err != nil {
					t.Errorf("delete %q: %v", name, err)
				}
			}
			var wantChanges []string
			for _, kind := range []string{"finalized", "deleted"} {
				for _, name := range hostileNames {
					wantChanges = append(wantChanges, kind+" "+name)
				}
			}
			if got := b.kinds(); !slices.Equal(got, wantChanges) {
				t.Errorf("changes %q\nwant %q", got, wantChanges)
			}
		})
	}
}

func TestNamesThatCloudStorageRefuses(t *testing.T) {
	b := setup(t, "")
	for why, name := range map[string]string{
		"1,025 bytes":        strings.Repeat("n", 1025),
		"line feed":          "a\nb",
		"carriage return":    "a\rb",
		"dot":                ".",
		"dot dot":            "..",
		"reserved for ACME":  ".well-known/acme-challenge/x",
		"513 two-byte runes": strings.Repeat("é", 513),
	} {
		t.Run(why, func(t *testing.T) {
			w := b.client.Bucket("landing").Object(name).NewWriter(b.ctx)
			_, _ = io.WriteString(w, "x")
			wantCode(t, w.Close(), 400)
		})
	}
}

func TestOverwriteIsFinalizedThenDeleted(t *testing.T) {
	b := setup(t, "")
	o := b.client.Bucket("landing").Object("day.csv")
	first := b.write(t, o, "1")
	second := b.write(t, o, "22")
	if second.Generation <= first.Generation {
		t.Errorf("generation %d does not follow %d", second.Generation, first.Generation)
	}
	if got, want := b.kinds(), []string{"finalized day.csv", "finalized day.csv", "deleted day.csv"}; !slices.Equal(got, want) {
		t.Fatalf("changes %q, want %q", got, want)
	}
	finalized, deleted := b.changes[1], b.changes[2]
	if finalized.Object.Generation != second.Generation || finalized.OverwroteGeneration != first.Generation {
		t.Errorf("finalized %d over %d, want %d over %d", finalized.Object.Generation, finalized.OverwroteGeneration, second.Generation, first.Generation)
	}
	if deleted.Object.Generation != first.Generation || deleted.OverwrittenByGeneration != second.Generation {
		t.Errorf("deleted %d by %d, want %d by %d", deleted.Object.Generation, deleted.OverwrittenByGeneration, first.Generation, second.Generation)
	}
	if deleted.Object.TimeDeleted == "" || finalized.Object.TimeDeleted != "" {
		t.Error("only the deleted version has a timeDeleted")
	}
}

func TestVersioningArchives(t *testing.T) {
	b := setup(t, "")
	bucket := b.client.Bucket("versioned-bucket")
	if err := bucket.Create(b.ctx, "p", &storage.BucketAttrs{VersioningEnabled: true}); err != nil {
		t.Fatal(err)
	}
	o := bucket.Object("x")
	first := b.write(t, o, "one")
	b.write(t, o, "two")
	if err := o.Delete(b.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Attrs(b.ctx); !errors.Is(err, storage.ErrObjectNotExist) {
		t.Errorf("after delete: %v", err)
	}
	if got := b.read(t, o.Generation(first.Generation)); got != "one" {
		t.Errorf("archived version holds %q", got)
	}
	if err := o.Generation(first.Generation).Delete(b.ctx); err != nil {
		t.Fatal(err)
	}
	want := []string{"finalized x", "finalized x", "archived x", "archived x", "deleted x"}
	if got := b.kinds(); !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
}

func TestMetadataUpdateCountsMetageneration(t *testing.T) {
	b := setup(t, "")
	o := b.client.Bucket("landing").Object("x")
	before := b.write(t, o, "content")
	after, err := o.Update(b.ctx, storage.ObjectAttrsToUpdate{ContentType: "text/csv", Metadata: map[string]string{"kept": "1", "gone": "2"}})
	if err != nil {
		t.Fatal(err)
	}
	if after.Generation != before.Generation || after.Metageneration != 2 || after.Etag == before.Etag || after.Etag == "" {
		t.Errorf("generation %d metageneration %d etag %q after %d, 1, %q", after.Generation, after.Metageneration, after.Etag, before.Generation, before.Etag)
	}
	request, _ := http.NewRequestWithContext(b.ctx, http.MethodPatch, "http://"+b.Addr()+"/storage/v1/b/landing/o/x",
		strings.NewReader(`{"metadata":{"gone":null},"contentType":null}`))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	after, err = o.Attrs(b.ctx)
	if err != nil || after.Metageneration != 3 || after.ContentType != "" || len(after.Metadata) != 1 || after.Metadata["kept"] != "1" {
		t.Errorf("null removes: %+v, %v", after, err)
	}
	if got := b.read(t, o); got != "content" {
		t.Errorf("content became %q", got)
	}
	if got := b.kinds(); !slices.Equal(got, []string{"finalized x", "metadataUpdated x", "metadataUpdated x"}) {
		t.Errorf("changes %q", got)
	}
}

func TestPreconditionsHoldOnEveryWrite(t *testing.T) {
	b := setup(t, "")
	o := b.client.Bucket("landing").Object("x")
	attrs := b.write(t, o.If(storage.Conditions{DoesNotExist: true}), "first")
	stale := storage.Conditions{GenerationMatch: attrs.Generation - 1}
	writeIf := func(c storage.Conditions) error {
		w := o.If(c).NewWriter(b.ctx)
		_, _ = io.WriteString(w, "second")
		return w.Close()
	}
	_, patchErr := o.If(stale).Update(b.ctx, storage.ObjectAttrsToUpdate{ContentType: "x/y"})
	_, metaErr := o.If(storage.Conditions{MetagenerationMatch: 9}).Update(b.ctx, storage.ObjectAttrsToUpdate{ContentType: "x/y"})
	_, copyErr := b.client.Bucket("landing").Object("y").CopierFrom(o.If(stale)).Run(b.ctx)
	for what, err := range map[string]error{
		"write that must not exist":         writeIf(storage.Conditions{DoesNotExist: true}),
		"write over another generation":     writeIf(stale),
		"patch of another generation":       patchErr,
		"patch of another metageneration":   metaErr,
		"delete of another generation":      o.If(stale).Delete(b.ctx),
		"copy from another generation":      copyErr,
		"write unless this generation":      writeIf(storage.Conditions{GenerationNotMatch: attrs.Generation}),
		"delete of another metageneration ": o.If(storage.Conditions{MetagenerationMatch: 9}).Delete(b.ctx),
	} {
		t.Run(what, func(t *testing.T) { wantCode(t, err, 412) })
	}
	if got := b.read(t, o); got != "first" {
		t.Errorf("content became %q", got)
	}
	if err := o.If(storage.Conditions{GenerationMatch: attrs.Generation, MetagenerationMatch: 1}).Delete(b.ctx); err != nil {
		t.Errorf("delete of this very version: %v", err)
	}
}

func TestOfManyCreatorsOneWins(t *testing.T) {
	b := setup(t, "")
	var won sync.WaitGroup
	wins := make(chan bool, 20)
	for range 20 {
		won.Go(func() {
			w := b.client.Bucket("landing").Object("claim").If(storage.Conditions{DoesNotExist: true}).NewWriter(b.ctx)
			_, _ = io.WriteString(w, "mine")
			wins <- w.Close() == nil
		})
	}
	won.Wait()
	close(wins)
	winners := 0
	for w := range wins {
		if w {
			winners++
		}
	}
	if winners != 1 {
		t.Errorf("%d creators won", winners)
	}
}

func TestEventPayloadIsTheObjectResource(t *testing.T) {
	b := setup(t, "")
	w := b.client.Bucket("landing").Object("a b.csv").NewWriter(b.ctx)
	w.ContentType, w.Metadata = "text/csv", map[string]string{"source": "till 7"}
	_, _ = io.WriteString(w, "hello")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(b.changes[0].Object)
	if err != nil {
		t.Fatal(err)
	}
	var payload map[string]any
	if err := json.Unmarshal(data, &payload); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]any{
		"kind": "storage#object", "bucket": "landing", "name": "a b.csv", "size": "5", "metageneration": "1",
		"generation": fmt.Sprint(w.Attrs().Generation), "contentType": "text/csv", "storageClass": "STANDARD",
		"md5Hash": "XUFAKrxLKna5cZ2REBfFkg==", "crc32c": "mnG7TA==",
		"id":        fmt.Sprintf("landing/a b.csv/%d", w.Attrs().Generation),
		"mediaLink": fmt.Sprintf("http://%s/download/storage/v1/b/landing/o/a%%20b.csv?generation=%d&alt=media", b.Addr(), w.Attrs().Generation),
	} {
		if payload[field] != want {
			t.Errorf("%s is %v, want %v", field, payload[field], want)
		}
	}
	for _, field := range []string{"timeCreated", "updated", "timeStorageClassUpdated"} {
		at, err := time.Parse("2006-01-02T15:04:05.000Z", payload[field].(string))
		if err != nil || time.Since(at).Abs() > time.Minute {
			t.Errorf("%s is %v: %v", field, payload[field], err)
		}
	}
	response, err := http.Get(payload["mediaLink"].(string))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if got, _ := io.ReadAll(response.Body); string(got) != "hello" {
		t.Errorf("mediaLink leads to %q", got)
	}
}

func TestFolderSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	b := setup(t, dir)
	o := b.client.Bucket("landing").Object("../x")
	b.write(t, o, "old")
	attrs := b.write(t, o, "kept")
	b.Close()

	b = setup(t, dir)
	o = b.client.Bucket("landing").Object("../x")
	again, err := o.Attrs(b.ctx)
	if err != nil || again.Generation != attrs.Generation || again.Etag != attrs.Etag {
		t.Fatalf("after restart: %+v, %v", again, err)
	}
	if got := b.read(t, o); got != "kept" {
		t.Errorf("after restart it holds %q", got)
	}
	if next := b.write(t, o, "new"); next.Generation <= attrs.Generation {
		t.Errorf("generation went from %d to %d", attrs.Generation, next.Generation)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "landing", "*.content"))
	if len(left) != 1 {
		t.Errorf("files of overwritten generations stay: %q", left)
	}
}

func TestResumableUploadInChunks(t *testing.T) {
	b := setup(t, "")
	o := b.client.Bucket("landing").Object("big")
	w := o.NewWriter(b.ctx)
	w.ChunkSize = 256 << 10
	content := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := b.read(t, o); got != string(content) {
		t.Errorf("%d bytes arrived of %d", len(got), len(content))
	}
	r, err := o.NewRangeReader(b.ctx, 16*1000+10, 6)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got, _ := io.ReadAll(r); string(got) != "abcdef" {
		t.Errorf("range holds %q", got)
	}
	if got := b.kinds(); len(got) != 1 {
		t.Errorf("a chunked upload is one change, not %q", got)
	}
}

func TestCopyComposeAndBadChecksum(t *testing.T) {
	b := setup(t, "")
	bucket := b.client.Bucket("landing")
	w := bucket.Object("a").NewWriter(b.ctx)
	w.Metadata = map[string]string{"k": "v"}
	_, _ = io.WriteString(w, "A")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.write(t, bucket.Object("b"), "B")
	copied, err := bucket.Object("dir/copy of a").CopierFrom(bucket.Object("a")).Run(b.ctx)
	if err != nil || copied.Metadata["k"] != "v" {
		t.Errorf("copy: %+v, %v", copied, err)
	}
	composed, err := bucket.Object("ab").ComposerFrom(bucket.Object("a"), bucket.Object("b")).Run(b.ctx)
	if err != nil || composed.ComponentCount != 2 || len(composed.MD5) != 0 {
		t.Errorf("compose: %+v, %v", composed, err)
	}
	if got := b.read(t, bucket.Object("ab")); got != "AB" {
		t.Errorf("composed %q", got)
	}
	bad := bucket.Object("bad").NewWriter(b.ctx)
	bad.CRC32C, bad.SendCRC32C = 1, true
	_, _ = io.WriteString(bad, "x")
	wantCode(t, bad.Close(), 400)
}

func TestListing(t *testing.T) {
	b := setup(t, "")
	bucket := b.client.Bucket("landing")
	for _, name := range []string{"a.csv", "in/1.csv", "in/2.csv", "in/sub/3.csv", "out/x", "z.csv"} {
		b.write(t, bucket.Object(name), "x")
	}
	for _, tt := range []struct {
		name  string
		query storage.Query
		want  []string
	}{
		{"everything", storage.Query{}, []string{"a.csv", "in/1.csv", "in/2.csv", "in/sub/3.csv", "out/x", "z.csv"}},
		{"by prefix", storage.Query{Prefix: "in/"}, []string{"in/1.csv", "in/2.csv", "in/sub/3.csv"}},
		{"top folder", storage.Query{Delimiter: "/"}, []string{"a.csv", "in/", "out/", "z.csv"}},
		{"one folder", storage.Query{Delimiter: "/", Prefix: "in/"}, []string{"in/1.csv", "in/2.csv", "in/sub/"}},
		{"by glob", storage.Query{MatchGlob: "**/*.csv"}, []string{"a.csv", "in/1.csv", "in/2.csv", "in/sub/3.csv", "z.csv"}},
		{"between offsets", storage.Query{StartOffset: "in/2.csv", EndOffset: "z"}, []string{"in/2.csv", "in/sub/3.csv", "out/x"}},
	} {
		for _, page := range []int{1000, 2, 1} {
			t.Run(fmt.Sprintf("%s by %d", tt.name, page), func(t *testing.T) {
				var got []string
				it := bucket.Objects(b.ctx, &tt.query)
				pager := iterator.NewPager(it, page, "")
				for {
					var objects []*storage.ObjectAttrs
					token, err := pager.NextPage(&objects)
					if err != nil {
						t.Fatal(err)
					}
					for _, o := range objects {
						got = append(got, o.Name+o.Prefix)
					}
					if token == "" {
						break
					}
				}
				slices.Sort(got) // the client puts a page's prefixes after its objects
				if !slices.Equal(got, tt.want) {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			})
		}
	}
}

func TestGzipIsServedUnpackedToWhoCannotRead(t *testing.T) {
	b := setup(t, "")
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, "plain text")
	z.Close()
	w := b.client.Bucket("landing").Object("x.gz").NewWriter(b.ctx)
	w.ContentEncoding = "gzip"
	_, _ = w.Write(packed.Bytes())
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for encoding, want := range map[string]string{"identity": "plain text", "gzip": packed.String()} {
		request, _ := http.NewRequestWithContext(b.ctx, http.MethodGet, "http://"+b.Addr()+"/landing/x.gz", nil)
		request.Header.Set("Accept-Encoding", encoding)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if string(got) != want {
			t.Errorf("accepting %s: %q", encoding, got)
		}
	}
}

// The Node client leaves /storage/v1 out, and curl users upload with one POST.
func TestPathsOfOtherClients(t *testing.T) {
	b := setup(t, "")
	response, err := http.Post("http://"+b.Addr()+"/upload/storage/v1/b/landing/o?uploadType=media&name=a%2Fb.csv", "text/csv", strings.NewReader("x,y"))
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	for _, path := range []string{"/storage/v1/b/landing/o/a%2Fb.csv?alt=media", "/b/landing/o/a%2Fb.csv?alt=media", "/download/storage/v1/b/landing/o/a%2Fb.csv", "/landing/a/b.csv"} {
		response, err := http.Get("http://" + b.Addr() + path)
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK || string(got) != "x,y" || response.Header.Get("Content-Type") != "text/csv" {
			t.Errorf("GET %s: %d %q %q", path, response.StatusCode, response.Header.Get("Content-Type"), got)
		}
	}
	response, err = http.Post("http://"+b.Addr()+"/batch/storage/v1", `multipart/mixed; boundary="z"`, strings.NewReader(
		"--z\r\nContent-Type: application/http\r\nContent-ID: <1+1>\r\n\r\nDELETE /storage/v1/b/landing/o/a%2Fb.csv HTTP/1.1\r\nHost: x\r\n\r\n\r\n"+
			"--z\r\nContent-Type: application/http\r\nContent-ID: <1+2>\r\n\r\nDELETE /storage/v1/b/landing/o/none HTTP/1.1\r\nHost: x\r\n\r\n\r\n--z--\r\n"))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, _ := io.ReadAll(response.Body)
	if !bytes.Contains(got, []byte("204 No Content")) || !bytes.Contains(got, []byte("404 Not Found")) || !bytes.Contains(got, []byte("<response-1+2>")) {
		t.Errorf("batch answered %s", got)
	}
}

func TestMissingThingsAreNotFound(t *testing.T) {
	b := setup(t, "")
	if _, err := b.client.Bucket("nobody").Attrs(b.ctx); !errors.Is(err, storage.ErrBucketNotExist) {
		t.Errorf("bucket: %v", err)
	}
	if _, err := b.client.Bucket("landing").Object("x").NewReader(b.ctx); !errors.Is(err, storage.ErrObjectNotExist) {
		t.Errorf("read: %v", err)
	}
	if err := b.client.Bucket("landing").Object("x").Delete(b.ctx); !errors.Is(err, storage.ErrObjectNotExist) {
		t.Errorf("delete: %v", err)
	}
	w := b.client.Bucket("nobody").Object("x").NewWriter(b.ctx)
	_, _ = io.WriteString(w, "x")
	wantCode(t, w.Close(), 404)
}

func TestUploadDirTwiceChangesNothing(t *testing.T) {
	b := setup(t, "")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "t.json"), []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.UploadDir("templates", dir); err != nil {
			t.Fatal(err)
		}
	}
	if got := b.kinds(); !slices.Equal(got, []string{"finalized sub/t.json"}) {
		t.Errorf("changes %q", got)
	}
}
