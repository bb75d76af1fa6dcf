package awsapi

import "context"

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
	address := a.o.Endpoints()[kind]
	if address != "" {
		return &describeEndpointResponse{address}, nil
	}
	for _, known := range endpointTypes {
		if kind == known {
			return nil, notSupported("endpointType", "there is no endpoint for "+kind+" here")
		}
	}
	return nil, invalid("Endpoint Type %s is not supported.", clip(kind))
}
