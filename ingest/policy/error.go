package policy

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/weir-iot/weir/internal/errs"
)

// Error is a mistake in a policy document, with its place.
type Error struct {
	Source       string // the document
	From, To     int    // bytes of Source
	Line, Column int    // from 1; the column counts characters
	Msg, Hint    string
}

func (e *Error) Error() string { return fmt.Sprintf("%d:%d: %s", e.Line, e.Column, e.Msg) }

// shown is how many characters Detail shows on each side of the place.
const shown = 50

// Detail returns the message, the line of the document with a caret under the
// place, and the hint, each on a line of its own.
func (e *Error) Detail() string {
	start := strings.LastIndexByte(e.Source[:e.From], '\n') + 1
	end := len(e.Source)
	if i := strings.IndexByte(e.Source[e.From:], '\n'); i >= 0 {
		end = e.From + i
	}
	left, right := []rune(e.Source[start:e.From]), []rune(e.Source[e.From:end])
	head, tail := "", ""
	if len(left) > shown {
		head, left = "…", left[len(left)-shown:]
	}
	if len(right) > shown {
		tail, right = "…", right[:shown]
	}
	visible := func(r []rune) string {
		return strings.Map(func(c rune) rune {
			if c < ' ' || c == 0x7f {
				return ' '
			}
			return c
		}, string(r))
	}
	width := max(1, min(utf8.RuneCountInString(e.Source[e.From:min(max(e.To, e.From), end)]), len(right)))
	out := e.Error() + "\n  " + head + visible(left) + visible(right) + tail +
		"\n  " + strings.Repeat(" ", len([]rune(head))+len(left)) + strings.Repeat("^", width)
	if e.Hint != "" {
		out += "\nhint: " + e.Hint
	}
	return out
}

// at returns the mistake msg at bytes from to to of src.
func at(src string, from, to int, hint, format string, args ...any) error {
	from = min(max(from, 0), len(src))
	line := strings.LastIndexByte(src[:from], '\n') + 1
	return errs.E("policy.Parse", errs.Invalid, &Error{
		Source: src, From: from, To: to, Msg: fmt.Sprintf(format, args...), Hint: hint,
		Line: 1 + strings.Count(src[:from], "\n"), Column: 1 + utf8.RuneCountInString(src[line:from]),
	})
}
