package awsapi

import (
	"context"
	"strings"
)

func endpointOperations() []operation {
	return []operation{
		op(IoT, "DescribeEndpoint", "*", (*API).describeEndpoint, partly("the answer is host:port")),
	}
}

type describeEndpointRequest struct {
	EndpointType string `json:"endpointType" in:"query" is:"..128"`
}

type describeEndpointResponse struct {
	EndpointAddress string `json:"endpointAddress"`
}

// endpointTypes are those AWS knows.
var endpointTypes = []string{"iot:Data", "iot:Data-ATS", "iot:CredentialProvider", "iot:Jobs"}

func (a *API) describeEndpoint(_ context.Context, q *describeEndpointRequest) (*describeEndpointResponse, error) {
	kind := q.EndpointType
	if kind == "" {
		kind = "iot:Data"
	}
	for _, known := range endpointTypes {
		if !strings.EqualFold(kind, known) { // the guide writes IOT:Data-ATS and IoT:Data-ATS, too
			continue
		}
		if address := a.o.Endpoints()[known]; address != "" {
			return &describeEndpointResponse{address}, nil
		}
		return nil, notSupported("endpointType", "there is no endpoint for "+known+" here")
	}
	return nil, invalid("Endpoint Type %s is not supported.", clip(kind))
}
