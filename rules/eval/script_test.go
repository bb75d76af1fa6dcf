package eval_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/event"
	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
	"github.com/weir-iot/weir/rules/sql"
)

// TestScripts runs testdata/*.txt. A script is lines of a word and its text;
// lines that begin with # and empty ones are skipped.
//
//	version  of the language, for what follows
//	event    topic and payload, for what follows; the payload is as written, or
//	         a Go string in double quotes after the word quoted
//	sql      a statement; what comes next is about it
//	want     it acts, and its payload is equal JSON
//	text     it acts, and its payload is exactly this
//	none     it does not act
//	error    evaluation fails with this text in the message
//	fail     it is refused with this message
//	hint     the hint of the message before
//	warn     compiling it warns of this
//	tmpl     a template of the statement's rule
//	string   what the template gives
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts in testdata")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) { runScript(t, file) })
	}
}

type script struct {
	version  string
	event    event.Event
	src      string
	prog     *eval.Program
	warnings []sql.Error
	refused  *sql.Error // of the last sql or tmpl line
	tmpl     *eval.Template
	open     string // the outcome of the last sql or tmpl line is not yet checked
}

func runScript(t *testing.T, file string) {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := script{version: "2016-03-23"}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	n, checks := 0, 0
	for lines.Scan() {
		n++
		word, rest, _ := strings.Cut(strings.TrimRight(lines.Text(), " "), " ")
		rest = strings.TrimSpace(rest)
		if word == "" || word[0] == '#' {
			continue
		}
		if err := s.line(word, rest); err != nil {
			t.Errorf("%s:%d: %s\n\t%s %s\n\t%v", file, n, s.src, word, rest, err)
		}
		checks++
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if s.open != "" {
		t.Errorf("%s: nothing is said of %s", file, s.open)
	}
	if checks == 0 {
		t.Errorf("%s is empty", file)
	}
}

func (s *script) line(word, rest string) error {
	switch word {
	case "version":
		s.version = rest
		return nil
	case "event":
		name, payload, _ := strings.Cut(rest, " ")
		if q, ok := strings.CutPrefix(payload, "quoted "); ok {
			if _, err := fmt.Sscanf(q, "%q", &payload); err != nil {
				return err
			}
		}
		s.event = event.Event{Topic: topic.Name(name), Payload: []byte(payload), ClientID: "c1",
			Received: time.UnixMilli(1700000000000).UTC(), Seq: 1}
		return nil
	case "sql":
		s.src, s.prog, s.warnings, s.refused, s.open = rest, nil, nil, nil, rest
		stmt, err := sql.Parse(rest)
		if err == nil {
			s.prog, s.warnings, err = eval.Compile(stmt, eval.Options{Version: s.version, RuleName: "script"})
		}
		if err != nil && !errors.As(err, &s.refused) {
			return err
		}
		return nil
	case "tmpl":
		s.tmpl, s.refused, s.open = nil, nil, rest
		if s.prog == nil {
			return fmt.Errorf("no statement before it")
		}
		t, err := eval.CompileTemplate(rest, s.prog)
		if s.tmpl = t; err != nil && !errors.As(err, &s.refused) {
			return err
		}
		return nil
	case "fail":
		s.open = ""
		if s.refused == nil {
			return errors.New("not refused")
		}
		if got := s.refused.Error(); got != rest {
			return fmt.Errorf("refused with %s", got)
		}
		return nil
	case "hint":
		switch {
		case s.refused != nil && s.refused.Hint == rest:
			return nil
		case s.refused != nil:
			return fmt.Errorf("hint is %s", s.refused.Hint)
		}
		for _, w := range s.warnings {
			if w.Hint == rest {
				return nil
			}
		}
		return fmt.Errorf("hints of %v", s.warnings)
	}
	if s.refused != nil {
		return fmt.Errorf("refused: %s", s.refused.Detail())
	}
	if word == "warn" {
		for _, w := range s.warnings {
			if w.Error() == rest {
				return nil
			}
		}
		var all []string
		for _, w := range s.warnings {
			all = append(all, w.Error())
		}
		return fmt.Errorf("warnings are %q", all)
	}
	s.open = ""
	m, ctx := eval.NewMachine(), context.Background()
	if word == "string" {
		got, err := s.tmpl.Execute(ctx, m, &s.event)
		if err == nil && got != rest {
			err = fmt.Errorf("gives %q", got)
		}
		return err
	}
	var payload []byte
	var err error
	acts := s.prog.Matches(s.event.Topic)
	if acts {
		payload, acts, err = s.prog.Eval(ctx, m, &s.event)
	}
	switch {
	case word == "error" && err == nil:
		return errors.New("did not fail")
	case word == "error" && !strings.Contains(err.Error(), rest):
		return err
	case word == "error":
		return nil
	case err != nil:
		return err
	case word == "none" && acts:
		return fmt.Errorf("acts with %s", payload)
	case word == "none":
		return nil
	case !acts:
		return errors.New("does not act")
	case word == "text" && string(payload) != rest:
		return fmt.Errorf("gives %s", payload)
	case word == "text":
		return nil
	case word != "want":
		return fmt.Errorf("unknown word %s", word)
	}
	want, err := decode([]byte(rest))
	if err != nil {
		return err
	}
	got, err := decode(payload)
	if err != nil || !same(got, want, "") {
		return fmt.Errorf("gives %s", payload)
	}
	return nil
}

func eventTopic(s string) topic.Name { return topic.Name(s) }
