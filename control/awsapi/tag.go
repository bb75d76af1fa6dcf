package awsapi

type tag struct {
	Key   string `json:"Key" is:"required 1..128 ~tag"`
	Value string `json:"Value" is:"..256 ~tag"`
}

// tagsOf returns the tags of a request; nil for none.
func tagsOf(list []tag) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	out := make(map[string]string, len(list))
	for _, t := range list {
		if _, twice := out[t.Key]; twice {
			return nil, invalid("the tag %s is there twice", t.Key)
		}
		out[t.Key] = t.Value
	}
	return out, nil
}
