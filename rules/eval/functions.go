package eval

import "slices"

// Functions is the one table of the language's functions: by group, then by
// name. cast stands in the grammar and not here, for its argument is a type.
var Functions = slices.Concat(
	grouped("Numbers", numberFunctions),
	grouped("Strings", stringFunctions),
	grouped("Regular expressions", regexpFunctions),
	grouped("Time", timeFunctions),
	grouped("Types and collections", collectionFunctions),
	grouped("Encodings and hashes", encodingFunctions),
	grouped("Message and rule", messageFunctions),
	grouped("Calling out", lookupFunctions),
)

func grouped(name string, functions []Function) []Function {
	for i := range functions {
		functions[i].Group = name
	}
	return functions
}
