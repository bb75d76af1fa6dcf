package http

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/weir-iot/weir/actions"
	"github.com/weir-iot/weir/actions/param"
	"github.com/weir-iot/weir/internal/event"
)

// maxURL is the longest URL, in bytes, before and after substitution.
// Source: AWS IoT API, Url.
const maxURL = 2000

// target is a URL with substitution templates. Each value is encoded for the
// place it stands in, so that it changes no other part of the URL.
type target struct {
	src   string
	parts []part
}

type part struct {
	text  string // literal
	value param.Text
	is    bool // value counts, not text
	place place
}

type place uint8

const (
	inHost place = iota
	inPath
	inQuery
)

func compileURL(env actions.Env, src, field string) (*target, error) {
	wrong := func(format string, args ...any) error {
		return param.Wrong([]string{field}, fmt.Sprintf(format, args...), "")
	}
	if len(src) > maxURL {
		return nil, wrong("%d bytes, at most %d are allowed", len(src), maxURL)
	}
	if _, err := param.Compile(env, src, field); err != nil {
		return nil, err
	}
	scheme, rest, ok := strings.Cut(src, "://")
	if !ok || scheme != "https" && scheme != "http" {
		return nil, wrong("the URL does not begin with https://")
	}
	if scheme == "http" && !(Policy{env.AllowPrivate, env.AllowNetworks}).plainAllowed() {
		return nil, wrong("only https is allowed here")
	}
	t := &target{src: src, parts: []part{{text: scheme + "://"}}}
	at := inHost
	literal := func(s string) error {
		for _, c := range s {
			switch {
			case at == inHost && (c == '/' || c == '?'), at == inPath && c == '?':
				if at = inPath; c == '?' {
					at = inQuery
				}
			case at == inHost && (c == '@' || c == '\\'):
				return wrong("%q is not allowed in a URL's host", c)
			case c == '#':
				return wrong("a fragment (#) is not sent to a server")
			}
			if c <= ' ' || c == 0x7f {
				return wrong("the URL has a blank or control character: write it as %%%02X", c)
			}
		}
		t.parts = append(t.parts, part{text: s})
		return nil
	}
	for rest != "" {
		i := strings.Index(rest, "${")
		if i < 0 {
			i = len(rest)
		}
		if i > 0 {
			if err := literal(rest[:i]); err != nil {
				return nil, err
			}
			rest = rest[i:]
			continue
		}
		// A template ends at the first brace with which it is a template: strings
		// and objects in it may hold others.
		end := -1
		var text param.Text
		for j := 2; j < len(rest); j++ {
			if rest[j] != '}' {
				continue
			}
			var err error
			if text, err = param.Compile(env, rest[:j+1], field); err == nil {
				end = j + 1
				break
			}
		}
		if end < 0 {
			return nil, wrong("the substitution template in %q does not end", rest)
		}
		rest = rest[end:]
		if s, ok := text.Literal(); ok { // a constant
			if err := literal(s); err != nil {
				return nil, err
			}
			continue
		}
		t.parts = append(t.parts, part{value: text, is: true, place: at})
	}
	if text, ok := t.literal(); ok {
		if _, err := parse(text); err != nil {
			return nil, wrong("%v", err)
		}
	}
	return t, nil
}

// literal returns the URL where it has no substitution template.
func (t *target) literal() (string, bool) {
	var b strings.Builder
	for _, p := range t.parts {
		if p.is {
			return "", false
		}
		b.WriteString(p.text)
	}
	return b.String(), true
}

var hostText = regexp.MustCompile(`^[A-Za-z0-9.-]{1,253}$`)

// url returns the URL for one message.
func (t *target) url(ctx context.Context, e *event.Event) (*url.URL, error) {
	var b strings.Builder
	for _, p := range t.parts {
		if !p.is {
			b.WriteString(p.text)
			continue
		}
		s, err := p.value.Execute(ctx, e)
		if err != nil {
			return nil, err
		}
		if what, bad := param.Control(s); bad {
			return nil, actions.Permanent(fmt.Errorf("url: a value has a %s", what))
		}
		switch p.place {
		case inHost:
			if !hostText.MatchString(s) {
				return nil, actions.Permanent(fmt.Errorf("url: %.60q cannot stand in a host", s))
			}
			b.WriteString(s)
		case inPath:
			b.WriteString(escapePath(s))
		case inQuery:
			b.WriteString(escapeQuery(s))
		}
	}
	u, err := parse(b.String())
	if err != nil {
		return nil, actions.Permanent(fmt.Errorf("url: %w", err))
	}
	return u, nil
}

// escapePath keeps the slashes, as those of a topic.
func escapePath(s string) string {
	levels := strings.Split(s, "/")
	for i, l := range levels {
		levels[i] = url.PathEscape(l)
	}
	return strings.Join(levels, "/")
}

func escapeQuery(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

// parse reads a URL and refuses the parts that only serve to deceive.
func parse(s string) (*url.URL, error) {
	if len(s) > maxURL {
		return nil, fmt.Errorf("%d bytes, at most %d are allowed", len(s), maxURL)
	}
	u, err := url.Parse(s)
	if err != nil {
		return nil, errors.New("not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("the URL does not begin with https://")
	case u.User != nil:
		return nil, errors.New("user and password have no place in a URL; use headers")
	case u.Hostname() == "" || u.Opaque != "":
		return nil, errors.New("the URL has no host")
	case u.Fragment != "":
		return nil, errors.New("a fragment (#) is not sent to a server")
	}
	for level := range strings.SplitSeq(u.Path, "/") { // decoded, %2e included
		if level == "." || level == ".." {
			return nil, fmt.Errorf("the path has the level %q", level)
		}
	}
	return u, nil
}

// below reports whether u begins with base: the same scheme, host and port, and
// base's path and query before whatever follows. Comparing whole hosts keeps
// https://a.example from standing for https://a.example.net.
func below(u, base *url.URL) bool {
	if u.Scheme != base.Scheme || !strings.EqualFold(u.Hostname(), base.Hostname()) || port(u) != port(base) {
		return false
	}
	rest := func(u *url.URL) string {
		s := u.EscapedPath()
		if s == "" {
			s = "/"
		}
		if u.RawQuery != "" {
			s += "?" + u.RawQuery
		}
		return s
	}
	return strings.HasPrefix(rest(u), rest(base))
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// public is u for messages and logs: without the query, where secrets are.
func public(u *url.URL) string { return u.Scheme + "://" + u.Host + u.EscapedPath() }
