package eval_test

import (
	"testing"

	"github.com/weir-iot/weir/internal/topic"
	"github.com/weir-iot/weir/rules/eval"
)

func TestNear(t *testing.T) {
	for _, c := range []struct {
		filter, name string
		near         bool
	}{
		{"plant/+/temp", "Plant/1/temp", true},
		{"PLANT/1/TEMP", "plant/1/temp", true},
		{"plant/+/temp", "plant/1/hum", true},
		{"plant/+/temp", "plant/1/hum/x", false},
		{"plant/+/temp", "plant/1/temp/x", true},
		{"plant/1", "plant", true},
		{"plant/#", "plants/x", false},
		{"a/plant/#", "a/plants/x", true},
		{"office/door", "plant/1/temp", false},
		{"a", "b", false},
		{"+/+", "x", false},
	} {
		if got := eval.Near(topic.Filter(c.filter), topic.Name(c.name)); got != c.near {
			t.Errorf("%s, %s: %v", c.filter, c.name, got)
		}
	}
}
