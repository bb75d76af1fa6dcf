package config

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

var sizeUnits = []struct {
	name string
	n    int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// ParseSize reads a number of bytes with an optional unit: "8GiB", "1.5 GB",
// "65536".
func ParseSize(s string) (int64, error) {
	digits := strings.TrimSpace(s)
	unit := int64(1)
	for _, u := range sizeUnits {
		if rest, ok := strings.CutSuffix(digits, u.name); ok {
			digits, unit = strings.TrimSpace(rest), u.n
			break
		}
	}
	if n, err := strconv.ParseInt(digits, 10, 64); err == nil && n >= 0 {
		if n > math.MaxInt64/unit {
			return 0, fmt.Errorf("%s is more than a size can be", s)
		}
		return n * unit, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil || f < 0 || strings.ContainsAny(digits, "eExXpPnN_") {
		return 0, fmt.Errorf("expected a size such as 512MiB or 8GiB, found %q", s)
	}
	if f*float64(unit) >= math.MaxInt64 {
		return 0, fmt.Errorf("%s is more than a size can be", s)
	}
	return int64(f * float64(unit)), nil
}

// FormatSize writes n in the largest binary unit that divides it, else in
// bytes. ParseSize reads it back.
func FormatSize(n int64) string {
	if n > 0 {
		for _, u := range sizeUnits[:4] {
			if n%u.n == 0 {
				return strconv.FormatInt(n/u.n, 10) + u.name
			}
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// ParseDuration reads a Go duration, with d for days of 24 hours besides:
// "500ms", "1h30m", "7d".
func ParseDuration(s string) (time.Duration, error) {
	bad := fmt.Errorf("expected a duration such as 30s, 24h or 7d, found %q", s)
	rest := strings.TrimSpace(s)
	var days time.Duration
	if n, after, ok := strings.Cut(rest, "d"); ok {
		v, err := strconv.ParseUint(n, 10, 16)
		if err != nil {
			return 0, bad
		}
		days, rest = time.Duration(v)*24*time.Hour, after
		if rest == "" {
			return days, nil
		}
	}
	d, err := time.ParseDuration(rest)
	if err != nil || d < 0 || d > math.MaxInt64-days {
		return 0, bad
	}
	return days + d, nil
}

// FormatDuration writes d without the zero parts Go leaves in.
func FormatDuration(d time.Duration) string {
	const day = 24 * time.Hour
	if d > day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// grouped writes n with commas between thousands.
func grouped(n int) string {
	s := strconv.Itoa(n)
	start := 0
	if n < 0 {
		start = 1
	}
	for i := len(s) - 3; i > start; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
