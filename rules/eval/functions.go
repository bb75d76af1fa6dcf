package eval

// Functions is the one table of the language's functions, by name.
var Functions = []Function{}
