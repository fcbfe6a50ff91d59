package ledger

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/auth/credentials"
	"cloud.google.com/go/auth/httptransport"
	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/api/storage/v1"
)

const (
	storageScope = "https://www.googleapis.com/auth/devstorage.read_write"
	callTimeout  = 30 * time.Second
	maxAnswer    = 8 << 20 // bytes; a page of a list stays far below
	listPage     = 1000
)

// The form of a bucket's name, but for the rules about dots in it, which Cloud
// Storage checks itself: https://cloud.google.com/storage/docs/buckets#naming
var bucketRE = regexp.MustCompile(`^[a-z0-9][-_.a-z0-9]{1,220}[a-z0-9]$`)

// A prefix is an operator's word, so it may be plain.
var prefixRE = regexp.MustCompile(`^(?:[A-Za-z0-9_=-][A-Za-z0-9._=-]*/)*$`)

// bucket keeps objects in Cloud Storage, whose generations and preconditions are
// the store's: https://cloud.google.com/storage/docs/request-preconditions
type bucket struct {
	api    *storage.Service
	name   string
	prefix string // empty, or with a slash at its end
}

func openBucket(ctx context.Context, place string, getenv func(string) string) (*bucket, error) {
	name, prefix, _ := strings.Cut(strings.TrimPrefix(place, "gs://"), "/")
	if prefix = strings.TrimSuffix(prefix, "/"); prefix != "" {
		prefix += "/"
	}
	if !bucketRE.MatchString(name) {
		return nil, fmt.Errorf("%q is no name of a bucket", clip(name))
	}
	if !prefixRE.MatchString(prefix) || len(prefix) > 500 {
		return nil, fmt.Errorf("the prefix %q has other parts than letters, digits and ._=- (no part begins with a dot)", clip(prefix))
	}
	client := &http.Client{
		// A redirect that is followed turns a write into a read, or sends it elsewhere.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport:     bounded{network()},
	}
	options := []option.ClientOption{option.WithHTTPClient(client)}
	if host := getenv("STORAGE_EMULATOR_HOST"); host != "" {
		base, err := emulator(host)
		if err != nil {
			return nil, err
		}
		options = append(options, option.WithEndpoint(base+"/storage/v1/"))
	} else {
		authenticated, err := httptransport.NewClient(&httptransport.Options{
			BaseRoundTripper: client.Transport,
			DetectOpts:       &credentials.DetectOptions{Scopes: []string{storageScope}},
			DisableTelemetry: true,
		})
		if err != nil {
			return nil, fmt.Errorf("find Google credentials: %w; run gcloud auth application-default login, or set STORAGE_EMULATOR_HOST to a local emulator", err)
		}
		client.Transport = authenticated.Transport
	}
	api, err := storage.NewService(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("make the Cloud Storage client: %w", err)
	}
	return &bucket{api: api, name: name, prefix: prefix}, nil
}

// emulator is the base URL that STORAGE_EMULATOR_HOST means.
func emulator(host string) (string, error) {
	if !strings.Contains(host, "://") {
		host = "http://" + host
	}
	u, err := url.Parse(host)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil {
		return "", fmt.Errorf("STORAGE_EMULATOR_HOST is %q; set it to host:port or http://host:port", clip(host))
	}
	return u.Scheme + "://" + u.Host, nil
}

func network() http.RoundTripper {
	t, ok := http.DefaultTransport.(*http.Transport)
	if !ok {
		return http.DefaultTransport
	}
	t = t.Clone()
	t.MaxIdleConnsPerHost = listReaders // one host is all there is
	return t
}

// bounded bounds what is read of an answer, of a refusal too.
type bounded struct{ base http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.base.RoundTrip(req)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxAnswer)
	}
	return res, err
}

func (b *bucket) close() error { return nil }

func (b *bucket) url(name string) string { return "gs://" + b.name + "/" + b.prefix + name }

func (b *bucket) read(ctx context.Context, name string) ([]byte, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res, err := b.api.Objects.Get(b.name, b.prefix+name).Context(ctx).Download()
	if err != nil {
		return nil, 0, b.failed("read", name, err)
	}
	defer res.Body.Close()
	// What a read answers with belongs to this generation, whatever is written meanwhile.
	generation, err := strconv.ParseInt(res.Header.Get("X-Goog-Generation"), 10, 64)
	if err != nil || generation <= 0 {
		return nil, 0, b.failed("read", name, fmt.Errorf("the answer's generation %q is none", clip(res.Header.Get("X-Goog-Generation"))))
	}
	data, err := io.ReadAll(io.LimitReader(res.Body, maxObject+1))
	if err == nil && len(data) > maxObject {
		err = errTooLarge
	}
	if err != nil {
		return nil, 0, b.failed("read", name, err)
	}
	return data, generation, nil
}

func (b *bucket) write(ctx context.Context, name string, data []byte, generation int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	object := &storage.Object{Name: b.prefix + name, ContentType: "application/json", CacheControl: "no-store"}
	made, err := b.api.Objects.Insert(b.name, object).
		IfGenerationMatch(generation).
		// One request: the chunk is larger than the content.
		Media(bytes.NewReader(data), googleapi.ContentType(object.ContentType), googleapi.ChunkSize(len(data)+1)).
		Fields("generation").Context(ctx).Do()
	if err != nil {
		return 0, b.failed("write", name, err)
	}
	if made == nil || made.Generation <= 0 {
		return 0, b.failed("write", name, errors.New("the answer has no generation"))
	}
	return made.Generation, nil
}

func (b *bucket) list(ctx context.Context, prefix string, page func([]listed) bool) error {
	token := ""
	for {
		answer, err := b.listPage(ctx, prefix, token)
		if err != nil {
			return err
		}
		objects := make([]listed, 0, len(answer.Items))
		for _, o := range answer.Items {
			name, ok := strings.CutPrefix(o.Name, b.prefix)
			written, err := time.Parse(time.RFC3339, o.TimeCreated)
			if !ok || err != nil {
				return b.failed("list", prefix, fmt.Errorf("the answer has an object %q of the time %q", clip(o.Name), clip(o.TimeCreated)))
			}
			objects = append(objects, listed{name: name, written: written})
		}
		if !page(objects) || answer.NextPageToken == "" {
			return nil
		}
		if answer.NextPageToken == token {
			return b.failed("list", prefix, errors.New("the next page is the same page"))
		}
		token = answer.NextPageToken
	}
}

func (b *bucket) listPage(ctx context.Context, prefix, token string) (*storage.Objects, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call := b.api.Objects.List(b.name).Prefix(b.prefix+prefix).MaxResults(listPage).Fields("items(name,timeCreated)", "nextPageToken").Context(ctx)
	if token != "" {
		call = call.PageToken(token)
	}
	answer, err := call.Do()
	if err == nil && answer == nil {
		err = errors.New("the answer is null")
	}
	if err != nil {
		return nil, b.failed("list", prefix, err)
	}
	return answer, nil
}

// failed describes an error, and tells those apart that are answers of a store.
func (b *bucket) failed(op, name string, err error) error {
	e := &Error{Op: op, Object: b.url(name), Err: err}
	var refused *googleapi.Error
	if !errors.As(err, &refused) {
		return e
	}
	e.Code = refused.Code
	// An answer's body may be a whole page of HTML.
	e.Err = fmt.Errorf("HTTP %d: %s", refused.Code, clip(strings.Join(strings.Fields(cmp.Or(refused.Message, refused.Body, http.StatusText(refused.Code))), " ")))
	switch {
	case refused.Code == http.StatusPreconditionFailed && op == "write":
		e.Err = errChanged
	case refused.Code == http.StatusNotFound && op == "read" && !missingBucket(refused):
		e.Err = ErrNotFound
	case refused.Code == http.StatusNotFound:
		e.Hint = "create the bucket, or correct its name"
	case refused.Code == http.StatusUnauthorized:
		e.Hint = "check the credentials"
	case refused.Code == http.StatusForbidden:
		e.Hint = "the service account needs roles/storage.objectUser on the bucket, and the bucket no retention policy or hold, which forbid that a claim is replaced"
	case refused.Code >= 300 && refused.Code < 400:
		e.Hint = "redirects are not followed; something other than Cloud Storage answers"
	case refused.Code == http.StatusTooManyRequests || refused.Code >= 500:
		e.Hint = "it should pass: try again"
	}
	return e
}

// missingBucket tells a missing bucket from a missing object, which share a status:
// without a bucket nothing is known of any key.
func missingBucket(refused *googleapi.Error) bool {
	return strings.Contains(strings.ToLower(refused.Message+refused.Body), "bucket does not exist")
}
