package azure

import (
	"encoding/base64"
	"strconv"

	"github.com/weir-iot/weir/internal/errs"
)

// Bounds of a query's page.
const (
	defaultPage = 100
	maxPage     = 100
)

// query answers POST /devices/query, a page at a time. The continuation is the
// name of the last device of the page before: devices come in the order of their
// names, and one that is made meanwhile is in its place or has been passed.
func (a *request) query() error {
	const op = "azure.Query"
	var body struct {
		Query string `json:"query"`
	}
	if err := a.decode(&body); err != nil {
		return err
	}
	q, err := ParseQuery(body.Query)
	if err != nil {
		return errs.E(op, errs.Invalid, err)
	}
	size := defaultPage
	if v := a.r.Header.Get("x-ms-max-item-count"); v != "" {
		if size, err = strconv.Atoi(v); err != nil || size < 1 {
			return errs.Errorf(op, errs.Invalid, "x-ms-max-item-count is 1 to %d", maxPage)
		}
		size = min(size, maxPage)
	}
	after, sent := "", 0
	if v := a.r.Header.Get("x-ms-continuation"); v != "" {
		b, err := base64.RawURLEncoding.DecodeString(v)
		if err != nil || len(b) < 3 {
			return errs.Errorf(op, errs.Invalid, "the continuation is not one of Weir's")
		}
		n, name, ok := cutNumber(string(b))
		if !ok {
			return errs.Errorf(op, errs.Invalid, "the continuation is not one of Weir's")
		}
		sent, after = n, name
	}
	list := a.h.ids.behind(after, q.Modules)
	page, last, more := []any{}, "", false
	var groups *groups
	if q.Grouped() {
		groups = q.newGroups()
	}
	var where map[string]whereabouts
	for n, i := range list {
		if groups == nil && (len(page) == size || q.Top > 0 && sent+len(page) == q.Top) {
			more = q.Top == 0 || sent+len(page) < q.Top
			break
		}
		if n%hubsNames == 0 {
			where = a.h.connections(a.r.Context(), list[n:min(n+hubsNames, len(list))])
		}
		t, err := a.h.read(a.r.Context(), i.Device, i.Module)
		if err != nil {
			return err
		}
		doc := plain(t.document(i, where[i.name()]))
		if !q.Matches(doc) {
			continue
		}
		if groups != nil {
			groups.add(doc)
			continue
		}
		page, last = append(page, q.Project(doc)), i.name()
	}
	if groups != nil {
		page = groups.rows()
		if q.Top > 0 && len(page) > q.Top {
			page = page[:q.Top]
		}
	}
	kind := "Raw"
	if len(q.Columns) == 0 {
		kind = "Twin"
	}
	a.w.Header().Set("x-ms-item-type", kind)
	if more {
		a.w.Header().Set("x-ms-continuation", base64.RawURLEncoding.EncodeToString([]byte(strconv.Itoa(sent+len(page))+" "+last)))
	}
	a.json(200, page)
	return nil
}
