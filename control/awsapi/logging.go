package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func loggingOperations() []operation {
	return []operation{
		op(IoT, "SetV2LoggingOptions", "*", (*API).setLoggingOptions, partly("of the lines about clients in Weir's own log; no levels by event type; the role is kept and not used")),
		op(IoT, "GetV2LoggingOptions", "*", (*API).loggingOptions),
		op(IoT, "SetV2LoggingLevel", "*", (*API).setLoggingLevel),
		op(IoT, "ListV2LoggingLevels", "*", (*API).listLoggingLevels),
		op(IoT, "DeleteV2LoggingLevel", "*", (*API).deleteLoggingLevel),
	}
}

type setLoggingOptionsRequest struct {
	RoleARN             string            `json:"roleArn" is:"..2048"`
	DefaultLogLevel     string            `json:"defaultLogLevel" is:"=DEBUG|INFO|ERROR|WARN|DISABLED"`
	DisableAllLogs      bool              `json:"disableAllLogs"`
	EventConfigurations []logEventSetting `json:"eventConfigurations" refuse:"levels are set for clients here, not for types of event"`
}

type logEventSetting struct {
	EventType      string `json:"eventType"`
	LogLevel       string `json:"logLevel"`
	LogDestination string `json:"logDestination"`
}

func (a *API) setLoggingOptions(ctx context.Context, q *setLoggingOptionsRequest) (*none, error) {
	return &none{}, a.o.Registry.SetLoggingOptions(ctx, registry.LoggingOptions{
		RoleARN: q.RoleARN, Default: registry.LogLevel(q.DefaultLogLevel), DisableAll: q.DisableAllLogs,
	})
}

type loggingOptionsRequest struct {
	Verbose bool `json:"verbose" in:"query"` // asks for levels by event type, of which there are none
}

type loggingOptionsResponse struct {
	RoleARN         string `json:"roleArn,omitempty"`
	DefaultLogLevel string `json:"defaultLogLevel,omitempty"`
	DisableAllLogs  bool   `json:"disableAllLogs"`
}

func (a *API) loggingOptions(context.Context, *loggingOptionsRequest) (*loggingOptionsResponse, error) {
	o, err := a.o.Registry.LoggingOptions()
	if err != nil {
		return nil, err
	}
	return &loggingOptionsResponse{o.RoleARN, string(o.Default), o.DisableAll}, nil
}

type logTarget struct {
	TargetType string `json:"targetType" is:"required =DEFAULT|THING_GROUP|CLIENT_ID|SOURCE_IP|PRINCIPAL_ID"`
	TargetName string `json:"targetName,omitempty" is:"..256"`
}

type logTargetConfiguration struct {
	LogTarget logTarget `json:"logTarget" is:"required"`
	LogLevel  string    `json:"logLevel" is:"required =DEBUG|INFO|ERROR|WARN|DISABLED"`
}

func (a *API) setLoggingLevel(ctx context.Context, q *logTargetConfiguration) (*none, error) {
	t := registry.LogTarget{Type: q.LogTarget.TargetType, Name: q.LogTarget.TargetName}
	return &none{}, a.o.Registry.SetLogLevel(ctx, t, registry.LogLevel(q.LogLevel))
}

type listLoggingLevelsRequest struct {
	TargetType string `json:"targetType" in:"query" is:"=DEFAULT|THING_GROUP|CLIENT_ID|SOURCE_IP|PRINCIPAL_ID"`
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..250"`
}

type listLoggingLevelsResponse struct {
	LogTargetConfigurations []logTargetConfiguration `json:"logTargetConfigurations"`
	NextToken               string                   `json:"nextToken,omitempty"`
}

func (a *API) listLoggingLevels(_ context.Context, q *listLoggingLevelsRequest) (*listLoggingLevelsResponse, error) {
	list, next, err := a.o.Registry.LogLevels(q.TargetType, pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listLoggingLevelsResponse{LogTargetConfigurations: make([]logTargetConfiguration, 0, len(list)), NextToken: next}
	for _, l := range list {
		out.LogTargetConfigurations = append(out.LogTargetConfigurations, logTargetConfiguration{logTarget{l.Target.Type, l.Target.Name}, string(l.Level)})
	}
	return out, nil
}

type deleteLoggingLevelRequest struct {
	TargetType string `json:"targetType" in:"query" is:"required =DEFAULT|THING_GROUP|CLIENT_ID|SOURCE_IP|PRINCIPAL_ID"`
	TargetName string `json:"targetName" in:"query" is:"required ..256"`
}

func (a *API) deleteLoggingLevel(ctx context.Context, q *deleteLoggingLevelRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteLogLevel(ctx, registry.LogTarget{Type: q.TargetType, Name: q.TargetName})
}
