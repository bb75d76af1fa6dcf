package sql

import (
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// dense are statements that make the most of few bytes.
var dense = map[string]func(n int) string{
	"terms of OR":      func(n int) string { return "SELECT a FROM 'a' WHERE a" + strings.Repeat(" OR a", n) },
	"columns":          func(n int) string { return "SELECT a" + strings.Repeat(",a", n) + " FROM 'a'" },
	"constants":        func(n int) string { return "SELECT * FROM 'a' WHERE a IN (1" + strings.Repeat(",1", n) + ")" },
	"comparisons":      func(n int) string { return "SELECT a FROM 'a' WHERE a=a" + strings.Repeat(" OR a=a", n/2) },
	"sums":             func(n int) string { return "SELECT a" + strings.Repeat("+a", n) },
	"empty arrays":     func(n int) string { return "SELECT []" + strings.Repeat(",[]", n) },
	"calls":            func(n int) string { return "SELECT f()" + strings.Repeat(",f()", n) },
	"path":             func(n int) string { return "SELECT a" + strings.Repeat(".a", n) },
	"NOTs":             func(n int) string { return "SELECT a" + strings.Repeat(" AND NOT a", n) },
	"brackets":         func(n int) string { return "SELECT " + strings.Repeat("(", n) + "a" + strings.Repeat(")", n) },
	"open brackets":    func(n int) string { return "SELECT " + strings.Repeat("[", n) },
	"minuses":          func(n int) string { return "SELECT " + strings.Repeat("- ", n) + "a" },
	"NOT NOT":          func(n int) string { return "SELECT " + strings.Repeat("NOT ", n) + "a" },
	"tight NOT":        func(n int) string { return "SELECT a" + strings.Repeat(" = NOT a", n) },
	"comparison chain": func(n int) string { return "SELECT a" + strings.Repeat("=a", n) },
	"nested": func(n int) string {
		return "SELECT " + strings.Repeat("(SELECT ", n) + "a" + strings.Repeat(" FROM a)", n)
	},
	"CASE": func(n int) string {
		return "SELECT " + strings.Repeat("CASE ", n) + "a" + strings.Repeat(" WHEN a THEN a END", n)
	},
	"WHENs":              func(n int) string { return "SELECT CASE" + strings.Repeat(" WHEN a THEN a", n) + " END" },
	"quotes":             func(n int) string { return "SELECT '" + strings.Repeat("''", n) + "'" },
	"backslashes":        func(n int) string { return "SELECT '" + strings.Repeat(`\\`, n) + "'" },
	"open string":        func(n int) string { return "SELECT '" + strings.Repeat("a", n) },
	"digits":             func(n int) string { return "SELECT " + strings.Repeat("1", n) },
	"one name":           func(n int) string { return "SELECT " + strings.Repeat("ä", n) },
	"spaces":             func(n int) string { return "SELECT " + strings.Repeat(" ", n) },
	"members of objects": func(n int) string { return "SELECT {'':a" + strings.Repeat(",'':a", n) + "}" },
	"IN IN":              func(n int) string { return "SELECT a" + strings.Repeat(" IN a", n) },
	"line breaks":        func(n int) string { return strings.Repeat("\n", n) + "SELEC" },
}

// Reading may take this much for each KiB of source, and may allocate 64 times
// the source; the constants are for the grammar's tables and its stack.
const (
	timePerKiB = 10 * time.Millisecond
	timeFixed  = 50 * time.Millisecond
	heapFixed  = 4 << 20
)

// cpuTime is what the process has computed: a busy machine does not count, the
// race detector does.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano()+u.Stime.Nano()) / raceFactor
}

func TestCostIsBounded(t *testing.T) {
	for name, dense := range dense {
		for _, n := range []int{10, 60, 125, 1000, MaxTerms/2 - 10, MaxTerms - 10, MaxTerms, 10 * MaxTerms} {
			src := dense(n)
			var before, after runtime.MemStats
			took := time.Hour
			for range 3 { // the machine may be busy elsewhere
				runtime.ReadMemStats(&before)
				start := cpuTime()
				stmt, err := Parse(src)
				took = min(took, cpuTime()-start)
				runtime.ReadMemStats(&after)
				if err == nil && stmt.String() == "" {
					t.Fatal("printed as nothing")
				}
			}
			if limit := timeFixed + timePerKiB*time.Duration(len(src))/1024; took > limit {
				t.Errorf("%s, %d times: %d bytes took %v, want %v at most", name, n, len(src), took, limit)
			}
			if all := after.TotalAlloc - before.TotalAlloc; all > heapFixed+64*uint64(len(src)) {
				t.Errorf("%s, %d times: %d bytes allocated %d", name, n, len(src), all)
			}
		}
	}
}

func TestLimits(t *testing.T) {
	repeat := strings.Repeat
	for _, c := range []struct{ good, bad, msg string }{
		{
			"SELECT '" + repeat("x", MaxBytes-9) + "'",
			"SELECT '" + repeat("x", MaxBytes-8) + "'",
			"the text has 262145 bytes, at most 262144 are allowed",
		},
		{
			"SELECT a" + repeat(",a", MaxTerms-1),
			"SELECT a" + repeat(",a", MaxTerms),
			"the statement has more than 10000 names, constants, calls and brackets",
		},
		{
			"SELECT " + repeat("(", MaxNesting) + "a" + repeat(")", MaxNesting),
			"SELECT " + repeat("(", MaxNesting+1) + "a" + repeat(")", MaxNesting+1),
			"nested more than 128 levels deep",
		},
		{
			"SELECT " + repeat("[f({'a': CASE WHEN NOT -(", MaxNesting/8) + "a" + repeat(") THEN a END})]", MaxNesting/8),
			"SELECT " + repeat("[f({'a': CASE WHEN NOT -(", MaxNesting/8) + "[[[[[[[[[[[[[[[[[a]]]]]]]]]]]]]]]]]" + repeat(") THEN a END})]", MaxNesting/8),
			"nested more than 128 levels deep",
		},
		{
			"SELECT " + repeat("(SELECT ", MaxNesting/2) + "a" + repeat(" FROM b)", MaxNesting/2),
			"SELECT " + repeat("(SELECT ", MaxNesting/2+1) + "a" + repeat(" FROM b)", MaxNesting/2+1),
			"nested more than 128 levels deep",
		},
		{
			"SELECT a = a" + repeat(" = a", MaxNesting),
			"SELECT a = a" + repeat(" = a", MaxNesting+1),
			"nested more than 128 levels deep",
		},
		{
			"SELECT [a = a" + repeat(" = a", MaxNesting-1) + "]",
			"SELECT (" + repeat("[", MaxNesting-2) + "a" + repeat("]", MaxNesting-2) + " = a = a) = a = a",
			"nested more than 128 levels deep",
		},
		{
			"SELECT a" + repeat(" = NOT a", MaxNesting/2),
			"SELECT a" + repeat(" = NOT a", MaxNesting/2+1),
			"nested more than 128 levels deep",
		},
		{
			"SELECT a AS a" + repeat(".a", MaxNames-1),
			"SELECT a AS a" + repeat(".a", MaxNames),
			"more than 64 names behind each other",
		},
	} {
		stmt, err := Parse(c.good)
		if err != nil {
			t.Errorf("%s: %v", clip(c.good), err)
			continue
		}
		if len(c.good) < MaxBytes/2 {
			checkStable(t, stmt)
		}
		if _, err := Parse(c.bad); err == nil || err.(*Error).Msg != c.msg {
			t.Errorf("%s: %v, want %s", clip(c.bad), err, c.msg)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	const src = "SELECT device.id AS id, (temp - 32) * 5 / 9 AS celsius, topic(2) AS room FROM 'sensors/+/temp' WHERE temp > 80 AND NOT isUndefined(device.id)"
	b.ReportAllocs()
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if _, err := Parse(src); err != nil {
			b.Fatal(err)
		}
	}
}
