package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/rules/ruletest"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts and the guide")

// TestRuleEvalScript runs the commands of testdata/rule_eval.txt and compares
// what they print.
func TestRuleEvalScript(t *testing.T) {
	runScript(t, "testdata/rule_eval.txt", "../../examples/rules")
}

// TestRuleTestScript runs the commands of testdata/rule_test.txt.
func TestRuleTestScript(t *testing.T) {
	runScript(t, "testdata/rule_test.txt", "testdata/ruletest")
}

// TestExampleRules runs the tests of examples/rules: all pass, and exercise all
// there is.
func TestExampleRules(t *testing.T) {
	var out bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out}
	report := filepath.Join(t.TempDir(), "report.xml")
	if code := run(t.Context(), a, []string{"rule", "test", "../../examples/rules/...", "-o", "json", "--junit", report}); code != 0 {
		t.Fatalf("exit %d\n%s", code, out.String())
	}
	var r ruletest.Report
	if err := json.Unmarshal(out.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Passed < 20 || len(r.Files) < 3 || len(r.Coverage.Missing) > 0 {
		t.Errorf("%d passed in %d files, not exercised: %v", r.Passed, len(r.Files), r.Coverage.Missing)
	}
	b, err := os.ReadFile(report)
	if err != nil || bytes.Count(b, []byte("<testcase ")) != r.Passed {
		t.Errorf("%v: %s", err, b)
	}
}

// took is a time that has passed, which differs from run to run.
var took = regexp.MustCompile(`(?m), in [0-9.]+(µs|ms|s)$|"elapsedNanoseconds": [0-9]+`)

// sameTime is s with the times that have passed taken out.
func sameTime(s string) string { return took.ReplaceAllString(s, "*") }

// scriptOptions say how a script is run.
type scriptOptions struct {
	environ []string
	same    func(got, want []string) bool
	later   *regexp.Regexp // commands to repeat until they print what they should
	blanks  bool           // output has its empty lines, and ends at the next command or at the block's end
}

// runScript runs the lines of a file that begin with "$ weir " and compares what
// they print, standard error after standard output, with the lines that follow,
// up to an empty line or the end of a block of code. With -update it writes what
// they print. dir is where they run.
func runScript(t *testing.T, file, dir string) {
	t.Helper()
	runScriptWith(t, file, dir, &scriptOptions{same: func(got, want []string) bool {
		return sameTime(strings.Join(got, "\n")) == sameTime(strings.Join(want, "\n"))
	}})
}

func runScriptWith(t *testing.T, file, dir string, o *scriptOptions) {
	t.Helper()
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	file, err = filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	lines := strings.Split(string(src), "\n")
	var out []string
	ran := 0
	for i := 0; i < len(lines); {
		line := lines[i]
		out = append(out, line)
		i++
		if !strings.HasPrefix(line, "$ weir ") {
			continue
		}
		first := i
		command := line
		for strings.HasSuffix(command, `\`) && i < len(lines) {
			command = strings.TrimSuffix(command, `\`) + lines[i]
			out = append(out, lines[i])
			i++
		}
		var want []string
		for i < len(lines) && (lines[i] != "" || o.blanks) && !strings.HasPrefix(lines[i], "```") && !strings.HasPrefix(lines[i], "$ ") {
			want = append(want, lines[i])
			i++
		}
		for len(want) > 0 && want[len(want)-1] == "" {
			want = want[:len(want)-1]
			i--
		}
		got := runLine(t, strings.TrimPrefix(command, "$ weir "), o)
		if o.later != nil && o.later.MatchString(command) {
			end := time.Now().Add(patience)
			if *update {
				end = time.Now().Add(2 * time.Second) // what it should print is not known
			}
			for !o.same(got, want) && time.Now().Before(end) {
				time.Sleep(20 * time.Millisecond)
				got = runLine(t, strings.TrimPrefix(command, "$ weir "), o)
			}
		}
		ran++
		switch {
		case o.same(got, want):
			out = append(out, want...)
		case *update:
			out = append(out, got...)
		default:
			t.Errorf("%s:%d: %s\ngot:\n%s\nwant:\n%s", file, first, command, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	if ran == 0 {
		t.Fatalf("%s has no command", file)
	}
	if *update {
		if err := os.WriteFile(file, []byte(strings.Join(out, "\n")), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// runLine runs one command line as a shell would and returns the lines it
// prints; a code other than 0 comes last. An empty line becomes "·" where it
// would end the output.
func runLine(t *testing.T, line string, o *scriptOptions) []string {
	t.Helper()
	args, stdin, err := shellWords(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	var stdout, stderr bytes.Buffer
	a := &app{stdin: strings.NewReader(stdin), stdout: &stdout, stderr: &stderr, environ: o.environ}
	code := run(context.Background(), a, args)
	text := strings.TrimSuffix(stdout.String()+stderr.String(), "\n")
	var lines []string
	if text != "" {
		lines = strings.Split(text, "\n")
	}
	for i := range lines {
		if lines[i] = strings.TrimRight(lines[i], " "); lines[i] == "" && !o.blanks {
			lines[i] = "·"
		}
	}
	if code != 0 {
		lines = append(lines, fmt.Sprintf("[exit %d]", code))
	}
	return lines
}

// shellWords splits a command line at blanks outside of quotes; <<< gives the
// standard input.
func shellWords(s string) (words []string, stdin string, err error) {
	var word strings.Builder
	in, have := rune(0), false
	for _, r := range s {
		switch {
		case in != 0 && r == in:
			in = 0
		case in != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			in, have = r, true
		case r == ' ':
			if have || word.Len() > 0 {
				words = append(words, word.String())
			}
			word.Reset()
			have = false
		default:
			word.WriteRune(r)
		}
	}
	if in != 0 {
		return nil, "", fmt.Errorf("a quote is not closed")
	}
	if have || word.Len() > 0 {
		words = append(words, word.String())
	}
	for i, w := range words {
		if w == "<<<" && i+2 == len(words) {
			return words[:i], words[i+1], nil
		}
	}
	return words, "", nil
}
