package lookup

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ec2rolecreds"
)

// metadataTime is how long the metadata service of EC2 may take.
const metadataTime = 2 * time.Second

// hasCredentials reports whether the environment names credentials for AWS,
// whether or not they work now: what rules may ask for must not change with an
// expired log-in. Credentials that cfg's owner made up are in none of its
// sources and do not count. An EC2 machine has its own without naming them: it
// is asked.
func hasCredentials(ctx context.Context, cfg aws.Config) bool {
	for _, source := range cfg.ConfigSources {
		switch s := source.(type) {
		case config.EnvConfig:
			if s.Credentials.HasKeys() || s.WebIdentityTokenFilePath != "" || s.ContainerCredentialsEndpoint != "" || s.ContainerCredentialsRelativePath != "" {
				return true
			}
		case config.SharedConfig:
			if s.Credentials.HasKeys() || s.Source != nil || s.CredentialSource != "" || s.CredentialProcess != "" || s.WebIdentityTokenFile != "" ||
				s.SSOSessionName != "" || s.SSOStartURL != "" || s.LoginSession != "" {
				return true
			}
		}
	}
	if cfg.Credentials == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, metadataTime)
	defer cancel()
	c, err := cfg.Credentials.Retrieve(ctx)
	return err == nil && c.HasKeys() && c.Source == ec2rolecreds.ProviderName
}

// ownEndpoint returns the endpoint of a service that a source of cfg's owner
// gives. The SDK asks such a source last, and not at all where AWS_ENDPOINT_URL
// is set to nothing. nil: there is none.
func ownEndpoint(ctx context.Context, cfg aws.Config, service string) *string {
	for _, source := range cfg.ConfigSources {
		switch source.(type) {
		case config.EnvConfig, config.SharedConfig:
			continue // the SDK's own, with rules of their own
		}
		s, ok := source.(interface {
			GetServiceBaseEndpoint(ctx context.Context, service string) (url string, found bool, err error)
		})
		if !ok {
			continue
		}
		if url, found, err := s.GetServiceBaseEndpoint(ctx, service); err == nil && found {
			return &url
		}
	}
	return nil
}

// marked marks a failure to get credentials.
type marked struct{ aws.CredentialsProvider }

// credentialsError keeps its cause out of its text: that may show what a
// credential process wrote.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "no AWS credentials" }
func (e *credentialsError) Unwrap() error { return e.err }

// Retrieve implements aws.CredentialsProvider.
func (m marked) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := m.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, &credentialsError{err}
	}
	return c, nil
}
