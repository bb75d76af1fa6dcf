package sql

import (
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// bare clears every span and source text below x, a pointer, so that trees can
// be compared.
func bare[T any](x T) T {
	clearSpans(reflect.ValueOf(x))
	return x
}

func clearSpans(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			clearSpans(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			clearSpans(v.Index(i))
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[Span]() {
			v.SetZero()
			return
		}
		if f := v.FieldByName("Source"); f.IsValid() {
			f.SetZero()
		}
		for i := range v.NumField() {
			clearSpans(v.Field(i))
		}
	}
}

// checkStable fails unless stmt, printed, reads as an equal statement.
func checkStable(t *testing.T, stmt *Statement) {
	t.Helper()
	text := stmt.String()
	again, err := Parse(text)
	if err != nil {
		t.Fatalf("printed statement is refused\n%s", err.(*Error).Detail())
	}
	if got := again.String(); got != text {
		t.Fatalf("printed twice:\n%s\n%s", text, got)
	}
	if bare(again); !reflect.DeepEqual(again, bare(stmt)) {
		t.Fatalf("the tree has changed:\n%s", text)
	}
}

// checkSpans fails unless each expression's text in the source, taken alone,
// reads as that expression.
func checkSpans(t *testing.T, stmt *Statement) {
	t.Helper()
	stmt.Walk(func(x Expr) bool {
		span := x.Pos()
		if span.From < 0 || span.From >= span.To || span.To > len(stmt.Source) {
			t.Fatalf("%T has span %v in %q", x, span, stmt.Source)
		}
		alone, err := ParseExpr(stmt.Source[span.From:span.To])
		if err != nil {
			t.Fatalf("%T spans %q in %q: %v", x, stmt.Source[span.From:span.To], stmt.Source, err)
		}
		if got, want := Print(alone), Print(x); got != want {
			t.Fatalf("%T spans %q, which reads as %s, want %s", x, stmt.Source[span.From:span.To], got, want)
		}
		_, list := x.(*In) // its set alone is in parentheses, not a list
		return !list
	})
}

func TestSpans(t *testing.T) {
	stmt, err := Parse("SET @lim = 5 SELECT (a) + (b.c) AS x.y , Cast (d AS  Int) FROM 'f/+'\n" +
		"WHERE NOT {'k': upper ( z ).v} IN ( 1, 2 ) AND EXISTS (SELECT * FROM e WHERE - q)")
	if err != nil {
		t.Fatal(err)
	}
	and := stmt.Select.Where.(*Binary)
	not := and.X.(*Unary)
	in := not.X.(*In)
	member := in.X.(*Object).Members[0]
	sum := stmt.Select.Items[0].Expr.(*Binary)
	cast := stmt.Select.Items[1].Expr.(*Cast)
	nested := and.Y.(*Exists).Select
	for _, c := range []struct {
		what string
		span Span
		want string
	}{
		{"variable", stmt.Set[0].NameSpan, "@lim"},
		{"column", stmt.Select.Items[0].Span, "(a) + (b.c) AS x.y"},
		{"sum", sum.Span, "(a) + (b.c)"},
		{"left side", sum.X.Pos(), "a"},
		{"right side", sum.Y.Pos(), "b.c"},
		{"cast", cast.Span, "Cast (d AS  Int)"},
		{"column without alias", stmt.Select.Items[1].Span, "Cast (d AS  Int)"},
		{"type", cast.TypeSpan, "Int"},
		{"filter", stmt.FilterSpan, "f/+"},
		{"NOT", not.Span, "NOT {'k': upper ( z ).v} IN ( 1, 2 )"},
		{"IN", in.Span, "{'k': upper ( z ).v} IN ( 1, 2 )"},
		{"list", in.Set.Pos(), "( 1, 2 )"},
		{"member's name", member.NameSpan, "'k'"},
		{"member", member.Value.Pos(), "upper ( z ).v"},
		{"call", member.Value.(*Member).X.Pos(), "upper ( z )"},
		{"call's name", member.Value.(*Member).X.(*Call).NameSpan, "upper"},
		{"exists", and.Y.Pos(), "EXISTS (SELECT * FROM e WHERE - q)"},
		{"nested query", nested.Span, "SELECT * FROM e WHERE - q"},
		{"star", nested.Items[0].Span, "*"},
		{"source", nested.From.Pos(), "e"},
		{"sign", nested.Where.Pos(), "- q"},
		{"query", stmt.Select.Span, stmt.Source[len("SET @lim = 5 "):]},
	} {
		if got := stmt.Source[c.span.From:c.span.To]; got != c.want {
			t.Errorf("%s spans %q, want %q", c.what, got, c.want)
		}
	}
}

// maker makes random trees that the language can express.
type maker struct{ *rand.Rand }

func (m maker) of(list ...string) string { return list[m.IntN(len(list))] }

func (m maker) name() string {
	return m.of("a", "b", "temp", "value", "Value", "timestamp", "_seq", "größe", "set", "n1", "topic")
}

func (m maker) names() []string {
	names := []string{m.name()}
	for m.IntN(3) == 0 {
		names = append(names, m.of("x", "from", "SELECT", "end", "y2"))
	}
	if len(names) > 1 && m.IntN(4) == 0 {
		names[0] = m.of("case", "From", "null")
	}
	return names
}

func (m maker) string() string {
	var b strings.Builder
	for m.IntN(4) > 0 {
		b.WriteString(m.of("a", "'", `"`, `\`, "\n", "\t", "é", " ", `\d`, "${", "}", "n", "\x00"))
	}
	return b.String()
}

func (m maker) exprs(depth, least int) (list []Expr) {
	for len(list) < least || m.IntN(3) == 0 {
		list = append(list, m.item(depth))
	}
	return list
}

// item is what may be a star.
func (m maker) item(depth int) Expr {
	if m.IntN(8) == 0 {
		return &Star{}
	}
	return m.expr(depth)
}

func (m maker) expr(depth int) Expr {
	if depth <= 0 {
		switch m.IntN(7) {
		case 0:
			return &Literal{Kind: Null}
		case 1:
			return &Literal{Kind: Bool, Bool: m.IntN(2) == 0}
		case 2:
			return &Literal{Kind: Number, Text: m.of("0", "15", "1.50", "1E3", "2e-7", "123456789012345678901234567890.5")}
		case 3:
			return &Literal{Kind: String, Text: m.string()}
		case 4:
			return &Var{Name: m.of("a", "v_1", "0", "X")}
		}
		return &Path{Names: m.names()}
	}
	depth -= 1 + m.IntN(2)
	switch m.IntN(16) {
	case 0:
		return &Member{X: m.expr(depth), Names: m.names()}
	case 1:
		return &Unary{Op: Not, X: m.expr(depth)}
	case 2:
		return &Unary{Op: Neg, X: m.expr(depth)}
	case 3:
		return &In{Not: m.IntN(2) == 0, X: m.expr(depth), Set: m.set(depth)}
	case 4:
		return &Exists{Select: m.nested(depth)}
	case 5:
		return &Subquery{Select: m.nested(depth)}
	case 6:
		x := &Case{}
		if m.IntN(2) == 0 {
			x.Operand = m.expr(depth)
		}
		for len(x.Whens) == 0 || m.IntN(2) == 0 {
			x.Whens = append(x.Whens, When{m.expr(depth), m.item(depth)})
		}
		if m.IntN(2) == 0 {
			x.Else = m.expr(depth)
		}
		return x
	case 7:
		return &Call{Name: m.of("topic", "get", "value", "set", "f"), Args: m.exprs(depth, 0)}
	case 8:
		return &Cast{X: m.item(depth), Type: m.of("Int", "string")}
	case 9:
		return &Array{Items: m.exprs(depth, 0)}
	case 10:
		x := &Object{}
		for m.IntN(3) > 0 {
			x.Members = append(x.Members, ObjectMember{Name: m.string(), Value: m.item(depth)})
		}
		return x
	}
	op := []Op{Or, And, Eq, Ne, Lt, Le, Gt, Ge, Add, Sub, Mul, Div, Mod}[m.IntN(13)]
	return &Binary{Op: op, X: m.expr(depth), Y: m.expr(depth)}
}

// set is what may stand behind IN.
func (m maker) set(depth int) Expr {
	switch m.IntN(4) {
	case 0:
		return &Array{Items: m.exprs(depth, 0)}
	case 1:
		return &Subquery{Select: m.nested(depth)}
	case 2:
		return &Call{Name: "get", Args: m.exprs(depth, 2)}
	}
	return &Path{Names: m.names()}
}

func (m maker) nested(depth int) *Select {
	s := m.query(depth)
	switch m.IntN(4) {
	case 0:
		s.From = &Star{}
	case 1:
		s.From = &Member{X: &Var{Name: "v"}, Names: m.names()}
	case 2:
		s.From = &Call{Name: "get", Args: m.exprs(depth, 2)}
	default:
		s.From = &Path{Names: m.names()}
	}
	if m.IntN(3) == 0 {
		s.As = m.name()
	}
	return s
}

func (m maker) query(depth int) *Select {
	s := &Select{Value: m.IntN(4) == 0}
	for len(s.Items) == 0 || !s.Value && m.IntN(2) == 0 {
		item := Item{Expr: m.item(depth)}
		switch m.IntN(6) {
		case 0:
			item.Alias = []string{m.of("my-name", "two words", "end", "it's", "a.b", `\`)}
		case 1, 2:
			item.Alias = m.names()
		}
		s.Items = append(s.Items, item)
	}
	if m.IntN(2) == 0 {
		s.Where = m.item(depth)
	}
	return s
}

func (m maker) statement() *Statement {
	depth := 1 + m.IntN(7)
	stmt := &Statement{Select: m.query(depth)}
	for _, name := range []string{"a", "b_1"} {
		if m.IntN(4) == 0 {
			stmt.Set = append(stmt.Set, Assignment{Name: name, Value: m.item(depth)})
		}
	}
	if m.IntN(4) > 0 {
		stmt.HasFrom, stmt.Filter = true, m.of("a/+/#", "$aws/things/+/shadow/update", "it's", "")
	}
	return stmt
}

func TestPrintedStatementsReadTheSame(t *testing.T) {
	for seed := range uint64(1500) {
		m := maker{rand.New(rand.NewPCG(seed, 1))}
		stmt := m.statement()
		checkStable(t, stmt)
		if seed%20 == 0 { // it reads each part anew
			again, err := Parse(stmt.String())
			if err != nil {
				t.Fatal(err)
			}
			checkSpans(t, again)
		}
	}
}

// TestSpoiltStatements takes whole statements, spoils a few of
// their tokens, and wants each either read, with all that a statement promises,
// or refused by the reader; in several goroutines at a time.
func TestSpoiltStatements(t *testing.T) {
	for part := range uint64(4) {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			read := 0
			for seed := range uint64(2000) {
				m := maker{rand.New(rand.NewPCG(seed, 2+part))}
				src := m.statement().String()
				var tokens []string
				for l, end := (lexer{src: src}), 0; end < len(src); {
					tok := l.next()
					tokens = append(tokens, src[end:tok.span.To])
					end = tok.span.To
				}
				for range 1 + m.IntN(3) {
					i, j := m.IntN(len(tokens)), m.IntN(len(tokens))
					switch m.IntN(4) {
					case 0:
						tokens[i], tokens[j] = tokens[j], tokens[i]
					case 1:
						tokens[i] = tokens[j]
					case 2:
						tokens[i] = ""
					case 3:
						tokens[i] += m.of("", " ") + m.of("NOT", "-", "*", "IN", "(", ")", "FROM", "AS", "CASE", "END", "SELECT", ",", ".", "[", "value", "set", "1", "'s'", "@v", "=")
					}
				}
				src = strings.Join(tokens, "")
				stmt, err := Parse(src)
				if err != nil {
					checkError(t, src, err)
					continue
				}
				if len(src) < 400 {
					checkSpans(t, stmt)
				}
				checkStable(t, stmt)
				read++
			}
			if read < 50 {
				t.Errorf("only %d statements could be read in spite of it", read)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	good, bad := vectors(f)
	for _, v := range append(good, bad...) {
		f.Add(v.SQL)
	}
	for _, s := range []string{
		"SELECT a > 5 = true, a = b = c, x = NOT y = z, 1 + NOT a FROM 'a'",
		"SELECT VALUE - 1, value * 2 WHERE case.a IN (1, -2) AND x NOT IN @v.y",
		"select (select value n from get(*, 'l') as l where l.n in (select * from *)) as end from 'a'",
		"SELECT [{}, {'a': [*], \"b\": CASE WHEN a THEN -- -1 ELSE ${1} END}].x AS a.b, 'it''s\\'' AS \"q\" FROM 'a' WHERE a=-1",
		"SELECT a FROM sensors/# -- all",
		"SELECT temp 'S \nf\n\nFROM '",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		stmt, err := Parse(src)
		if err != nil {
			checkError(t, src, err)
			return
		}
		if len(src) < 2000 { // it reads each part anew
			checkSpans(t, stmt)
		}
		if len(stmt.String()) < MaxBytes {
			checkStable(t, stmt)
		}
	})
}

func FuzzTemplate(f *testing.F) {
	good, _ := vectors(f)
	for _, v := range good {
		if v.Template != "" {
			f.Add(v.Template)
		}
	}
	for _, s := range []string{"$${a}$", "${'}' + \"${\"}", "${{'a': {}}.a}}", "${", "${}", "a${b c}"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		parts, err := ParseTemplate(src)
		if err != nil {
			checkError(t, src, err)
			return
		}
		end, text := 0, false
		for _, p := range parts {
			if p.Span.From != end || p.Span.To <= end {
				t.Fatalf("part %v behind %d in %q", p.Span, end, src)
			}
			end = p.Span.To
			piece := src[p.Span.From:p.Span.To]
			if p.Expr == nil {
				if p.Text != piece || text {
					t.Fatalf("text %q at %q in %q", p.Text, piece, src)
				}
				text = true
				continue
			}
			text = false
			x, err := ParseExpr(piece[2 : len(piece)-1])
			if err != nil || Print(x) != Print(p.Expr) {
				t.Fatalf("%q reads as %s, alone as %v", piece, Print(p.Expr), err)
			}
		}
		if end != len(src) {
			t.Fatalf("%q ends at %d", src, end)
		}
	})
}

// checkError fails unless err is a whole error about src.
func checkError(t *testing.T, src string, err error) {
	t.Helper()
	e, ok := err.(*Error)
	switch {
	case !ok:
		t.Fatalf("%T: %v", err, err)
	case e.Source != src || e.Span.From < 0 || e.Span.To < e.Span.From || e.Span.To > len(src):
		t.Fatalf("span %v in %q", e.Span, src)
	case strings.HasPrefix(e.Msg, "syntax error") || strings.HasPrefix(e.Msg, "the statement reads as"):
		t.Fatalf("the grammar refuses what the reader let pass: %v\n%q", err, src)
	}
	if lines := strings.Split(e.Detail(), "\n"); len(lines) != 3 && (len(lines) != 4 || e.Hint == "") || !strings.Contains(lines[2], "^") {
		t.Fatalf("detail:\n%s", e.Detail())
	}
}
