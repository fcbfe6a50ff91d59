package storageemulator

import (
	"bytes"
	"cmp"
	"crypto/md5"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// store holds buckets and object versions, in memory or in a folder. One lock
// orders all changes, so that changes are reported in the order they happened.
type store struct {
	dir      string // "": memory only
	onChange func(Change)

	mu             sync.Mutex
	buckets        map[string]*bucketState
	lastGeneration int64
}

type bucketState struct {
	bucket
	live       map[string]*version
	noncurrent map[string][]*version // oldest first
}

// version is one generation of an object. Its content never changes.
type version struct {
	Object
	content []byte // memory stores only
}

// upload is what a client supplies for a new generation.
type upload struct {
	attributes Object // name, content type, metadata and so on; computed fields are ignored
	content    []byte
	components int // > 0: composed from that many parts
}

func openStore(dir string, onChange func(Change)) (*store, error) {
	s := &store{dir: dir, onChange: onChange, buckets: map[string]*bucketState{}}
	if dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("storage emulator: make its data folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("storage emulator: read its data folder: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := s.loadBucket(e.Name()); err != nil {
				return nil, fmt.Errorf("storage emulator: load bucket %s from %s: %w; remove that folder to start without it", e.Name(), dir, err)
			}
		}
	}
	return s, nil
}

func (s *store) loadBucket(name string) error {
	b := &bucketState{live: map[string]*version{}, noncurrent: map[string][]*version{}}
	record, err := os.ReadFile(filepath.Join(s.dir, name, "bucket.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a crash between mkdir and the record: the bucket was never confirmed
	} else if err != nil {
		return err
	}
	if err := json.Unmarshal(record, &b.bucket); err != nil {
		return err
	}
	records, err := filepath.Glob(filepath.Join(s.dir, name, "*.object.json"))
	if err != nil {
		return err
	}
	for _, path := range records {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		v := &version{}
		if err := json.Unmarshal(data, &v.Object); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s.lastGeneration = max(s.lastGeneration, v.Generation)
		if v.TimeDeleted != "" {
			b.noncurrent[v.Name] = append(b.noncurrent[v.Name], v)
			continue
		}
		// A crash between writing the new generation and removing the old
		// leaves two live records: the newer one is the truth.
		if other := b.live[v.Name]; other != nil {
			older := v
			if other.Generation < v.Generation {
				older, b.live[v.Name] = other, v
			}
			if err := s.removeVersion(older); err != nil {
				return err
			}
			continue
		}
		b.live[v.Name] = v
	}
	for _, versions := range b.noncurrent {
		slices.SortFunc(versions, func(a, b *version) int { return cmp.Compare(a.Generation, b.Generation) })
	}
	s.buckets[b.Name] = b
	return nil
}

func (s *store) createBucket(name string, settings map[string]json.RawMessage) (bucket, error) {
	if err := checkBucketName(name); err != nil {
		return bucket{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.buckets[name]; exists {
		return bucket{}, &apiError{409, "conflict", "Your previous request to create the named bucket succeeded and you already own it."}
	}
	now := timestamp(time.Now())
	b := &bucketState{
		bucket: bucket{Name: name, Created: now, Updated: now, Metageneration: 1},
		live:   map[string]*version{}, noncurrent: map[string][]*version{},
	}
	if err := b.apply(settings); err != nil {
		return bucket{}, err
	}
	if err := s.writeBucket(b); err != nil {
		return bucket{}, err
	}
	s.buckets[name] = b
	return b.bucket, nil
}

func (s *store) patchBucket(name string, settings map[string]json.RawMessage) (bucket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(name)
	if err != nil {
		return bucket{}, err
	}
	if err := b.apply(settings); err != nil {
		return bucket{}, err
	}
	b.Metageneration++
	b.Updated = timestamp(time.Now())
	return b.bucket, s.writeBucket(b)
}

func (s *store) deleteBucket(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(name)
	if err != nil {
		return err
	}
	if len(b.live) > 0 || len(b.noncurrent) > 0 {
		return &apiError{409, "conflict", "The bucket you tried to delete is not empty."}
	}
	delete(s.buckets, name)
	if s.dir != "" {
		return os.RemoveAll(filepath.Join(s.dir, name))
	}
	return nil
}

func (s *store) bucketNamed(name string) (bucket, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(name)
	if err != nil {
		return bucket{}, err
	}
	return b.bucket, nil
}

func (s *store) listBuckets(prefix string) []bucket {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []bucket
	for name, b := range s.buckets {
		if strings.HasPrefix(name, prefix) {
			list = append(list, b.bucket)
		}
	}
	slices.SortFunc(list, func(a, b bucket) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// put writes a new generation of an object.
func (s *store) put(bucketName string, u upload, cond conditions) (Object, error) {
	if err := checkObjectName(u.attributes.Name); err != nil {
		return Object{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(bucketName)
	if err != nil {
		return Object{}, err
	}
	old := b.live[u.attributes.Name]
	if err := cond.checkWrite(old); err != nil {
		return Object{}, err
	}
	if old != nil && (old.TemporaryHold || old.EventBasedHold) {
		return Object{}, &apiError{403, "forbidden", fmt.Sprintf("Object '%s/%s' is under active hold and cannot be deleted, overwritten or archived until the hold is removed.", bucketName, old.Name)}
	}
	md5sum := md5.Sum(u.content)
	md5Hash, crc := base64.StdEncoding.EncodeToString(md5sum[:]), crc32c(u.content)
	if want := u.attributes.MD5Hash; want != "" && want != md5Hash {
		return Object{}, badRequest(fmt.Sprintf("Provided MD5 hash %q doesn't match calculated MD5 hash %q.", want, md5Hash))
	}
	if want := u.attributes.CRC32C; want != "" && want != crc {
		return Object{}, badRequest(fmt.Sprintf("Provided CRC32C %q doesn't match calculated CRC32C %q.", want, crc))
	}

	now := time.Now().UTC()
	v := &version{Object: u.attributes}
	v.Bucket, v.Generation, v.Metageneration = bucketName, s.nextGeneration(now), 1
	v.Size, v.CRC32C, v.MD5Hash, v.ComponentCount = int64(len(u.content)), crc, md5Hash, u.components
	if u.components > 0 {
		v.MD5Hash = ""
	}
	if v.StorageClass == "" {
		v.StorageClass = "STANDARD"
	}
	v.TimeCreated = timestamp(now)
	v.Updated, v.TimeFinalized, v.TimeStorageClassUpdated, v.TimeDeleted = v.TimeCreated, v.TimeCreated, v.TimeCreated, ""
	v.stamp()
	if err := s.writeContent(v, u.content); err != nil {
		return Object{}, err
	}
	if err := s.writeRecord(v); err != nil {
		return Object{}, err
	}
	b.live[v.Name] = v
	finalized := Change{Kind: Finalized, Object: v.Object, Time: now}
	if old == nil {
		s.onChange(finalized)
		return v.Object, nil
	}
	finalized.OverwroteGeneration = old.Generation
	s.onChange(finalized)
	return v.Object, s.retire(b, old, now, v.Generation)
}

// retire ends the life of a version that is no longer the live one: kept as
// noncurrent with versioning, else removed.
func (s *store) retire(b *bucketState, old *version, now time.Time, by int64) error {
	old.TimeDeleted = timestamp(now)
	kind := Deleted
	if b.Versioning {
		kind = Archived
		b.noncurrent[old.Name] = append(b.noncurrent[old.Name], old)
		if err := s.writeRecord(old); err != nil {
			return err
		}
	} else if err := s.removeVersion(old); err != nil {
		return err
	}
	s.onChange(Change{Kind: kind, Object: old.Object, Time: now, OverwrittenByGeneration: by})
	return nil
}

// delete removes the live version, or with a generation exactly that one.
func (s *store) delete(bucketName, name string, generation int64, cond conditions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, v, err := s.find(bucketName, name, generation)
	if err != nil {
		return err
	}
	if err := cond.checkWrite(v); err != nil {
		return err
	}
	if v.TemporaryHold || v.EventBasedHold {
		return &apiError{403, "forbidden", fmt.Sprintf("Object '%s/%s' is under active hold and cannot be deleted, overwritten or archived until the hold is removed.", bucketName, name)}
	}
	now := time.Now().UTC()
	if b.live[name] == v {
		delete(b.live, name)
		if generation == 0 {
			return s.retire(b, v, now, 0)
		}
	} else {
		rest := slices.DeleteFunc(b.noncurrent[name], func(o *version) bool { return o == v })
		if b.noncurrent[name] = rest; len(rest) == 0 {
			delete(b.noncurrent, name)
		}
	}
	v.TimeDeleted = timestamp(now)
	if err := s.removeVersion(v); err != nil {
		return err
	}
	s.onChange(Change{Kind: Deleted, Object: v.Object, Time: now})
	return nil
}

// update changes the metadata of one version through change.
func (s *store) update(bucketName, name string, generation int64, cond conditions, change func(*Object) error) (Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, v, err := s.find(bucketName, name, generation)
	if err != nil {
		return Object{}, err
	}
	if err := cond.checkWrite(v); err != nil {
		return Object{}, err
	}
	next := &version{Object: v.Object, content: v.content}
	if err := change(&next.Object); err != nil {
		return Object{}, err
	}
	now := time.Now().UTC()
	next.Metageneration++
	next.Updated = timestamp(now)
	next.stamp()
	if err := s.writeRecord(next); err != nil {
		return Object{}, err
	}
	v.Object = next.Object
	s.onChange(Change{Kind: MetadataUpdated, Object: v.Object, Time: now})
	return v.Object, nil
}

// get returns one version; generation 0 means the live one.
func (s *store) get(bucketName, name string, generation int64) (Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, v, err := s.find(bucketName, name, generation)
	if err != nil {
		return Object{}, err
	}
	return v.Object, nil
}

// open returns one version with its content, which stays readable when the
// object is overwritten or deleted meanwhile.
func (s *store) open(bucketName, name string, generation int64) (Object, io.ReadSeekCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, v, err := s.find(bucketName, name, generation)
	if err != nil {
		return Object{}, nil, err
	}
	if s.dir == "" {
		return v.Object, readSeekNopCloser{bytes.NewReader(v.content)}, nil
	}
	f, err := os.Open(s.path(v, ".content"))
	if err != nil {
		return Object{}, nil, fmt.Errorf("storage emulator: content of %s/%s: %w", bucketName, name, err)
	}
	return v.Object, f, nil
}

// list returns the live objects of a bucket whose names have a prefix, by
// name; with versions the noncurrent ones too, each name's oldest first.
func (s *store) list(bucketName, prefix string, versions bool) ([]Object, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.bucket(bucketName)
	if err != nil {
		return nil, err
	}
	var list []Object
	for name, v := range b.live {
		if strings.HasPrefix(name, prefix) {
			list = append(list, v.Object)
		}
	}
	if versions {
		for name, old := range b.noncurrent {
			for _, v := range old {
				if strings.HasPrefix(name, prefix) {
					list = append(list, v.Object)
				}
			}
		}
	}
	slices.SortFunc(list, func(a, b Object) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Generation, b.Generation))
	})
	return list, nil
}

func (s *store) bucket(name string) (*bucketState, error) {
	b := s.buckets[name]
	if b == nil {
		return nil, &apiError{404, "notFound", "The specified bucket does not exist."}
	}
	return b, nil
}

func (s *store) find(bucketName, name string, generation int64) (*bucketState, *version, error) {
	b, err := s.bucket(bucketName)
	if err != nil {
		return nil, nil, err
	}
	if v := b.live[name]; v != nil && (generation == 0 || v.Generation == generation) {
		return b, v, nil
	}
	if generation != 0 {
		for _, v := range b.noncurrent[name] {
			if v.Generation == generation {
				return b, v, nil
			}
		}
	}
	return nil, nil, &apiError{404, "notFound", fmt.Sprintf("No such object: %s/%s", bucketName, name)}
}

// nextGeneration is microseconds since the epoch, as in the real service, and
// always larger than any before it.
func (s *store) nextGeneration(now time.Time) int64 {
	s.lastGeneration = max(s.lastGeneration+1, now.UnixMicro())
	return s.lastGeneration
}

// path names a file after a hash of the object name: names may be 1,024 bytes,
// hold "../", or differ only where a file system sees no difference.
func (s *store) path(v *version, suffix string) string {
	sum := sha256.Sum256([]byte(v.Name))
	return filepath.Join(s.dir, v.Bucket, fmt.Sprintf("%s-%d%s", hex.EncodeToString(sum[:]), v.Generation, suffix))
}

func (s *store) writeBucket(b *bucketState) error {
	if s.dir == "" {
		return nil
	}
	dir := filepath.Join(s.dir, b.Name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("storage emulator: make bucket %s: %w", b.Name, err)
	}
	return writeJSON(filepath.Join(dir, "bucket.json"), b.bucket)
}

func (s *store) writeContent(v *version, content []byte) error {
	if s.dir == "" {
		v.content = content
		return nil
	}
	if err := replaceFile(s.path(v, ".content"), content); err != nil {
		return fmt.Errorf("storage emulator: write %s/%s: %w", v.Bucket, v.Name, err)
	}
	return nil
}

// writeRecord makes a version durable; content goes before its record.
func (s *store) writeRecord(v *version) error {
	if s.dir == "" {
		return nil
	}
	return writeJSON(s.path(v, ".object.json"), v.Object)
}

func (s *store) removeVersion(v *version) error {
	if s.dir == "" {
		return nil
	}
	if err := os.Remove(s.path(v, ".object.json")); err != nil {
		return fmt.Errorf("storage emulator: remove %s/%s: %w", v.Bucket, v.Name, err)
	}
	// An orphaned content file costs space only; the next start ignores it.
	_ = os.Remove(s.path(v, ".content"))
	return nil
}

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("storage emulator: encode %s: %w", path, err)
	}
	if err := replaceFile(path, data); err != nil {
		return fmt.Errorf("storage emulator: write %s: %w", path, err)
	}
	return nil
}

// replaceFile writes a whole file or leaves the old one.
func replaceFile(path string, data []byte) error {
	if err := os.WriteFile(path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func crc32c(content []byte) string {
	sum := crc32.Checksum(content, crc32.MakeTable(crc32.Castagnoli))
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, sum))
}

type readSeekNopCloser struct{ io.ReadSeeker }

func (readSeekNopCloser) Close() error { return nil }
