package sql

// Span is a half-open range of bytes in the statement's text.
type Span struct{ From, To int }

// Statement is one rule statement.
type Statement struct {
	Source string       // the text it was parsed from; spans point into it
	Set    []Assignment // variables of the SET clause, in order
	Select *Select
	// Filter is the topic filter after FROM, as written; HasFrom is false where
	// the statement has none (it is then reached by Basic Ingest only).
	Filter     string
	FilterSpan Span // within the quotes
	HasFrom    bool
}

// Assignment is one variable of a SET clause.
type Assignment struct {
	Name     string // without the @
	NameSpan Span   // with the @
	Value    Expr
}

// Select is the statement's query or a nested one.
type Select struct {
	Span  Span
	Value bool // SELECT VALUE: the one item itself, not an object
	Items []Item
	From  Expr // of a nested query: *Path, *Var, *Star or another expression; nil at the top
	// As names the current item of a nested query: with FROM levels AS lv, the
	// path lv is the item itself and lv.a its member a. "": not named.
	As    string
	Where Expr // nil: none
}

// Item is one column.
type Item struct {
	Expr  Expr     // *Star for a plain *
	Alias []string // levels of the alias (a dotted one builds nested objects); nil: none
	Span  Span
}

// Expr is an expression.
type Expr interface {
	// Pos returns where the expression stands in the source.
	Pos() Span
	expr()
}

// Kind is the kind of a Literal.
type Kind uint8

const (
	Null Kind = iota
	Bool
	Number
	String
)

// Op is an operator. Its text is what the printer writes.
type Op string

const (
	Or  Op = "OR"
	And Op = "AND"
	Not Op = "NOT"
	Eq  Op = "="
	Ne  Op = "<>"
	Lt  Op = "<"
	Le  Op = "<="
	Gt  Op = ">"
	Ge  Op = ">="
	Add Op = "+"
	Sub Op = "-"
	Mul Op = "*"
	Div Op = "/"
	Mod Op = "%"
	Neg Op = "-" // unary
)

type (
	// Literal is a constant.
	Literal struct {
		Span Span
		Kind Kind
		Bool bool
		Text string // of a Number: as written; of a String: its value
	}
	// Path is a member of the current item: a.b.c. It has at least one name.
	Path struct {
		Span  Span
		Names []string
	}
	// Star is * as an argument, a source or a column: the whole current item.
	Star struct{ Span Span }
	// Var is a variable of the SET clause; members of it are a Member.
	Var struct {
		Span Span
		Name string // without the @
	}
	// Member reaches into the value of X: f(x).a.b.
	Member struct {
		Span  Span
		X     Expr
		Names []string
	}
	// Unary is NOT x or -x.
	Unary struct {
		Span Span
		Op   Op
		X    Expr
	}
	// Binary is x op y.
	Binary struct {
		Span Span
		Op   Op
		X, Y Expr
	}
	// In is x IN set. Set is an Array for a parenthesised list.
	In struct {
		Span Span
		Not  bool
		X    Expr
		Set  Expr
	}
	// Exists is EXISTS (SELECT …).
	Exists struct {
		Span   Span
		Select *Select
	}
	// Subquery is (SELECT …) as a value.
	Subquery struct {
		Span   Span
		Select *Select
	}
	// Case is CASE [operand] WHEN … THEN … [ELSE …] END.
	Case struct {
		Span    Span
		Operand Expr // nil: each When.Cond is a condition
		Whens   []When
		Else    Expr // nil: none
	}
	// Call is a function call. Name is in lower case.
	Call struct {
		Span     Span
		Name     string
		NameSpan Span
		Args     []Expr
	}
	// Cast is cast(x AS type). Type is as written.
	Cast struct {
		Span     Span
		X        Expr
		Type     string
		TypeSpan Span
	}
	// Array is an array literal.
	Array struct {
		Span  Span
		Items []Expr
	}
	// Object is an object literal; names may repeat, the last one counts.
	Object struct {
		Span    Span
		Members []ObjectMember
	}
)

// When is one arm of a Case.
type When struct{ Cond, Then Expr }

// ObjectMember is one member of an object literal.
type ObjectMember struct {
	Name     string
	NameSpan Span
	Value    Expr
}

func (x *Literal) Pos() Span  { return x.Span }
func (x *Path) Pos() Span     { return x.Span }
func (x *Star) Pos() Span     { return x.Span }
func (x *Var) Pos() Span      { return x.Span }
func (x *Member) Pos() Span   { return x.Span }
func (x *Unary) Pos() Span    { return x.Span }
func (x *Binary) Pos() Span   { return x.Span }
func (x *In) Pos() Span       { return x.Span }
func (x *Exists) Pos() Span   { return x.Span }
func (x *Subquery) Pos() Span { return x.Span }
func (x *Case) Pos() Span     { return x.Span }
func (x *Call) Pos() Span     { return x.Span }
func (x *Cast) Pos() Span     { return x.Span }
func (x *Array) Pos() Span    { return x.Span }
func (x *Object) Pos() Span   { return x.Span }

func (*Literal) expr()  {}
func (*Path) expr()     {}
func (*Star) expr()     {}
func (*Var) expr()      {}
func (*Member) expr()   {}
func (*Unary) expr()    {}
func (*Binary) expr()   {}
func (*In) expr()       {}
func (*Exists) expr()   {}
func (*Subquery) expr() {}
func (*Case) expr()     {}
func (*Call) expr()     {}
func (*Cast) expr()     {}
func (*Array) expr()    {}
func (*Object) expr()   {}
