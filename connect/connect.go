// Package connect makes Temporal clients from Temporal's standard environment:
// TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS…, or a
// configuration file with the same. Credentials that lie in files are read again
// while the client lives, so that they can be rotated without a restart.
//
// Source: https://docs.temporal.io/develop/environment-configuration
package connect

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/log"
)

// EnvAPIKeyFile names a file that holds the Temporal API key and nothing else, such as
// a mounted secret. It goes before TEMPORAL_API_KEY.
const EnvAPIKeyFile = "PENSTOCK_TEMPORAL_API_KEY_FILE"

// Options are the client options that the environment describes, with the name of
// the address and namespace filled in where it leaves them to defaults. identity
// names this process in histories; a nil logger is slog's default.
func Options(identity string, logger *slog.Logger) (client.Options, error) {
	return OptionsFrom(envconfig.EnvLookupOS, identity, logger)
}

// OptionsFrom is Options with another environment than the process's.
func OptionsFrom(env envconfig.EnvLookup, identity string, logger *slog.Logger) (client.Options, error) {
	return OptionsAt(env, identity, logger, time.Now)
}

// OptionsAt is OptionsFrom by another clock than the machine's, which decides when a credential is read again: for
// whoever has to see what happens when it is.
func OptionsAt(env envconfig.EnvLookup, identity string, logger *slog.Logger, now func() time.Time) (client.Options, error) {
	if logger == nil {
		logger = slog.Default()
	}
	profile, err := load(env)
	if err != nil {
		return client.Options{}, err
	}
	options, err := profile.ToClientOptions(envconfig.ToClientOptionsRequest{})
	if err != nil {
		return client.Options{}, fmt.Errorf("read Temporal's configuration from the environment: %w", err)
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
		key := &apiKey{env: env, log: logger, now: now, value: profile.APIKey, read: now()}
		options.Credentials = client.NewAPIKeyDynamicCredentials(key.get)
	}
	if conf := options.ConnectionOptions.TLS; conf != nil && profile.TLS != nil && profile.TLS.ClientCertPath != "" {
		certificate := &certificate{certPath: profile.TLS.ClientCertPath, keyPath: profile.TLS.ClientKeyPath, log: logger, last: conf.Certificates[0]}
		conf.Certificates, conf.GetClientCertificate = nil, certificate.get
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
	if path, _ := env.LookupEnv(EnvAPIKeyFile); path != "" {
		if profile.APIKey, err = readKey(path); err != nil {
			return envconfig.ClientConfigProfile{}, err
		}
	}
	return profile, nil
}
