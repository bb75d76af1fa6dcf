package eventlog

import "strings"

// superset returns one subject filter that covers all of subjects.
func superset(subjects []string) string {
	if len(subjects) == 0 {
		return ""
	}
	s := strings.Split(subjects[0], ".")
	for _, other := range subjects[1:] {
		o := strings.Split(other, ".")
		var m []string
		for i := 0; ; i++ {
			if i == len(s) && i == len(o) {
				break
			}
			if i == len(s) || i == len(o) || s[i] == ">" || o[i] == ">" {
				if i > 0 && (i == len(s) || i == len(o)) {
					// One ends where the other goes on: a tail has at least one
					// token, so it starts one earlier.
					m = m[:i-1]
				}
				m = append(m, ">")
				break
			}
			if s[i] == o[i] {
				m = append(m, s[i])
			} else {
				m = append(m, "*")
			}
		}
		s = m
	}
	return strings.Join(s, ".")
}
