package dynamodb

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
)

// maxDepth is how deep DynamoDB nests. Source: Amazon DynamoDB developer guide,
// "Constraints": nested attribute depth.
const maxDepth = 32

// attribute returns payload as an attribute: JSON as the value it stands for, all
// else as bytes. Numbers keep their text: DynamoDB's have 38 digits, a float64
// has 15.
func attribute(payload []byte) (types.AttributeValue, error) {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	v, err := value(d, 0)
	if err == nil {
		if _, e := d.Token(); e != io.EOF {
			err = errNotJSON
		}
	}
	if errors.Is(err, errTooDeep) {
		return nil, err
	}
	if err != nil {
		return &types.AttributeValueMemberB{Value: payload}, nil
	}
	return v, nil
}

// columns returns the members of payload, a JSON object, as attributes.
func columns(payload []byte) (map[string]types.AttributeValue, error) {
	v, err := attribute(payload)
	if err != nil {
		return nil, err
	}
	m, ok := v.(*types.AttributeValueMemberM)
	if !ok {
		return nil, fmt.Errorf("the result is not a JSON object: dynamoDBv2 writes each member to a column of its own")
	}
	return m.Value, nil
}

var (
	errNotJSON = errors.New("not JSON")
	errTooDeep = fmt.Errorf("the result is nested deeper than %d levels", maxDepth)
)

func value(d *json.Decoder, depth int) (types.AttributeValue, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errNotJSON
	}
	switch t := t.(type) {
	case nil:
		return &types.AttributeValueMemberNULL{Value: true}, nil
	case bool:
		return &types.AttributeValueMemberBOOL{Value: t}, nil
	case string:
		return &types.AttributeValueMemberS{Value: t}, nil
	case json.Number:
		return &types.AttributeValueMemberN{Value: t.String()}, nil
	case json.Delim:
		if depth == maxDepth {
			return nil, errTooDeep
		}
		if t == '[' {
			list := []types.AttributeValue{}
			for d.More() {
				v, err := value(d, depth+1)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			if _, err := d.Token(); err != nil {
				return nil, errNotJSON
			}
			return &types.AttributeValueMemberL{Value: list}, nil
		}
		if t != '{' {
			return nil, errNotJSON
		}
		members := map[string]types.AttributeValue{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, errNotJSON
			}
			s, ok := name.(string)
			if !ok {
				return nil, errNotJSON
			}
			if members[s], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		if _, err := d.Token(); err != nil {
			return nil, errNotJSON
		}
		return &types.AttributeValueMemberM{Value: members}, nil
	}
	return nil, errNotJSON
}
