package connect

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"go.temporal.io/sdk/contrib/envconfig"
)

// apiKeyAge is how long an API key that was read is used before it is read again: so
// soon a rotated one is in force. Where the file is a secret that Cloud Run mounts, each
// read asks Secret Manager.
const apiKeyAge = time.Minute

// maxKey bounds an API key in bytes; Temporal Cloud's are JSON web tokens of less than 1 KiB.
const maxKey = 16 << 10

// apiKey is the key that goes with each request to Temporal.
type apiKey struct {
	env envconfig.EnvLookup
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	value string
	read  time.Time
}

func (k *apiKey) get(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if now := k.now(); now.Sub(k.read) > apiKeyAge {
		k.read = now
		// A file that is being replaced may be unreadable for a moment: the key in hand goes on.
		switch p, err := load(k.env); {
		case err != nil:
			k.log.Warn("the Temporal API key cannot be read again; the one in hand goes on", "error", err)
		case p.APIKey != "" && p.APIKey != k.value:
			k.log.Info("the Temporal API key has changed")
			k.value = p.APIKey
		}
	}
	return k.value, nil
}

// readKey reads a file that holds a key. Its error tells nothing of what it holds.
func readKey(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read the Temporal API key (%s): %w; mount the secret there, or correct the path", EnvAPIKeyFile, err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxKey+1))
	if err != nil {
		return "", fmt.Errorf("read the Temporal API key (%s): %w", EnvAPIKeyFile, err)
	}
	key := strings.TrimSpace(string(text))
	if key == "" || len(text) > maxKey || strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", fmt.Errorf("the file %s (%s) holds no Temporal API key: it must hold one line, the key itself", path, EnvAPIKeyFile)
	}
	return key, nil
}

// certificate is the client's for mTLS, read again for each connection.
type certificate struct {
	certPath, keyPath string
	log               *slog.Logger

	mu   sync.Mutex
	last tls.Certificate // the last that could be read
}

func (c *certificate) get(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	// The two files are not replaced as one: a pair that does not fit is not used.
	pair, err := tls.LoadX509KeyPair(c.certPath, c.keyPath)
	if err != nil {
		c.log.Warn("the client certificate for Temporal cannot be read again; the one in hand goes on", "error", err)
		pair = c.last
	}
	c.last = pair
	return &pair, nil
}
