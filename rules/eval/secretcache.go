package eval

import (
	"context"
	"sync"
	"time"
)

const (
	secretAge  = 15 * time.Minute
	maxSecrets = 1000
)

// CacheSecrets returns a SecretReader that asks r for a secret at most every 15
// minutes, as AWS IoT does; now is the clock. Failures are not kept. At most
// 1,000 secrets are.
func CacheSecrets(r SecretReader, now func() time.Time) SecretReader {
	return &secretCache{r: r, now: now, known: make(map[secretKey]secret)}
}

type secretCache struct {
	r   SecretReader
	now func() time.Time

	mu    sync.Mutex
	known map[secretKey]secret // guarded by mu
}

type secretKey struct {
	id     string
	binary bool
	role   string
}

type secret struct {
	data []byte
	read time.Time
}

func (s *secretCache) Secret(ctx context.Context, id string, binary bool, role string) ([]byte, error) {
	key := secretKey{id, binary, role}
	at := s.now()
	s.mu.Lock()
	k, ok := s.known[key]
	s.mu.Unlock()
	if ok && at.Sub(k.read) < secretAge {
		return k.data, nil
	}
	data, err := s.r.Secret(ctx, id, binary, role)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxSecrets {
		for k, v := range s.known {
			if at.Sub(v.read) >= secretAge {
				delete(s.known, k)
			}
		}
		if len(s.known) >= maxSecrets {
			clear(s.known)
		}
	}
	s.known[key] = secret{data, at}
	return data, nil
}
