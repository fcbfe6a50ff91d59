package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// CloudAPI is where Temporal Cloud's API answers.
//
// Source: https://docs.temporal.io/ops
const CloudAPI = "https://saas-api.tmprl.cloud"

const (
	cloudVersion = "v0.25.0" // of the API that requests are written for
	cloudTimeout = 30 * time.Second
	maxAnswer    = 4 << 20 // bytes of an answer
	maxToken     = 16 << 10
	pageSize     = "100"
	pollEvery    = 2 * time.Second // of an operation, where the API recommends nothing
	pollMax      = 30 * time.Second
)

// ErrRefused is the error of a call with a key that Temporal Cloud does not accept: deleted, disabled, expired, or not yet
// known everywhere.
var ErrRefused = errors.New("the key is not accepted")

// Cloud is the part of Temporal Cloud's API that API keys need. It never repeats a call.
//
// Source: https://github.com/temporalio/cloud-api, temporal/api/cloud/cloudservice/v1, by its HTTP mapping
type Cloud struct {
	base   *url.URL
	client *http.Client
	key    func() (string, error)
	clock  clock
}

// NewCloud makes a client of the API at base, which is CloudAPI but for tests. key gives the key that calls are made with; it
// is asked for each call, so that it may change.
func NewCloud(base string, key func() (string, error)) (*Cloud, error) {
	u, err := url.Parse(strings.TrimSuffix(base, "/"))
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("the address of Temporal Cloud's API is %q; it must be a URL such as %s", base, CloudAPI)
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "https" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("the address of Temporal Cloud's API is %q; keys are sent by https only", base)
	}
	return &Cloud{
		base: u,
		client: &http.Client{
			Timeout: cloudTimeout,
			// A redirect would take the key elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		key:   key,
		clock: clock{now: time.Now, sleep: sleep},
	}, nil
}

// KeyFile reads a key from a file for NewCloud, each time anew: a mounted secret.
func KeyFile(path string) func() (string, error) {
	return func() (string, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("read the rotator's own key: %w; mount its secret there", err)
		}
		key := strings.TrimSpace(string(text))
		if !validToken(key) {
			return "", fmt.Errorf("the file %s holds no API key: it must hold one line, the key itself", path)
		}
		return key, nil
	}
}

// with is the same API called with another key.
func (c *Cloud) with(key string) *Cloud {
	other := *c
	other.key = func() (string, error) { return key, nil }
	return &other
}

// Key is an API key as the API tells of it, which is never the token.
type Key struct {
	ID              string
	Name            string // display name
	Owner           string // ID of the service account or user
	State           string // RESOURCE_STATE_…
	ResourceVersion string
	Created         time.Time
	Expires         time.Time
}

// gone says that a key counts no more.
func (k Key) gone() bool {
	return k.State == "RESOURCE_STATE_DELETED" || k.State == "RESOURCE_STATE_DELETING"
}

// apiKey is temporal.api.cloud.identity.v1.ApiKey.
type apiKey struct {
	ID              string     `json:"id"`
	ResourceVersion string     `json:"resourceVersion"`
	State           string     `json:"state"`
	CreatedTime     time.Time  `json:"createdTime"`
	Spec            apiKeySpec `json:"spec"`
}

// apiKeySpec is temporal.api.cloud.identity.v1.ApiKeySpec.
type apiKeySpec struct {
	OwnerID     string    `json:"ownerId"`
	OwnerType   string    `json:"ownerType"`
	DisplayName string    `json:"displayName"`
	Description string    `json:"description,omitempty"`
	ExpiryTime  time.Time `json:"expiryTime"`
}

const serviceAccount = "OWNER_TYPE_SERVICE_ACCOUNT"

func (k *apiKey) key() Key {
	return Key{ID: k.ID, Name: k.Spec.DisplayName, Owner: k.Spec.OwnerID, State: k.State, ResourceVersion: k.ResourceVersion, Created: k.CreatedTime, Expires: k.Spec.ExpiryTime}
}

// operation is temporal.api.cloud.operation.v1.AsyncOperation.
type operation struct {
	ID            string `json:"id"`
	State         string `json:"state"`
	CheckDuration string `json:"checkDuration"`
	FailureReason string `json:"failureReason"`
}

// Identify says which key a token is, by asking with it. The error is ErrRefused for a token that is not accepted.
func (c *Cloud) Identify(ctx context.Context, token string) (Key, error) {
	var answer struct {
		PrincipalAPIKey apiKey `json:"principalApiKey"`
	}
	if err := c.with(token).call(ctx, http.MethodGet, "/cloud/current-identity", nil, nil, &answer); err != nil {
		return Key{}, fmt.Errorf("ask Temporal Cloud whose key it is: %w", err)
	}
	return answer.PrincipalAPIKey.key(), nil
}

// keys lists the keys of a service account.
func (c *Cloud) keys(ctx context.Context, owner string) ([]Key, error) {
	var all []Key
	for token := ""; ; {
		var page struct {
			APIKeys       []apiKey `json:"apiKeys"`
			NextPageToken string   `json:"nextPageToken"`
		}
		query := url.Values{"pageSize": {pageSize}, "ownerId": {owner}, "ownerType": {serviceAccount}}
		if token != "" {
			query.Set("pageToken", token)
		}
		if err := c.call(ctx, http.MethodGet, "/cloud/api-keys", query, nil, &page); err != nil {
			return nil, fmt.Errorf("list the API keys of the service account %s: %w", owner, err)
		}
		for i := range page.APIKeys {
			// Were a filter not heeded, another's key would look like one that nobody holds.
			if page.APIKeys[i].Spec.OwnerID == owner {
				all = append(all, page.APIKeys[i].key())
			}
		}
		if page.NextPageToken == "" || page.NextPageToken == token {
			return all, nil
		}
		token = page.NextPageToken
	}
}

// spec says what key is to be made.
type spec struct {
	owner       string
	name        string
	description string
	expires     time.Time
	operation   string
}

// made is a new key, with its token.
type made struct {
	id, token string
}

// create makes a key and waits until it is made.
func (c *Cloud) create(ctx context.Context, s spec) (made, error) {
	request := struct {
		Spec             apiKeySpec `json:"spec"`
		AsyncOperationID string     `json:"asyncOperationId"`
	}{
		Spec: apiKeySpec{
			OwnerID: s.owner, OwnerType: serviceAccount, DisplayName: s.name, Description: s.description,
			ExpiryTime: s.expires.UTC().Truncate(time.Second),
		},
		AsyncOperationID: s.operation,
	}
	var answer struct {
		KeyID          string    `json:"keyId"`
		Token          string    `json:"token"`
		AsyncOperation operation `json:"asyncOperation"`
	}
	if err := c.call(ctx, http.MethodPost, "/cloud/api-keys", nil, request, &answer); err != nil {
		return made{}, fmt.Errorf("make an API key for the service account %s: %w", s.owner, err)
	}
	if answer.KeyID == "" || !validToken(answer.Token) {
		return made{}, fmt.Errorf("make an API key for the service account %s: the operation %s gave the key %q and no token: another pass makes or made it; a later one makes the next", s.owner, s.operation, answer.KeyID)
	}
	if err := c.await(ctx, answer.AsyncOperation); err != nil {
		return made{}, fmt.Errorf("make the API key %s: %w", answer.KeyID, err)
	}
	return made{id: answer.KeyID, token: answer.Token}, nil
}

// delete deletes a key as it was listed and waits until it is deleted. A key that is not there is deleted.
func (c *Cloud) delete(ctx context.Context, key Key) error {
	var answer struct {
		AsyncOperation operation `json:"asyncOperation"`
	}
	err := c.call(ctx, http.MethodDelete, "/cloud/api-keys/"+url.PathEscape(key.ID), url.Values{"resourceVersion": {key.ResourceVersion}}, nil, &answer)
	if e := (*CloudError)(nil); errors.As(err, &e) && e.Code == http.StatusNotFound {
		return nil
	}
	if err == nil {
		err = c.await(ctx, answer.AsyncOperation)
	}
	if err != nil {
		return fmt.Errorf("delete the API key %s: %w", key.ID, err)
	}
	return nil
}

// await waits for the end of an operation.
func (c *Cloud) await(ctx context.Context, op operation) error {
	for {
		switch op.State {
		case "STATE_FULFILLED":
			return nil
		case "STATE_FAILED", "STATE_CANCELLED", "STATE_REJECTED":
			return fmt.Errorf("the operation %s ended as %s: %s", op.ID, op.State, op.FailureReason)
		}
		if op.ID == "" {
			return errors.New("the answer names no operation to wait for")
		}
		wait, err := time.ParseDuration(op.CheckDuration)
		if err != nil || wait <= 0 {
			wait = pollEvery
		}
		if err := c.clock.sleep(ctx, min(wait, pollMax)); err != nil {
			return fmt.Errorf("wait for the operation %s, which is %s: %w", op.ID, op.State, err)
		}
		var answer struct {
			AsyncOperation operation `json:"asyncOperation"`
		}
		if err := c.call(ctx, http.MethodGet, "/cloud/operations/"+url.PathEscape(op.ID), nil, nil, &answer); err != nil {
			return fmt.Errorf("wait for the operation %s: %w", op.ID, err)
		}
		answer.AsyncOperation.ID = op.ID
		op = answer.AsyncOperation
	}
}

// CloudError is an error answer of Temporal Cloud's API.
type CloudError struct {
	Code    int    // HTTP status
	Message string // the API's, without keys
}

func (e *CloudError) Error() string {
	return strings.TrimSuffix(fmt.Sprintf("Temporal Cloud answered %d: %s", e.Code, e.Message), ": ")
}

// Is makes a refused key ErrRefused.
func (e *CloudError) Is(target error) bool {
	return target == ErrRefused && e.Code == http.StatusUnauthorized
}

func (c *Cloud) call(ctx context.Context, method, path string, query url.Values, body, into any) error {
	key, err := c.key()
	if err != nil {
		return err
	}
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("write the request: %w", err)
		}
		reader = bytes.NewReader(text)
	}
	u := *c.base
	u.Path += path
	u.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, method, u.String(), reader)
	if err != nil {
		return fmt.Errorf("write the request: %w", err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("temporal-cloud-api-version", cloudVersion)
	request.Header.Set("User-Agent", "penstock")
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := c.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	if response.StatusCode != http.StatusOK {
		return refusal(response.StatusCode, text, key)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return errors.New("the answer is not the JSON that the API promises") // the decoder's error could quote a token
	}
	return nil
}

// refusal reads a google.rpc.Status. What else an error answer holds, such as a proxy's page, is not repeated.
func refusal(code int, body []byte, key string) error {
	e := &CloudError{Code: code}
	var status struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &status) == nil {
		e.Message = strings.ReplaceAll(status.Message, key, "[key]")
		if len(e.Message) > 500 {
			e.Message = e.Message[:500] + "…"
		}
	}
	return e
}

func validToken(key string) bool {
	return key != "" && len(key) <= maxToken && !strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' })
}
