package server

import (
	"context"

	"github.com/weir-iot/weir/internal/kv"
	"github.com/weir-iot/weir/rules"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// The rooms declare what they need of one another; here they get it.

// destinationStore keeps HTTP destinations in a bucket.
type destinationStore struct{ *kv.Bucket }

func (s destinationStore) Scan(ctx context.Context, fn func(id string, value []byte, revision uint64) error) error {
	return s.Bucket.Scan(ctx, "", func(e kv.Entry) error { return fn(e.Key, e.Value, e.Revision) })
}

// warnings returns what the language accepts in r's statement but cannot mean.
func warnings(l rules.SQL, r *rules.Rule) []sql.Error {
	stmt, err := sql.Parse(r.SQL)
	if err != nil {
		return nil // reported by the check
	}
	_, w, _ := eval.Compile(stmt, eval.Options{Version: r.SQLVersion, RuleName: r.Name, AccountID: l.AccountID, Lookups: l.Lookups})
	return w
}
