package ruletest

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// Lines returns a failure for people, a line each, without margins.
func (f *Failure) Lines() []string {
	lines := []string{f.What}
	width := 0
	for _, d := range f.Differences {
		width = max(width, min(40, utf8.RuneCountInString(pathText(d.Path))))
	}
	for _, d := range f.Differences {
		path := pathText(d.Path)
		pad := strings.Repeat(" ", max(0, width-utf8.RuneCountInString(path)))
		want, got := d.Want, d.Got
		switch {
		case want == "":
			lines = append(lines, fmt.Sprintf("  %s%s  got  %s, which is not expected", path, pad, got))
		case got == "":
			lines = append(lines, fmt.Sprintf("  %s%s  want %s, and it is not there", path, pad, want))
		default:
			lines = append(lines, fmt.Sprintf("  %s%s  want %s", path, pad, want))
			lines = append(lines, fmt.Sprintf("  %s  got  %s", strings.Repeat(" ", max(width, utf8.RuneCountInString(path))), got))
		}
	}
	for _, l := range f.Detail {
		lines = append(lines, "  "+l)
	}
	return lines
}

func pathText(p string) string {
	if p == "" {
		return "(all)"
	}
	return p
}

// TextOptions say how Text writes.
type TextOptions struct {
	Verbose   bool                // every case, not only those that failed
	Printable func(string) string // takes out of a line what could move the cursor
}

// Text writes the report for people.
func (r *Report) Text(w io.Writer, o TextOptions) {
	width, cases := 0, 0
	for _, f := range r.Files {
		width = max(width, len(f.File))
		cases += len(f.Cases)
	}
	show := func(format string, args ...any) { fmt.Fprintln(w, o.Printable(fmt.Sprintf(format, args...))) }
	for _, f := range r.Files {
		failed := f.Failed()
		switch {
		case f.Problem != "":
			show("FAIL  %s", f.File)
			for l := range strings.SplitSeq(f.Problem, "\n") {
				show("      %s", l)
			}
		case failed > 0:
			show("FAIL  %-*s  %d of %s failed", width, f.File, failed, plural(len(f.Cases), "case"))
		default:
			show("ok    %-*s  %s", width, f.File, plural(len(f.Cases), "case"))
		}
		for _, text := range f.Warnings {
			for i, l := range strings.Split(text, "\n") {
				if i == 0 {
					l = "warning: " + f.RuleFile + ": " + l
				}
				show("      %s", l)
			}
		}
		for _, c := range f.Cases {
			switch {
			case len(c.Failures) > 0:
				show("      FAIL  %s  (%s:%d)", c.Name, f.File, c.Line)
				for i := range c.Failures {
					for _, l := range c.Failures[i].Lines() {
						show("            %s", l)
					}
				}
			case o.Verbose:
				show("      ok    %s", c.Name)
			}
		}
	}
	for _, name := range r.Updated {
		show("wrote %s", name)
	}
	fmt.Fprintln(w)
	sum := fmt.Sprintf("%s in %s: ", plural(cases, "case"), plural(len(r.Files), "file"))
	if r.Failed == 0 {
		sum += "all passed"
	} else {
		sum += fmt.Sprintf("%d passed, %d failed", r.Passed, r.Failed)
	}
	show("%s, in %s", sum, r.Elapsed.Round(time.Millisecond/10))
	if r.Coverage != nil {
		r.Coverage.text(show)
	}
}

func (c *Coverage) text(show func(string, ...any)) {
	var parts []string
	for _, s := range []struct {
		name string
		Share
	}{{"rules", c.Rules}, {"WHERE", c.Where}, {"CASE", c.Case}, {"templates", c.Templates}} {
		if s.Of > 0 {
			parts = append(parts, fmt.Sprintf("%s %d%% (%d of %d)", s.name, s.Percent(), s.Covered, s.Of))
		}
	}
	show("coverage: %s", strings.Join(parts, ", "))
	last := ""
	for _, m := range c.Missing {
		if m.File != last {
			show("  %s", m.File)
			last = m.File
		}
		show("    %s", m.Text)
	}
}

func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// JUnit writes the report as JUnit XML: a suite a file.
func (r *Report) JUnit(w io.Writer) error {
	type problem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",cdata"`
	}
	type testcase struct {
		Name    string   `xml:"name,attr"`
		Class   string   `xml:"classname,attr"`
		File    string   `xml:"file,attr"`
		Line    int      `xml:"line,attr,omitempty"`
		Time    string   `xml:"time,attr"`
		Failure *problem `xml:"failure"`
		Error   *problem `xml:"error"`
	}
	type suite struct {
		Name     string     `xml:"name,attr"`
		Tests    int        `xml:"tests,attr"`
		Failures int        `xml:"failures,attr"`
		Errors   int        `xml:"errors,attr"`
		Time     string     `xml:"time,attr"`
		Cases    []testcase `xml:"testcase"`
	}
	type suites struct {
		XMLName  xml.Name `xml:"testsuites"`
		Tests    int      `xml:"tests,attr"`
		Failures int      `xml:"failures,attr"`
		Errors   int      `xml:"errors,attr"`
		Time     string   `xml:"time,attr"`
		Suites   []suite  `xml:"testsuite"`
	}
	seconds := func(d time.Duration) string { return fmt.Sprintf("%.6f", d.Seconds()) }
	all := suites{Time: seconds(r.Elapsed)}
	for _, f := range r.Files {
		s := suite{Name: f.File, Tests: len(f.Cases), Failures: f.Failed(), Time: seconds(f.Elapsed)}
		if f.Problem != "" {
			first, _, _ := strings.Cut(f.Problem, "\n")
			s.Tests, s.Errors = 1, 1
			s.Cases = append(s.Cases, testcase{Name: "load", Class: f.File, File: f.File, Time: "0", Error: &problem{clean(first), clean(f.Problem)}})
		}
		for _, c := range f.Cases {
			t := testcase{Name: clean(c.Name), Class: f.File, File: f.File, Line: c.Line, Time: seconds(c.Elapsed)}
			if len(c.Failures) > 0 {
				var lines []string
				for i := range c.Failures {
					lines = append(lines, c.Failures[i].Lines()...)
				}
				t.Failure = &problem{clean(c.Failures[0].What), clean(strings.Join(lines, "\n"))}
			}
			s.Cases = append(s.Cases, t)
		}
		all.Tests, all.Failures, all.Errors = all.Tests+s.Tests, all.Failures+s.Failures, all.Errors+s.Errors
		all.Suites = append(all.Suites, s)
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(all); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

// clean takes out of s what XML cannot hold.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0xFFFE || r == 0xFFFF {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}
