package registry

import (
	"slices"
	"strings"
)

// ordered is a sorted map from strings, in chunks, so that an insertion moves
// little. The zero value is empty.
type ordered[V any] struct {
	chunks [][]pair[V] // none is empty
	n      int
}

type pair[V any] struct {
	key string
	v   V
}

const chunkMax = 512

func byKey[V any](p pair[V], key string) int { return strings.Compare(p.key, key) }

// chunk returns the chunk where key is or belongs.
func (o *ordered[V]) chunk(key string) int {
	i, _ := slices.BinarySearchFunc(o.chunks, key, func(c []pair[V], key string) int { return strings.Compare(c[len(c)-1].key, key) })
	return i
}

func (o *ordered[V]) set(key string, v V) {
	if len(o.chunks) == 0 {
		o.chunks, o.n = [][]pair[V]{{{key, v}}}, 1
		return
	}
	i := min(o.chunk(key), len(o.chunks)-1)
	c := o.chunks[i]
	j, found := slices.BinarySearchFunc(c, key, byKey[V])
	if found {
		c[j].v = v
		return
	}
	o.n++
	if len(c) < chunkMax {
		o.chunks[i] = slices.Insert(c, j, pair[V]{key, v})
		return
	}
	if j == len(c) && i == len(o.chunks)-1 { // in order, as when loading: leave full chunks behind
		o.chunks = append(o.chunks, []pair[V]{{key, v}})
		return
	}
	upper := append(make([]pair[V], 0, chunkMax), c[chunkMax/2:]...)
	clear(c[chunkMax/2:])
	o.chunks[i] = c[:chunkMax/2]
	o.chunks = slices.Insert(o.chunks, i+1, upper)
	if j > chunkMax/2 {
		o.chunks[i+1] = slices.Insert(upper, j-chunkMax/2, pair[V]{key, v})
	} else {
		o.chunks[i] = slices.Insert(o.chunks[i], j, pair[V]{key, v})
	}
}

func (o *ordered[V]) remove(key string) {
	i := o.chunk(key)
	if i == len(o.chunks) {
		return
	}
	j, found := slices.BinarySearchFunc(o.chunks[i], key, byKey[V])
	if !found {
		return
	}
	o.n--
	o.chunks[i] = slices.Delete(o.chunks[i], j, j+1)
	if len(o.chunks[i]) == 0 {
		o.chunks = slices.Delete(o.chunks, i, i+1)
	}
}

func (o *ordered[V]) has(key string) bool {
	if o == nil {
		return false
	}
	i := o.chunk(key)
	if i == len(o.chunks) {
		return false
	}
	_, found := slices.BinarySearchFunc(o.chunks[i], key, byKey[V])
	return found
}

// after calls f with the pairs behind key ("" : all), in order, until it returns
// false.
func (o *ordered[V]) after(key string, f func(string, V) bool) {
	if o == nil {
		return
	}
	i, j := 0, 0
	if key != "" {
		if i = o.chunk(key); i == len(o.chunks) {
			return
		}
		var found bool
		if j, found = slices.BinarySearchFunc(o.chunks[i], key, byKey[V]); found {
			j++
		}
	}
	for ; i < len(o.chunks); i, j = i+1, 0 {
		for ; j < len(o.chunks[i]); j++ {
			if p := &o.chunks[i][j]; !f(p.key, p.v) {
				return
			}
		}
	}
}

// before calls f with the pairs before key ("": all), in reverse order, until it
// returns false.
func (o *ordered[V]) before(key string, f func(string, V) bool) {
	if o == nil || len(o.chunks) == 0 {
		return
	}
	i := len(o.chunks) - 1
	j := len(o.chunks[i]) - 1
	if key != "" {
		if k := o.chunk(key); k < len(o.chunks) {
			i = k
			j, _ = slices.BinarySearchFunc(o.chunks[i], key, byKey[V])
			j--
		}
	}
	for {
		for ; j >= 0; j-- {
			if p := &o.chunks[i][j]; !f(p.key, p.v) {
				return
			}
		}
		if i--; i < 0 {
			return
		}
		j = len(o.chunks[i]) - 1
	}
}

// keys returns all keys in order.
func (o *ordered[V]) keys() []string {
	if o == nil {
		return nil
	}
	all := make([]string, 0, o.n)
	o.after("", func(k string, _ V) bool { all = append(all, k); return true })
	return all
}

func (o *ordered[V]) len() int {
	if o == nil {
		return 0
	}
	return o.n
}
