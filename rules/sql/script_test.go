package sql

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what comes out into the scripts of testdata")

// A script is made of blocks between blank lines. The lines of a block start
// with a word and go on, indented by six columns, on the lines below:
//
//	sql    a statement, or
//	tmpl   a substitution template
//	want   the statement as it is printed, or the parts of the template
//	fail   instead of want: all of the error that a user sees
//
// Lines that start with # are remarks.
type block struct {
	line   int // of the script, from 1
	word   string
	text   string
	result string // with the word want or fail
	end    int    // line behind the source, where the result begins
	after  int    // line behind the block
}

const indent = 6

func readScript(t *testing.T, lines []string) (blocks []block) {
	var b *block
	for i, line := range append(lines, "") {
		switch {
		case strings.HasPrefix(line, "#"):
		case line == "":
			if b != nil {
				b.after = i
				b = nil
			}
		case strings.HasPrefix(line, "sql "), strings.HasPrefix(line, "tmpl "):
			blocks = append(blocks, block{line: i + 1, word: strings.TrimSpace(line[:indent]), text: line[indent:], end: i + 1})
			b = &blocks[len(blocks)-1]
		case b == nil:
			t.Fatalf("line %d belongs to no block", i+1)
		case strings.HasPrefix(line, "want  "), strings.HasPrefix(line, "fail  "):
			b.result = line
		case len(line) < indent || strings.TrimSpace(line[:indent]) != "":
			t.Fatalf("line %d starts with no word that is known", i+1)
		case b.result == "":
			b.text += "\n" + line[indent:]
			b.end = i + 1
		default:
			b.result += "\n" + line
		}
	}
	return blocks
}

func (b *block) run() string {
	var out string
	var err error
	if b.word == "sql" {
		var stmt *Statement
		if stmt, err = Parse(b.text); err == nil {
			out = stmt.String()
		}
	} else {
		var parts []Part
		parts, err = ParseTemplate(b.text)
		for i, p := range parts {
			if i > 0 {
				out += " "
			}
			if p.Expr != nil {
				out += "${" + Print(p.Expr) + "}"
			} else {
				out += fmt.Sprintf("%q", p.Text)
			}
		}
	}
	word := "want  "
	if err != nil {
		word, out = "fail  ", err.(*Error).Detail()
	}
	return word + strings.ReplaceAll(out, "\n", "\n"+strings.Repeat(" ", indent))
}

func TestScripts(t *testing.T) {
	files, _ := filepath.Glob("testdata/*.txt")
	if len(files) == 0 {
		t.Fatal("no scripts")
	}
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
			var out []string
			from := 0
			for _, b := range readScript(t, lines) {
				got := b.run()
				if got != b.result && !*update {
					t.Errorf("%s:%d: got\n%s\nwant\n%s", name, b.line, got, b.result)
				}
				out = append(append(out, lines[from:b.end]...), got)
				from = b.after
			}
			if *update {
				out = append(out, lines[from:]...)
				if err := os.WriteFile(name, []byte(strings.Join(out, "\n")+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}
