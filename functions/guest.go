package functions

import _ "embed"

// What loads a handler of a language where the package brings no bootstrap: a
// client of the Runtime API of a few lines. aws-lambda-ric and its like run as
// they are, as a command of the runtime provided.
var (
	//go:embed guest/node.js
	nodeGuest string
	//go:embed guest/python.py
	pythonGuest string
)
