package sql

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Error is a mistake in a statement, at a place in its text.
type Error struct {
	Source string // the whole text
	Span   Span   // the place; empty: a point, such as the end of the text
	Line   int    // from 1
	Column int    // in characters, from 1
	Msg    string
	Hint   string // what to write instead; empty: none
}

// At returns an error at span of source. The message is made from format and
// args; hint may be empty.
func At(source string, span Span, hint, format string, args ...any) *Error {
	span.From = max(0, min(span.From, len(source)))
	span.To = max(span.From, min(span.To, len(source)))
	before := source[:span.From]
	line := strings.LastIndexByte(before, '\n') + 1
	return &Error{
		Source: source,
		Span:   span,
		Line:   1 + strings.Count(before, "\n"),
		Column: 1 + utf8.RuneCountInString(before[line:]),
		Msg:    fmt.Sprintf(format, args...),
		Hint:   hint,
	}
}

// Error returns the message on one line: "1:8: expected expression, found FROM".
func (e *Error) Error() string {
	return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Msg)
}

// Characters of a long line that Detail shows before and after the place.
const (
	shownBefore = 60
	shownAfter  = 40
)

// Detail returns the message, the line of the source with carets under the
// place, and the hint, each on a line of its own, without a newline at the end.
func (e *Error) Detail() string {
	var b strings.Builder
	b.WriteString(e.Error())

	start := strings.LastIndexByte(e.Source[:e.Span.From], '\n') + 1
	end := len(e.Source)
	if i := strings.IndexByte(e.Source[e.Span.From:], '\n'); i >= 0 {
		end = e.Span.From + i
	}
	left := []rune(e.Source[start:e.Span.From])
	to := min(max(e.Span.To, e.Span.From), end)
	marked := []rune(e.Source[e.Span.From:to])
	right := []rune(strings.TrimRight(e.Source[to:end], "\r"))

	var head, tail string
	if len(left) > shownBefore {
		head, left = "…", left[len(left)-shownBefore:]
	}
	if len(marked) > shownAfter {
		tail, marked, right = "…", marked[:shownAfter], nil
	} else if rest := shownAfter - len(marked); len(right) > rest {
		tail, right = "…", right[:rest]
	}
	b.WriteString("\n  " + head + visible(left) + visible(marked) + visible(right) + tail)
	b.WriteString("\n  ")
	if head != "" {
		b.WriteByte(' ')
	}
	for _, r := range left {
		if r == '\t' { // the same tab as in the line above, so that the columns agree
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	b.WriteString(strings.Repeat("^", max(1, len(marked))))
	if e.Hint != "" {
		b.WriteString("\nhint: " + e.Hint)
	}
	return b.String()
}

// visible returns s with what does not print shown as one mark each, so that a
// terminal neither obeys it nor loses the column.
func visible(s []rune) string {
	return strings.Map(func(r rune) rune {
		if r != '\t' && !unicode.IsPrint(r) {
			return '·'
		}
		return r
	}, string(s))
}
