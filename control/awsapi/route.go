package awsapi

import (
	"fmt"
	"net/url"
	"strings"
)

// routes finds operations by path. It works on the escaped path, so that a
// slash inside a name stays one, and nothing is cleaned out of it: "..", "." and
// empty segments are names like others, which no name's form allows.
type routes struct {
	methods map[string]*branch
}

type branch struct {
	op     *operation
	static map[string]*branch
	label  *branch // any segment that is not empty
	rest   *operation
}

// greedy are the labels that take the rest of the path: clients leave the
// slashes of a topic and of an ARN as they are, or escape them.
func greedy(label string) (name string, ok bool) {
	name, plus := strings.CutSuffix(label, "+")
	return name, plus || name == "topic" || name == "target"
}

func (r *routes) add(op *operation) error {
	if r.methods == nil {
		r.methods = map[string]*branch{}
	}
	b := r.methods[op.Method]
	if b == nil {
		b = &branch{}
		r.methods[op.Method] = b
	}
	var labels []string
	for _, segment := range segments(op.Path) {
		name, isLabel := strings.CutPrefix(segment, "{")
		if !isLabel {
			if b.static == nil {
				b.static = map[string]*branch{}
			}
			if b.static[segment] == nil {
				b.static[segment] = &branch{}
			}
			b = b.static[segment]
			continue
		}
		name = strings.TrimSuffix(name, "}")
		name, rest := greedy(name)
		labels = append(labels, name)
		if rest {
			if b.rest != nil {
				return fmt.Errorf("awsapi: %s and %s have one path", op.Name, b.rest.Name)
			}
			b.rest, op.labels = op, labels
			return nil
		}
		if b.label == nil {
			b.label = &branch{}
		}
		b = b.label
	}
	if b.op != nil {
		return fmt.Errorf("awsapi: %s and %s have one path", op.Name, b.op.Name)
	}
	b.op, op.labels = op, labels
	return nil
}

func segments(path string) []string {
	return strings.Split(strings.Trim(path, "/"), "/")
}

// find returns the operation and the values of its labels; nil where there is
// none.
func (r *routes) find(method, escapedPath string) (*operation, map[string]string) {
	b := r.methods[method]
	path, ok := strings.CutPrefix(escapedPath, "/")
	if b == nil || !ok {
		return nil, nil
	}
	op, values := b.find(path, nil)
	if op == nil || len(values) != len(op.labels) {
		return nil, nil
	}
	labels := make(map[string]string, len(values))
	for i, name := range op.labels {
		v, err := url.PathUnescape(values[i])
		if err != nil {
			return nil, nil
		}
		labels[name] = v
	}
	return op, labels
}

func (b *branch) find(path string, values []string) (*operation, []string) {
	if path == "" {
		return b.op, values
	}
	segment, rest, more := strings.Cut(path, "/")
	if next := b.static[segment]; next != nil {
		if more && rest == "" && next.op != nil {
			return next.op, values // a slash at the end
		}
		if !more || rest != "" {
			if op, v := next.find(rest, values); op != nil {
				return op, v
			}
		}
	}
	if b.label != nil && segment != "" && (!more || rest != "" || b.label.op != nil) {
		if op, v := b.label.find(rest, append(values[:len(values):len(values)], segment)); op != nil {
			return op, v
		}
	}
	if b.rest != nil {
		return b.rest, append(values[:len(values):len(values)], path)
	}
	return nil, nil
}
