package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func groupOperations() []operation {
	const group = "thinggroup/{thingGroupName}"
	return []operation{
		op(IoT, "CreateThingGroup", group, (*API).createThingGroup),
		op(IoT, "DescribeThingGroup", group, (*API).describeThingGroup),
		op(IoT, "ListThingGroups", "*", (*API).listThingGroups),
		op(IoT, "UpdateThingGroup", group, (*API).updateThingGroup),
		op(IoT, "DeleteThingGroup", group, (*API).deleteThingGroup),
		op(IoT, "AddThingToThingGroup", group, (*API).addThingToThingGroup),
		op(IoT, "RemoveThingFromThingGroup", group, (*API).removeThingFromThingGroup),
		op(IoT, "ListThingsInThingGroup", group, (*API).listThingsInThingGroup),
		op(IoT, "ListThingGroupsForThing", "thing/{thingName}", (*API).listThingGroupsForThing),
		op(IoT, "UpdateThingGroupsForThing", "thing/{thingName}", (*API).updateThingGroupsForThing),
	}
}

type thingGroupProperties struct {
	ThingGroupDescription *string           `json:"thingGroupDescription,omitempty" is:"..2028 ~text"`
	AttributePayload      *attributePayload `json:"attributePayload,omitempty"`
}

type createThingGroupRequest struct {
	ThingGroupName       string                `json:"thingGroupName" in:"uri" is:"required 1..128 ~name"`
	ParentGroupName      string                `json:"parentGroupName" is:"1..128 ~name"`
	ThingGroupProperties *thingGroupProperties `json:"thingGroupProperties"`
	Tags                 []tag                 `json:"tags" is:"..50"`
}

type createThingGroupResponse struct {
	ThingGroupName string `json:"thingGroupName"`
	ThingGroupARN  string `json:"thingGroupArn"`
	ThingGroupID   string `json:"thingGroupId"`
}

func (a *API) createThingGroup(ctx context.Context, q *createThingGroupRequest) (*createThingGroupResponse, error) {
	in := registry.CreateGroup{Name: q.ThingGroupName, Parent: q.ParentGroupName}
	if p := q.ThingGroupProperties; p != nil {
		in.Attributes, _ = p.AttributePayload.of()
		if p.ThingGroupDescription != nil {
			in.Description = *p.ThingGroupDescription
		}
	}
	var err error
	if in.Tags, err = tagsOf(q.Tags); err != nil {
		return nil, err
	}
	g, err := a.o.Registry.CreateGroup(ctx, in)
	if err != nil {
		return nil, err
	}
	return &createThingGroupResponse{g.Name, a.o.Registry.GroupARN(g.Name), g.ID}, nil
}

type thingGroupRequest struct {
	ThingGroupName string `json:"thingGroupName" in:"uri" is:"required 1..128 ~name"`
}

type describeThingGroupResponse struct {
	ThingGroupName       string               `json:"thingGroupName"`
	ThingGroupID         string               `json:"thingGroupId"`
	ThingGroupARN        string               `json:"thingGroupArn"`
	Version              int64                `json:"version"`
	ThingGroupProperties thingGroupProperties `json:"thingGroupProperties"`
	ThingGroupMetadata   thingGroupMetadata   `json:"thingGroupMetadata"`
}

type thingGroupMetadata struct {
	ParentGroupName         string      `json:"parentGroupName,omitempty"`
	RootToParentThingGroups []groupName `json:"rootToParentThingGroups,omitempty"`
	CreationDate            Time        `json:"creationDate"`
}

type groupName struct {
	GroupName string `json:"groupName"`
	GroupARN  string `json:"groupArn"`
}

func (a *API) groupNames(names []string) []groupName {
	out := make([]groupName, len(names))
	for i, n := range names {
		out[i] = groupName{n, a.o.Registry.GroupARN(n)}
	}
	return out
}

func (a *API) describeThingGroup(_ context.Context, q *thingGroupRequest) (*describeThingGroupResponse, error) {
	g, err := a.o.Registry.Group(q.ThingGroupName)
	if err != nil {
		return nil, err
	}
	above, err := a.o.Registry.Ancestors(q.ThingGroupName)
	if err != nil {
		return nil, err
	}
	out := &describeThingGroupResponse{ThingGroupName: g.Name, ThingGroupID: g.ID, ThingGroupARN: a.o.Registry.GroupARN(g.Name), Version: g.Version,
		ThingGroupMetadata: thingGroupMetadata{ParentGroupName: g.Parent, CreationDate: Time{g.CreatedAt}}}
	if g.Description != "" {
		out.ThingGroupProperties.ThingGroupDescription = &g.Description
	}
	if len(g.Attributes) > 0 {
		out.ThingGroupProperties.AttributePayload = &attributePayload{Attributes: g.Attributes}
	}
	for _, p := range above {
		out.ThingGroupMetadata.RootToParentThingGroups = append(out.ThingGroupMetadata.RootToParentThingGroups, groupName{p.Name, a.o.Registry.GroupARN(p.Name)})
	}
	return out, nil
}

type listThingGroupsRequest struct {
	NextToken        string `json:"nextToken" in:"query"`
	MaxResults       *int64 `json:"maxResults" in:"query" is:"1..250"`
	ParentGroup      string `json:"parentGroup" in:"query" is:"1..128 ~name"`
	NamePrefixFilter string `json:"namePrefixFilter" in:"query" is:"1..128 ~name"`
	Recursive        *bool  `json:"recursive" in:"query"`
}

type listThingGroupsResponse struct {
	ThingGroups []groupName `json:"thingGroups"`
	NextToken   string      `json:"nextToken,omitempty"`
}

func (a *API) listThingGroups(_ context.Context, q *listThingGroupsRequest) (*listThingGroupsResponse, error) {
	f := registry.GroupFilter{Parent: q.ParentGroup, Prefix: q.NamePrefixFilter, Recursive: q.Recursive}
	list, next, err := a.o.Registry.Groups(f, pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	out := &listThingGroupsResponse{ThingGroups: make([]groupName, 0, len(list)), NextToken: next}
	for _, g := range list {
		out.ThingGroups = append(out.ThingGroups, groupName{g.Name, a.o.Registry.GroupARN(g.Name)})
	}
	return out, nil
}

type updateThingGroupRequest struct {
	ThingGroupName       string                `json:"thingGroupName" in:"uri" is:"required 1..128 ~name"`
	ThingGroupProperties *thingGroupProperties `json:"thingGroupProperties" is:"required"`
	ExpectedVersion      *int64                `json:"expectedVersion"`
}

type updateThingGroupResponse struct {
	Version int64 `json:"version"`
}

func (a *API) updateThingGroup(ctx context.Context, q *updateThingGroupRequest) (*updateThingGroupResponse, error) {
	p := q.ThingGroupProperties
	in := registry.UpdateGroup{Name: q.ThingGroupName, Description: p.ThingGroupDescription, ExpectedVersion: number(q.ExpectedVersion)}
	in.Attributes, in.Merge = p.AttributePayload.of()
	g, err := a.o.Registry.UpdateGroup(ctx, in)
	if err != nil {
		return nil, err
	}
	return &updateThingGroupResponse{g.Version}, nil
}

type deleteThingGroupRequest struct {
	ThingGroupName  string `json:"thingGroupName" in:"uri" is:"required 1..128 ~name"`
	ExpectedVersion *int64 `json:"expectedVersion" in:"query"`
}

func (a *API) deleteThingGroup(ctx context.Context, q *deleteThingGroupRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteGroup(ctx, q.ThingGroupName, number(q.ExpectedVersion))
}

type thingInGroupRequest struct {
	ThingGroupName        string `json:"thingGroupName" is:"1..128 ~name"`
	ThingGroupARN         string `json:"thingGroupArn" is:"..2048"`
	ThingName             string `json:"thingName" is:"1..128 ~name"`
	ThingARN              string `json:"thingArn" is:"..2048"`
	OverrideDynamicGroups bool   `json:"overrideDynamicGroups"` // there are none that could be in the way
}

func (a *API) thingAndGroup(q *thingInGroupRequest) (thing, group string, err error) {
	if group, err = a.named("thinggroup", "thingGroup", q.ThingGroupName, q.ThingGroupARN); err != nil {
		return "", "", err
	}
	thing, err = a.named("thing", "thing", q.ThingName, q.ThingARN)
	return thing, group, err
}

func (a *API) addThingToThingGroup(ctx context.Context, q *thingInGroupRequest) (*none, error) {
	thing, group, err := a.thingAndGroup(q)
	if err != nil {
		return nil, err
	}
	return &none{}, a.o.Registry.AddToGroup(ctx, thing, group)
}

func (a *API) removeThingFromThingGroup(ctx context.Context, q *thingInGroupRequest) (*none, error) {
	thing, group, err := a.thingAndGroup(q)
	if err != nil {
		return nil, err
	}
	return &none{}, a.o.Registry.RemoveFromGroup(ctx, thing, group)
}

type listThingsInThingGroupRequest struct {
	ThingGroupName string `json:"thingGroupName" in:"uri" is:"required 1..128 ~name"`
	Recursive      bool   `json:"recursive" in:"query"`
	NextToken      string `json:"nextToken" in:"query"`
	MaxResults     *int64 `json:"maxResults" in:"query" is:"1..250"`
}

type thingNamesResponse struct {
	Things    []string `json:"things"`
	NextToken string   `json:"nextToken,omitempty"`
}

func (a *API) listThingsInThingGroup(_ context.Context, q *listThingsInThingGroupRequest) (*thingNamesResponse, error) {
	list, next, err := a.o.Registry.ThingsInGroup(q.ThingGroupName, q.Recursive, pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	return &thingNamesResponse{names(list), next}, nil
}

// names makes an empty list of none.
func names(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

type listThingGroupsForThingRequest struct {
	ThingName  string `json:"thingName" in:"uri" is:"required 1..128 ~name"`
	NextToken  string `json:"nextToken" in:"query"`
	MaxResults *int64 `json:"maxResults" in:"query" is:"1..250"`
}

func (a *API) listThingGroupsForThing(_ context.Context, q *listThingGroupsForThingRequest) (*listThingGroupsResponse, error) {
	list, next, err := a.o.Registry.GroupsOfThing(q.ThingName, pageOf(q.MaxResults, q.NextToken))
	if err != nil {
		return nil, err
	}
	return &listThingGroupsResponse{a.groupNames(list), next}, nil
}

type updateThingGroupsForThingRequest struct {
	ThingName             string   `json:"thingName" is:"required 1..128 ~name"`
	ThingGroupsToAdd      []string `json:"thingGroupsToAdd" each:"1..128 ~name"`
	ThingGroupsToRemove   []string `json:"thingGroupsToRemove" each:"1..128 ~name"`
	OverrideDynamicGroups bool     `json:"overrideDynamicGroups"`
}

func (a *API) updateThingGroupsForThing(ctx context.Context, q *updateThingGroupsForThingRequest) (*none, error) {
	return &none{}, a.o.Registry.UpdateGroupsOfThing(ctx, q.ThingName, q.ThingGroupsToAdd, q.ThingGroupsToRemove)
}
