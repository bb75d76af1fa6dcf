package eval

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weir-iot/weir/internal/errs"
)

const (
	maxProtoDepth = 60 // of messages within messages; as JSON they are no deeper than 64 levels
	maxDescriptor = 1 << 20
	protoCostEach = 16 // bytes of memory for a byte of message, about
)

// decodeProto is decode(x, 'proto', bucket, key, protofile, messagetype). JSON
// is that of Protobuf's own mapping: names in lowerCamelCase, 64-bit integers as
// text, fields with their default left out. A message that does not fit its
// type gives Undefined; a descriptor that is missing or broken is a failure.
func decodeProto(c *Call, args []Value) Value {
	data, isPayload := args[0].PayloadBytes()
	if !isPayload {
		if args[0].Kind() != String {
			return Value{}
		}
		var ok bool
		if data, ok = fromBase64(c, args[0].Str()); !ok {
			return Value{}
		}
	}
	if !allStrings(args[2:]) {
		return Value{}
	}
	where := texts(args[2:])
	a := ask(c, "decode", where[:2], func(ctx context.Context) ([]byte, error) {
		return c.Lookups().Descriptor.Descriptor(ctx, where[0], where[1])
	})
	if a.err == nil && a.data == nil {
		a.err = errs.Errorf("eval.decode", errs.NotFound, "no descriptor at %s/%s", where[0], where[1])
	}
	if a.err != nil {
		return c.Fail(a.err)
	}
	sum := sha256.Sum256(a.data)
	t := c.Cached("decode proto", fmt.Sprintf("%x %q", sum, where[2:]), func() any { return findMessage(a.data, where[2], where[3]) }).(messageType)
	if t.err != nil {
		return c.Fail(errs.E("eval.decode", errs.Invalid, t.err))
	}
	if !c.Charge(protoCostEach * len(data)) {
		return Value{}
	}
	m := dynamicpb.NewMessage(t.message)
	o := proto.UnmarshalOptions{RecursionLimit: maxProtoDepth, Resolver: t.types}
	if err := o.Unmarshal(data, m); err != nil {
		return Value{}
	}
	out, err := protojson.MarshalOptions{Resolver: t.types}.Marshal(m)
	if err != nil || !c.Charge(len(out)) {
		return Value{}
	}
	v, ok := ParseJSON(out, c.Version())
	if !ok {
		return Value{}
	}
	return v
}

// messageType is a message of a descriptor, or why there is none.
type messageType struct {
	message protoreflect.MessageDescriptor
	types   *dynamicpb.Types
	err     error
}

// findMessage reads a serialised FileDescriptorSet and finds a message in one of
// its files, by its full name or the one it has in the file.
func findMessage(set []byte, file, name string) messageType {
	fail := func(format string, args ...any) messageType {
		return messageType{err: fmt.Errorf(format, args...)}
	}
	if len(set) > maxDescriptor {
		return fail("the descriptor has %d bytes; up to %d are taken", len(set), maxDescriptor)
	}
	var s descriptorpb.FileDescriptorSet
	if err := (proto.UnmarshalOptions{RecursionLimit: maxProtoDepth}).Unmarshal(set, &s); err != nil {
		return fail("the descriptor is no FileDescriptorSet: %w", err)
	}
	files, err := protodesc.NewFiles(&s)
	if err != nil {
		return fail("the descriptor cannot be used: %w (make it with protoc --include_imports)", err)
	}
	f, err := files.FindFileByPath(file)
	if err != nil {
		return fail("the descriptor has no file %s", file)
	}
	full := protoreflect.FullName(strings.TrimPrefix(name, "."))
	for _, try := range []protoreflect.FullName{full, f.Package() + "." + full} {
		d, err := files.FindDescriptorByName(try)
		if m, ok := d.(protoreflect.MessageDescriptor); err == nil && ok && m.ParentFile().Path() == file {
			return messageType{message: m, types: dynamicpb.NewTypes(files)}
		}
	}
	return fail("the file %s has no message %s", file, name)
}
