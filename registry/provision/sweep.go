package provision

import (
	"context"
	"time"

	"github.com/weir-iot/weir/registry"
)

// sweepEvery is how often Run looks for what has ended.
const sweepEvery = 5 * time.Second

// Run deletes certificates whose hour has passed without an activation, and
// temporary claims that have ended, until ctx ends. The first round is at once:
// Weir may have been down at their time.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := s.Sweep(ctx); err != nil && ctx.Err() == nil {
			s.o.Logger.Warn("deleting what was not activated in time", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// Sweep deletes what has ended by now.
func (s *Service) Sweep(ctx context.Context) error {
	for {
		now := s.now()
		lapsed := s.o.Registry.LapsedClaims(now, 100)
		if len(lapsed) == 0 {
			break
		}
		err := s.o.Registry.Change(ctx, "provision.Sweep", func(tx *registry.Tx) error {
			for _, l := range lapsed {
				c, err := tx.Certificate(l.ID)
				if err != nil || c.Claim == nil || c.Claim.Expires.After(now) {
					continue // gone or activated meanwhile
				}
				err = tx.DeleteCertificate(c.ID, false)
				if registry.CodeOf(err) == registry.DeleteConflict {
					// Its owner has attached it to something: it stays, as it is.
					// Source: AWS IoT Core developer guide, "Device provisioning MQTT API".
					_, err = tx.SetClaim(c.ID, nil)
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		s.o.Logger.Info("certificates that were not activated in time are deleted", "count", len(lapsed))
	}
	for {
		n, err := s.o.Registry.EndProvisioningClaims(ctx, s.now())
		if err != nil || n == 0 {
			return err
		}
	}
}
