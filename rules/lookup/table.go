package lookup

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"

	"github.com/weir-iot/weir/internal/errs"
	"github.com/weir-iot/weir/rules/eval"
)

// maxItemAnswer bounds an answer of DynamoDB. get_dynamodb takes items of 8 KiB;
// what is not much larger is read so that its size can be told.
const maxItemAnswer = 1 << 20

// tables reads items with GetItem, eventually consistent.
type tables struct{ c *dynamodb.Client }

// Item implements eval.TableReader. The members stand in the order of their
// names. A table that does not exist is an error.
func (t tables) Item(ctx context.Context, table string, partition eval.TableKey, sort *eval.TableKey, _ string) ([]byte, error) {
	const op = "lookup.Item"
	what := fmt.Sprintf("table %.255q", table)
	key := map[string]types.AttributeValue{partition.Name: keyValue(partition)}
	if sort != nil {
		if sort.Name == partition.Name {
			return nil, errs.Errorf(op, errs.Invalid, "%s: %.255q is the name of both keys", what, sort.Name)
		}
		key[sort.Name] = keyValue(*sort)
	}
	out, err := t.c.GetItem(ctx, &dynamodb.GetItemInput{TableName: &table, Key: key})
	if err != nil {
		return nil, failed(op, what, "DynamoDB", err, true)
	}
	if len(out.Item) == 0 {
		return nil, nil
	}
	b, err := appendItem(nil, out.Item)
	if err != nil {
		return nil, errs.Errorf(op, errs.Invalid, "%s: %w", what, err)
	}
	return b, nil
}

func keyValue(k eval.TableKey) types.AttributeValue {
	if k.Number {
		return &types.AttributeValueMemberN{Value: k.Value}
	}
	return &types.AttributeValueMemberS{Value: k.Value}
}

func appendItem(b []byte, item map[string]types.AttributeValue) ([]byte, error) {
	b = append(b, '{')
	for i, name := range slices.Sorted(maps.Keys(item)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(appendText(b, name), ':')
		var err error
		if b, err = appendAttribute(b, item[name]); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendAttribute appends an attribute as JSON without its type: a number with
// all its digits, bytes in base64, a set as an array.
func appendAttribute(b []byte, v types.AttributeValue) ([]byte, error) {
	switch v := v.(type) {
	case *types.AttributeValueMemberS:
		return appendText(b, v.Value), nil
	case *types.AttributeValueMemberN:
		return appendNumber(b, v.Value)
	case *types.AttributeValueMemberB:
		return appendBytes(b, v.Value), nil
	case *types.AttributeValueMemberBOOL:
		return fmt.Append(b, v.Value), nil
	case *types.AttributeValueMemberNULL:
		return append(b, "null"...), nil
	case *types.AttributeValueMemberM:
		return appendItem(b, v.Value)
	case *types.AttributeValueMemberL:
		return appendList(b, v.Value, appendAttribute)
	case *types.AttributeValueMemberSS:
		return appendList(b, v.Value, func(b []byte, s string) ([]byte, error) { return appendText(b, s), nil })
	case *types.AttributeValueMemberNS:
		return appendList(b, v.Value, appendNumber)
	case *types.AttributeValueMemberBS:
		return appendList(b, v.Value, func(b, s []byte) ([]byte, error) { return appendBytes(b, s), nil })
	}
	return nil, fmt.Errorf("the item has an attribute of a type that is not known")
}

func appendList[T any](b []byte, list []T, one func([]byte, T) ([]byte, error)) ([]byte, error) {
	b = append(b, '[')
	for i, v := range list {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = one(b, v); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func appendText(b []byte, s string) []byte { return eval.StringValue(s).AppendJSON(b) }

func appendBytes(b, data []byte) []byte {
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), data), '"')
}

func appendNumber(b []byte, s string) ([]byte, error) {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	if s == "" || s[0] != '-' && !digit(s[0]) || !digit(s[len(s)-1]) || !json.Valid([]byte(s)) {
		return nil, fmt.Errorf("the item has the number %.60q", s)
	}
	return append(b, s...), nil
}
