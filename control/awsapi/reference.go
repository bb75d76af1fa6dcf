package awsapi

import (
	"fmt"
	"strings"
)

// What begins and ends the table in docs/compatibility.md.
const (
	ReferenceBegin = "<!-- operations: written by `go generate`, from the table in control/awsapi -->\n"
	ReferenceEnd   = "<!-- end of operations -->\n"
)

// Reference returns the table of all operations of the API model as Markdown.
func Reference() string {
	_, all, err := table()
	if err != nil {
		panic(err) // a mistake in the table itself
	}
	var b strings.Builder
	for _, s := range []Service{IoT, Data, Jobs} {
		yes, part, total := 0, 0, 0
		var rows, no strings.Builder
		for _, o := range all {
			if o.Service != s {
				continue
			}
			total++
			switch {
			case o.handle == nil:
				if no.Len() > 0 {
					no.WriteString(", ")
				}
				no.WriteString(o.Name)
			case o.partly != "":
				part++
				fmt.Fprintf(&rows, "| %s | partly | %s |\n", o.Name, o.partly)
			default:
				yes++
				fmt.Fprintf(&rows, "| %s | yes | |\n", o.Name)
			}
		}
		fmt.Fprintf(&b, "#### `%s`\n\n%d operations: %d yes, %d partly, %d no.\n\n", s, total, yes, part, total-yes-part)
		if rows.Len() > 0 {
			fmt.Fprintf(&b, "| operation | Weir | remarks |\n| --- | --- | --- |\n%s\n", rows.String())
		}
		if no.Len() > 0 {
			fmt.Fprintf(&b, "No: %s.\n\n", no.String())
		}
	}
	return strings.TrimSuffix(b.String(), "\n")
}

// WithReference returns a document with the table in its place.
func WithReference(document string) (string, error) {
	before, rest, ok1 := strings.Cut(document, ReferenceBegin)
	_, after, ok2 := strings.Cut(rest, ReferenceEnd)
	if !ok1 || !ok2 {
		return "", fmt.Errorf("awsapi: the document has no place for the table of operations")
	}
	return before + ReferenceBegin + "\n" + Reference() + "\n" + ReferenceEnd + after, nil
}
