package service

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/httptransport"

	"github.com/penstock/penstock/deadletters"
	"github.com/penstock/penstock/events"
)

const (
	storageScope = "https://www.googleapis.com/auth/devstorage.read_only"
	// objectsPage is how many objects of a list are in memory at once.
	objectsPage = 500
	// maxObjects bounds a page in bytes: an object's metadata has some kilobytes at most.
	maxObjects    = 32 << 20
	bucketTimeout = 30 * time.Second
	// bucketTries is how often a call is made that Cloud Storage could not serve, with pauses that double from bucketPause.
	bucketTries = 6
	bucketPause = time.Second
)

// Buckets lists the objects of buckets with their generations. Use OpenBuckets.
type Buckets struct {
	base   string // URL, without a slash at its end
	client *http.Client
	pause  time.Duration
}

// OpenBuckets makes a reader of Cloud Storage. It finds the environment's Google credentials, or honours
// STORAGE_EMULATOR_HOST ("host:port" or a URL), to which it sends none; it calls no API.
func OpenBuckets(getenv func(string) string) (*Buckets, error) {
	b := &Buckets{base: "https://storage.googleapis.com", client: &http.Client{}, pause: bucketPause}
	if host := getenv("STORAGE_EMULATOR_HOST"); host != "" {
		if !strings.Contains(host, "://") {
			host = "http://" + host
		}
		u, err := url.Parse(host)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("STORAGE_EMULATOR_HOST is %q; set it to host:port or http://host:port", host)
		}
		b.base = u.Scheme + "://" + u.Host
		return b, nil
	}
	client, err := httptransport.NewClient(&httptransport.Options{
		DetectOpts: &credentials.DetectOptions{Scopes: []string{storageScope}}, DisableTelemetry: true,
	})
	if err != nil {
		return nil, fmt.Errorf("find Google credentials for Cloud Storage: %w; run gcloud auth application-default login, or set STORAGE_EMULATOR_HOST to a local emulator", err)
	}
	b.client = client
	return b, nil
}

// object is a generation of an object as the event of its creation would tell of it.
type object struct {
	event *events.Event // nil where err is not
	// letter is the delivery that the event was decoded from: to post it is to deliver exactly that event.
	letter deadletters.Letter
	// changed says that its metadata may not be what they were when it was created.
	changed      bool
	bucket, name string
	err          error // why it is no event, which no delivery of it could be, either
}

// list gives all generations that a bucket has of the objects whose names begin with prefix, a page at a time.
func (b *Buckets) list(ctx context.Context, bucket, prefix string, page func([]object) error) error {
	query := url.Values{"versions": {"true"}, "maxResults": {strconv.Itoa(objectsPage)}}
	if prefix != "" {
		query.Set("prefix", prefix)
	}
	for {
		var answer struct {
			Items         []json.RawMessage `json:"items"`
			NextPageToken string            `json:"nextPageToken"`
		}
		if err := b.get(ctx, "/storage/v1/b/"+url.PathEscape(bucket)+"/o?"+query.Encode(), &answer); err != nil {
			return fmt.Errorf("list the objects gs://%s/%s*: %w", bucket, prefix, err)
		}
		objects := make([]object, len(answer.Items))
		for i, item := range answer.Items {
			objects[i] = objectOf(bucket, item)
		}
		if err := page(objects); err != nil {
			return err
		}
		if answer.NextPageToken == "" {
			return nil
		}
		if answer.NextPageToken == query.Get("pageToken") {
			return fmt.Errorf("list the objects gs://%s/%s*: the next page is the same page", bucket, prefix)
		}
		query.Set("pageToken", answer.NextPageToken)
	}
}

var errNoObject = errors.New("there is no such object")

// generation reads one generation of an object. errors.Is(err, errNoObject): the bucket does not have it any more.
func (b *Buckets) generation(ctx context.Context, bucket, name string, generation int64) (object, error) {
	var item json.RawMessage
	err := b.get(ctx, fmt.Sprintf("/storage/v1/b/%s/o/%s?generation=%d", url.PathEscape(bucket), url.PathEscape(name), generation), &item)
	if err != nil {
		return object{}, fmt.Errorf("look for gs://%s/%s#%d: %w", bucket, name, generation, err)
	}
	o := objectOf(bucket, item)
	return o, o.err
}

// objectOf makes of an object's resource the event of its creation: the resource is what such an event carries, so it is
// decoded by who decodes events. https://cloud.google.com/storage/docs/json_api/v1/objects#resource
func objectOf(bucket string, item json.RawMessage) object {
	o := object{bucket: bucket}
	var about struct {
		Name           string      `json:"name"`
		Metageneration json.Number `json:"metageneration"`
		Generation     json.Number `json:"generation"`
		TimeCreated    string      `json:"timeCreated"`
		TimeDeleted    string      `json:"timeDeleted"`
	}
	if err := json.Unmarshal(item, &about); err != nil {
		o.err = fmt.Errorf("the list of gs://%s has something that is no object: %w", bucket, err)
		return o
	}
	o.name = about.Name
	o.changed = about.Metageneration != "1"
	if about.TimeDeleted != "" { // it was superseded since: its creation knew nothing of that
		o.changed = true
		var fields map[string]json.RawMessage
		if o.err = json.Unmarshal(item, &fields); o.err != nil {
			return o
		}
		delete(fields, "timeDeleted")
		if item, o.err = json.Marshal(fields); o.err != nil {
			return o
		}
	}
	// Two objects never share a name and a generation, so neither do their events share the ID.
	sum := sha256.Sum256([]byte(about.Name + "#" + string(about.Generation)))
	o.letter = deadletters.Letter{
		EntryPoint: "StorageTrigger", Body: item,
		Header: http.Header{
			"Ce-Specversion": {"1.0"}, "Ce-Id": {"reconciled-" + hex.EncodeToString(sum[:16])}, "Ce-Type": {events.TypeStorageFinalized},
			"Ce-Source": {"//storage.googleapis.com/projects/_/buckets/" + bucket}, "Ce-Bucket": {bucket},
			"Content-Type": {"application/json"},
		},
	}
	if about.TimeCreated != "" {
		o.letter.Header.Set("Ce-Time", about.TimeCreated)
	}
	o.event, o.err = events.DecodeBytes(o.letter.Header, o.letter.Body, "")
	return o
}

// get reads an answer of Cloud Storage. What it could not serve is asked for again.
func (b *Buckets) get(ctx context.Context, path string, into any) error {
	pause := b.pause
	for try := 1; ; try++ {
		after, err := b.getOnce(ctx, path, into)
		if err == nil || after < 0 || try == bucketTries {
			return err
		}
		// Half of it by chance, so that callers that failed together do not come back together.
		wait := max(after, pause/2+rand.N(pause/2+1))
		select {
		case <-ctx.Done():
			return errors.Join(err, ctx.Err())
		case <-time.After(wait):
		}
		pause = min(2*pause, 32*b.pause)
	}
}

// getOnce says besides how long to wait at least before another try can help; below zero: none can.
func (b *Buckets) getOnce(caller context.Context, path string, into any) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(caller, bucketTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.base+path, nil)
	if err != nil {
		return -1, err
	}
	answer, err := b.client.Do(request)
	if err != nil {
		if caller.Err() != nil {
			return -1, err
		}
		return 0, err
	}
	defer func() { _ = answer.Body.Close() }() // only read from
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxObjects+1))
	switch {
	case err != nil && caller.Err() != nil:
		return -1, err
	case err != nil:
		return 0, fmt.Errorf("read the answer: %w", err)
	case len(body) > maxObjects:
		return -1, fmt.Errorf("the answer has more than %d bytes", maxObjects)
	case answer.StatusCode == http.StatusOK:
		if err := json.Unmarshal(body, into); err != nil {
			return -1, fmt.Errorf("the answer is not Cloud Storage's: %w", err)
		}
		return -1, nil
	}
	return b.refused(answer, body)
}

// refused reads an answer that is none.
func (b *Buckets) refused(answer *http.Response, body []byte) (time.Duration, error) {
	text := clip(body)
	var said struct {
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(body, &said) == nil && said.Error.Message != "" {
		text = said.Error.Message
	}
	err := fmt.Errorf("the answer of Cloud Storage is %s: %s", answer.Status, text)
	switch code := answer.StatusCode; {
	case code == http.StatusTooManyRequests, code == http.StatusRequestTimeout, code >= 500:
		seconds, _ := strconv.Atoi(answer.Header.Get("Retry-After")) // a date or nothing: the own pause will do
		return min(max(time.Duration(seconds)*time.Second, 0), time.Minute), err
	case code == http.StatusNotFound && !strings.Contains(strings.ToLower(text), "bucket does not exist"):
		return -1, fmt.Errorf("%w: %w", errNoObject, err)
	case code == http.StatusNotFound:
		return -1, fmt.Errorf("%w; is the bucket's name right?", err)
	case code == http.StatusForbidden, code == http.StatusUnauthorized:
		return -1, fmt.Errorf("%w; you need roles/storage.objectViewer on the bucket", err)
	}
	return -1, err
}
