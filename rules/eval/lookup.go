package eval

import "context"

// Lookups are the services that functions call out to. A nil field is a service
// that is not there: Compile refuses the functions that need it. All methods
// may be called by several goroutines at a time. An error fails the evaluation,
// so that the rule's error action gets it; errs.NotFound gives Undefined.
type Lookups struct {
	Shadow     ShadowReader
	Registry   RegistryReader
	Table      TableReader
	Secret     SecretReader
	Lambda     FunctionInvoker
	Descriptor DescriptorReader
	Predict    Predictor
}

// ShadowReader serves get_thing_shadow.
type ShadowReader interface {
	// Shadow returns the document of a thing's shadow as JSON; name "" is the
	// unnamed one. role is the identity to read with, as the statement has it.
	Shadow(ctx context.Context, thing, name, role string) ([]byte, error)
}

// RegistryReader serves get_registry_data.
type RegistryReader interface {
	// Registry returns the answer of an API of the registry, DescribeThing or
	// ListThingGroupsForThing, as JSON.
	Registry(ctx context.Context, api, thing, role string) ([]byte, error)
}

// TableKey is one attribute of a table's key. Value is a String or a number in
// plain notation; Number tells them apart.
type TableKey struct {
	Name, Value string
	Number      bool
}

// TableReader serves get_dynamodb.
type TableReader interface {
	// Item returns an item as plain JSON (without the attribute types), nil
	// where there is none. sort is nil for a table without a sort key.
	Item(ctx context.Context, table string, partition TableKey, sort *TableKey, role string) ([]byte, error)
}

// SecretReader serves get_secret.
type SecretReader interface {
	// Secret returns the current version of a secret: its text, or its bytes
	// where binary.
	Secret(ctx context.Context, id string, binary bool, role string) ([]byte, error)
}

// FunctionInvoker serves aws_lambda.
type FunctionInvoker interface {
	// Invoke runs a function and returns its answer, JSON.
	Invoke(ctx context.Context, arn string, input []byte) ([]byte, error)
}

// DescriptorReader serves decode(…, 'proto', …).
type DescriptorReader interface {
	// Descriptor returns a serialised FileDescriptorSet from object storage.
	Descriptor(ctx context.Context, bucket, key string) ([]byte, error)
}

// Predictor serves machinelearning_predict.
type Predictor interface {
	// Predict returns the answer of a model as JSON.
	Predict(ctx context.Context, model, role string, record []byte) ([]byte, error)
}

// has reports whether the service s is there.
func (l *Lookups) has(s Service) bool {
	switch s {
	case ShadowService:
		return l.Shadow != nil
	case RegistryService:
		return l.Registry != nil
	case TableService:
		return l.Table != nil
	case SecretService:
		return l.Secret != nil
	case LambdaService:
		return l.Lambda != nil
	case DescriptorService:
		return l.Descriptor != nil
	case PredictService:
		return l.Predict != nil
	}
	return true
}
