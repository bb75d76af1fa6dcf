package registry

import (
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestOrdered compares an ordered with a sorted slice through random changes.
func TestOrdered(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var o ordered[int]
	model := map[string]int{}
	for i := range 20_000 {
		k := fmt.Sprint(rnd.IntN(3000))
		if rnd.IntN(5) < 3 {
			o.set(k, i)
			model[k] = i
		} else {
			o.remove(k)
			delete(model, k)
		}
		if i%500 != 0 && i < 19_990 {
			continue
		}
		var want []string
		for k := range model {
			want = append(want, k)
		}
		slices.Sort(want)
		if got := o.keys(); !slices.Equal(got, want) || o.len() != len(want) {
			t.Fatalf("step %d: %d keys, expected %d", i, len(got), len(want))
		}
		at := fmt.Sprint(rnd.IntN(3000))
		j, found := slices.BinarySearch(want, at)
		var behind, before []string
		o.after(at, func(k string, v int) bool {
			if v != model[k] {
				t.Fatal(k, v)
			}
			behind = append(behind, k)
			return true
		})
		o.before(at, func(k string, _ int) bool { before = append(before, k); return true })
		slices.Reverse(before)
		if !slices.Equal(before, want[:j]) {
			t.Fatalf("before %s: %v, expected %v", at, before, want[:j])
		}
		if found {
			j++
		}
		if !slices.Equal(behind, want[j:]) || o.has(at) != found {
			t.Fatalf("behind %s", at)
		}
	}
	for _, k := range o.keys() {
		o.remove(k)
	}
	if len(o.chunks) != 0 || o.n != 0 {
		t.Fatal("not empty")
	}
}

// TestPagesWhileThingsChange reads a list page by page while others are created
// and deleted: what was there all the time comes once.
func TestPagesWhileThingsChange(t *testing.T) {
	r := start(t, nil)
	ctx := t.Context()
	for i := range 40 {
		must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: fmt.Sprintf("t%02d", i)}))
	}
	var got []string
	token := ""
	for n := 0; ; n++ {
		page, next, err := r.Things(ThingFilter{}, Page{Max: 7, Token: token})
		ok(t, err)
		for _, th := range page {
			if th.Name[0] == 't' {
				got = append(got, th.Name)
			}
		}
		if next == "" {
			break
		}
		token = next
		last := page[len(page)-1].Name
		ok(t, r.DeleteThing(ctx, last, 0)) // the one the token names
		must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: fmt.Sprintf("a%02d", n)}))
		must[*Thing](t)(r.CreateThing(ctx, CreateThing{Name: last + "z"}))
	}
	var want []string
	for i := range 40 {
		want = append(want, fmt.Sprintf("t%02d", i))
	}
	got = slices.DeleteFunc(got, func(s string) bool { return len(s) > 3 })
	if !slices.Equal(got, want) {
		t.Fatalf("%v", got)
	}
	// A token holds for its list alone, and no other text is one.
	must[*ThingType](t)(r.CreateThingType(ctx, "y", ThingTypeProperties{}, nil))
	for _, bad := range []string{"x", "=", token + "A", base64.StdEncoding.EncodeToString([]byte("1x\nt")), base64.StdEncoding.EncodeToString([]byte("t"))} {
		_, _, err := r.Things(ThingFilter{}, Page{Token: bad})
		refused(t, err, InvalidRequest)
	}
	_, _, err := r.Things(ThingFilter{Type: "y"}, Page{Token: token})
	refused(t, err, InvalidRequest)
	_, _, err = r.ThingTypes("", Page{Token: token})
	refused(t, err, InvalidRequest)
	for _, n := range []int{-1, 251} {
		_, _, err := r.Things(ThingFilter{}, Page{Max: n})
		refused(t, err, InvalidRequest)
	}
}
