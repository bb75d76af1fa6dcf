package mqtt

import (
	"slices"
	"strings"

	"github.com/weir-iot/weir/internal/topic"
)

// reach is what a reader of the log is shown: the events that match one of
// filters, or all of them.
type reach struct {
	all     bool
	filters []topic.Filter
}

// reachOf returns a reach that covers all of filters.
func reachOf(filters []topic.Filter) reach {
	if len(filters) == 0 {
		return reach{}
	}
	wide := filters[0]
	for _, f := range filters[1:] {
		if covers(wide, f) {
			continue
		}
		var ok bool
		if wide, ok = widen(wide, f); !ok {
			return reach{all: true}
		}
	}
	return reach{filters: []topic.Filter{wide}}
}

// follow returns the filters a Follower is asked for.
func (r *reach) follow() []topic.Filter {
	if r.all {
		return nil
	}
	return r.filters
}

// covers reports whether r shows all that matches one of filters.
func (r *reach) covers(filters []topic.Filter) bool {
	return r.all || !slices.ContainsFunc(filters, func(f topic.Filter) bool {
		return !slices.ContainsFunc(r.filters, func(w topic.Filter) bool { return covers(w, f) })
	})
}

// coversReach reports whether r shows all that o does.
func (r *reach) coversReach(o *reach) bool {
	return r.all || !o.all && r.covers(o.filters)
}

// covers reports whether every name that matches f matches w, in both modes of
// matching. It may miss that they do.
func covers(w, f topic.Filter) bool {
	if w == f {
		return true
	}
	if f != "" && f[0] == '$' && w != "" && w[0] != '$' {
		return false // no wildcard of the first level does
	}
	a, b, moreA, moreB := string(w), string(f), true, true
	for moreA && moreB {
		var x, y string
		x, a, moreA = strings.Cut(a, "/")
		y, b, moreB = strings.Cut(b, "/")
		switch {
		case x == "#":
			return true
		case y == "#", x != "+" && x != y:
			return false
		}
	}
	return moreA == moreB
}

// widen returns a filter that covers a and b; ok is false where none does,
// since no wildcard of the first level matches a reserved topic.
func widen(a, b topic.Filter) (_ topic.Filter, ok bool) {
	x, y := strings.Split(string(a), "/"), strings.Split(string(b), "/")
	var out []string
	for i := 0; ; i++ {
		endX, endY := i == len(x), i == len(y)
		if endX && endY {
			break
		}
		if endX || endY {
			// One ends where the other goes on. In one mode a tail has at least
			// one level, so it begins one earlier.
			out = append(out[:max(i-1, 0)], "#")
			break
		}
		if x[i] == "#" || y[i] == "#" {
			out = append(out, "#")
			break
		}
		if x[i] == y[i] {
			out = append(out, x[i])
		} else {
			out = append(out, "+")
		}
	}
	reserved := strings.HasPrefix(string(a), "$") || strings.HasPrefix(string(b), "$")
	if reserved && (out[0] == "+" || out[0] == "#") {
		return "", false
	}
	return topic.Filter(strings.Join(out, "/")), true
}
