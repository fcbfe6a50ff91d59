// Package connect makes Temporal clients from Temporal's standard environment:
// TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS…, or a
// configuration file with the same.
//
// Source: https://docs.temporal.io/develop/environment-configuration
package connect

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
)

// Options are the client options that the environment describes, with the name of
// the address and namespace filled in where it leaves them to defaults. identity
// names this process in histories; a nil logger is slog's default.
func Options(identity string, logger *slog.Logger) (client.Options, error) {
	return OptionsFrom(envconfig.EnvLookupOS, identity, logger)
}

// OptionsFrom is Options with another environment than the process's.
func OptionsFrom(env envconfig.EnvLookup, identity string, logger *slog.Logger) (client.Options, error) {
	profile, err := load(env)
	if err != nil {
		return client.Options{}, err
	}
	options, err := profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		return client.Options{}, fmt.Errorf("read Temporal's configuration from the environment: %w", err)
	}
	if logger == nil {
		logger = slog.Default()
	}
	if options.HostPort == "" {
		options.HostPort = client.DefaultHostPort
	}
	if options.Namespace == "" {
		options.Namespace = client.DefaultNamespace
	}
	options.Identity = identity
	options.Logger = log.NewStructuredLogger(logger)
	if profile.APIKey != "" {
		key := &apiKey{env: env, value: profile.APIKey, read: time.Now()}
		options.Credentials = client.NewAPIKeyDynamicCredentials(key.get)
	}
	return options, nil
}

// Dial connects with options, and says in its error to where.
func Dial(ctx context.Context, options client.Options) (client.Client, error) {
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("connect to Temporal at %q, namespace %q: %w", options.HostPort, options.Namespace, err)
	}
	return c, nil
}

// Identity names this process in Temporal's histories: "penstock-worker/prod@host".
func Identity(part, deployment string) string {
	instance := os.Getenv("K_REVISION") // https://cloud.google.com/run/docs/container-contract#services-env-vars
	if instance == "" {
		instance, _ = os.Hostname()
	}
	return fmt.Sprintf("penstock-%s/%s@%s", part, deployment, instance)
}

func load(env envconfig.EnvLookup) (envconfig.ClientConfigProfile, error) {
	profile, err := envconfig.LoadClientConfigProfile(envconfig.LoadClientConfigProfileOptions{EnvLookup: env})
	if err != nil {
		return envconfig.ClientConfigProfile{}, fmt.Errorf("read Temporal's configuration from the environment: %w", err)
	}
	return profile, nil
}

// apiKeyAge is how long an API key that was read is used before it is read again: so
// soon a rotated one is in force.
const apiKeyAge = time.Minute

// apiKey reads the key anew now and then, so that one that lies in a mounted
// configuration file can be rotated without a restart.
type apiKey struct {
	env envconfig.EnvLookup

	mu    sync.Mutex
	value string
	read  time.Time
}

func (k *apiKey) get(context.Context) (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.read) > apiKeyAge {
		k.read = time.Now()
		// A file that is being replaced may be unreadable for a moment: the key in hand goes on.
		if p, err := load(k.env); err == nil && p.APIKey != "" {
			k.value = p.APIKey
		}
	}
	return k.value, nil
}
