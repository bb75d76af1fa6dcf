package jet

import (
	"errors"

	"github.com/weir-iot/weir/internal/errs"
)

const codeSequenceNotFound = 10043

// Delete removes one message. One that is not there is no error. It is not for
// streams with PerSubject: a crash would bring the message back.
func (s *Store) Delete(name string, seq uint64) error {
	err := s.api("STREAM.MSG.DELETE."+name, map[string]uint64{"seq": seq}, nil)
	var ae *apiError
	if errors.As(err, &ae) && (ae.ErrCode == codeSequenceNotFound || ae.ErrCode == codeMessageNotFound || ae.Code == 404) {
		return nil
	}
	if err != nil {
		return errs.E("jet.Delete", errs.Unavailable, err)
	}
	return nil
}
