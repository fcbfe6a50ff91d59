package rotation

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/api/googleapi"
	"google.golang.org/api/option"
	"google.golang.org/api/secretmanager/v1"
)

// enabled is the state of a version that can be read.
const enabled = "ENABLED"

// vaultTimeout bounds one call of Secret Manager.
const vaultTimeout = 30 * time.Second

// Vault is Secret Manager.
//
// Source: https://cloud.google.com/secret-manager/docs/reference/rest
type Vault struct {
	api *secretmanager.Service
}

// NewVault makes a client with the environment's credentials, unless options say otherwise.
func NewVault(ctx context.Context, options ...option.ClientOption) (*Vault, error) {
	api, err := secretmanager.NewService(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("make the client of Secret Manager: %w", err)
	}
	return &Vault{api: api}, nil
}

// errNoKey is the error of a version that holds something else than a key.
var errNoKey = errors.New("it holds no API key")

// Version is one version of a secret, without its contents.
type Version struct {
	Name    string // projects/P/secrets/S/versions/N
	Number  int    // counts from 1; the highest is `latest`, whatever its state
	State   string // ENABLED, DISABLED, DESTROYED
	Created time.Time
	Etag    string
}

// versions lists all versions of a secret, the newest first.
func (v *Vault) versions(ctx context.Context, secret string) ([]Version, error) {
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	var all []Version
	err := v.api.Projects.Secrets.Versions.List(secret).PageSize(1000).Pages(ctx, func(page *secretmanager.ListSecretVersionsResponse) error {
		for _, raw := range page.Versions {
			version, err := read(raw)
			if err != nil {
				return err
			}
			all = append(all, version)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the versions of %s: %w", secret, hint(err, "secretmanager.versions.list"))
	}
	slices.SortFunc(all, func(a, b Version) int { return cmp.Compare(b.Number, a.Number) })
	return all, nil
}

// read gives what a version holds.
func (v *Vault) read(ctx context.Context, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	got, err := v.api.Projects.Secrets.Versions.Access(version).Context(ctx).Do()
	if err != nil {
		return "", fmt.Errorf("read %s: %w", version, hint(err, "secretmanager.versions.access"))
	}
	if got.Payload == nil {
		return "", fmt.Errorf("read %s: the answer has no payload", version)
	}
	data, err := base64.StdEncoding.DecodeString(got.Payload.Data)
	if err != nil {
		return "", fmt.Errorf("read %s: its payload is not base64", version) // the decoder's error tells where, which is part of it
	}
	if got.Payload.DataCrc32c != 0 && got.Payload.DataCrc32c != checksum(data) {
		return "", fmt.Errorf("read %s: the payload does not have its checksum; it was changed on the way", version)
	}
	key := strings.TrimSpace(string(data)) // as readers do
	if !validToken(key) {
		return "", fmt.Errorf("read %s: %w: a version must be one line, the key itself", version, errNoKey)
	}
	return key, nil
}

// add makes a key the newest version. An error leaves open whether it did.
func (v *Vault) add(ctx context.Context, secret, key string) (Version, error) {
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	raw, err := v.api.Projects.Secrets.AddVersion(secret, &secretmanager.AddSecretVersionRequest{Payload: &secretmanager.SecretPayload{
		Data:       base64.StdEncoding.EncodeToString([]byte(key)),
		DataCrc32c: checksum([]byte(key)),
	}}).Context(ctx).Do()
	if err != nil {
		return Version{}, fmt.Errorf("add a version to %s: %w", secret, hint(err, "secretmanager.versions.add"))
	}
	return read(raw)
}

// disable disables a version, if it is still as it was read.
func (v *Vault) disable(ctx context.Context, version Version) error {
	ctx, cancel := context.WithTimeout(ctx, vaultTimeout)
	defer cancel()
	_, err := v.api.Projects.Secrets.Versions.Disable(version.Name, &secretmanager.DisableSecretVersionRequest{Etag: version.Etag}).Context(ctx).Do()
	if err != nil {
		return fmt.Errorf("disable %s: %w", version.Name, hint(err, "secretmanager.versions.disable"))
	}
	return nil
}

func read(raw *secretmanager.SecretVersion) (Version, error) {
	number, err := strconv.Atoi(raw.Name[strings.LastIndexByte(raw.Name, '/')+1:])
	if err != nil {
		return Version{}, fmt.Errorf("%q is not the name of a secret's version", raw.Name)
	}
	created, err := time.Parse(time.RFC3339Nano, raw.CreateTime)
	if err != nil {
		return Version{}, fmt.Errorf("%s says that it was created at %q, which is no time", raw.Name, raw.CreateTime)
	}
	return Version{Name: raw.Name, Number: number, State: raw.State, Created: created, Etag: raw.Etag}, nil
}

func checksum(data []byte) int64 {
	return int64(crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli)))
}

// hint says what a refused call lacks.
func hint(err error, permission string) error {
	if e := (*googleapi.Error)(nil); errors.As(err, &e) && e.Code == http.StatusForbidden {
		return fmt.Errorf("%w; grant the rotator's account %s on this secret", err, permission)
	}
	return err
}
