package awsapi

import (
	"context"

	"github.com/weir-iot/weir/registry"
)

func roleAliasOperations() []operation {
	const alias = "rolealias/{roleAlias}"
	const remark = "a role stands for the policy of its name: see aws.md"
	return []operation{
		op(IoT, "CreateRoleAlias", alias, (*API).createRoleAlias, partly(remark)),
		op(IoT, "DescribeRoleAlias", alias, (*API).describeRoleAlias),
		op(IoT, "ListRoleAliases", "*", (*API).listRoleAliases),
		op(IoT, "UpdateRoleAlias", alias, (*API).updateRoleAlias, partly(remark)),
		op(IoT, "DeleteRoleAlias", alias, (*API).deleteRoleAlias),
	}
}

type createRoleAliasRequest struct {
	RoleAlias                 string `json:"roleAlias" in:"uri" is:"required 1..128 ~word"`
	RoleARN                   string `json:"roleArn" is:"required 20..2048"`
	CredentialDurationSeconds *int64 `json:"credentialDurationSeconds" is:"900..43200"`
	Tags                      []tag  `json:"tags" is:"..50"`
}

type roleAliasName struct {
	RoleAlias    string `json:"roleAlias"`
	RoleAliasARN string `json:"roleAliasArn"`
}

func (a *API) roleAliasName(v *registry.RoleAlias, err error) (*roleAliasName, error) {
	if err != nil {
		return nil, err
	}
	return &roleAliasName{v.Name, a.o.Registry.RoleAliasARN(v.Name)}, nil
}

// passRole refuses who may not hand a role to others: whoever names a role in an
// alias gives its permissions to devices.
func (a *API) passRole(ctx context.Context, roleARN string) error {
	const action = "iam:PassRole"
	if c := callerOf(ctx); c.May == nil || !c.May(action, roleARN) {
		return a.denied(c, action, roleARN, IoT)
	}
	return nil
}

func (a *API) createRoleAlias(ctx context.Context, q *createRoleAliasRequest) (*roleAliasName, error) {
	if err := a.passRole(ctx, q.RoleARN); err != nil {
		return nil, err
	}
	tags, err := tagsOf(q.Tags)
	if err != nil {
		return nil, err
	}
	return a.roleAliasName(a.o.Registry.CreateRoleAlias(ctx, q.RoleAlias, q.RoleARN, int(number(q.CredentialDurationSeconds)), tags))
}

type roleAliasRequest struct {
	RoleAlias string `json:"roleAlias" in:"uri" is:"required 1..128 ~word"`
}

type describeRoleAliasResponse struct {
	RoleAliasDescription roleAliasDescription `json:"roleAliasDescription"`
}

type roleAliasDescription struct {
	RoleAlias                 string `json:"roleAlias"`
	RoleAliasARN              string `json:"roleAliasArn"`
	RoleARN                   string `json:"roleArn"`
	Owner                     string `json:"owner"`
	CredentialDurationSeconds int    `json:"credentialDurationSeconds"`
	CreationDate              Time   `json:"creationDate"`
	LastModifiedDate          Time   `json:"lastModifiedDate"`
}

func (a *API) describeRoleAlias(_ context.Context, q *roleAliasRequest) (*describeRoleAliasResponse, error) {
	v, err := a.o.Registry.RoleAlias(q.RoleAlias)
	if err != nil {
		return nil, err
	}
	return &describeRoleAliasResponse{roleAliasDescription{
		v.Name, a.o.Registry.RoleAliasARN(v.Name), v.RoleARN, a.o.AccountID, v.Seconds, Time{v.CreatedAt}, Time{v.ModifiedAt},
	}}, nil
}

type listRoleAliasesRequest struct {
	PageSize       *int64 `json:"pageSize" in:"query" is:"1..250"`
	Marker         string `json:"marker" in:"query" is:"..1024 ~base64"`
	AscendingOrder bool   `json:"isAscendingOrder" in:"query"`
}

type listRoleAliasesResponse struct {
	RoleAliases []string `json:"roleAliases"`
	NextMarker  string   `json:"nextMarker,omitempty"`
}

func (a *API) listRoleAliases(_ context.Context, q *listRoleAliasesRequest) (*listRoleAliasesResponse, error) {
	list, next, err := a.o.Registry.RoleAliases(q.AscendingOrder, pageOf(q.PageSize, q.Marker))
	if err != nil {
		return nil, err
	}
	out := &listRoleAliasesResponse{RoleAliases: make([]string, 0, len(list)), NextMarker: next}
	for _, v := range list {
		out.RoleAliases = append(out.RoleAliases, v.Name)
	}
	return out, nil
}

type updateRoleAliasRequest struct {
	RoleAlias                 string `json:"roleAlias" in:"uri" is:"required 1..128 ~word"`
	RoleARN                   string `json:"roleArn" is:"20..2048"`
	CredentialDurationSeconds *int64 `json:"credentialDurationSeconds" is:"900..43200"`
}

func (a *API) updateRoleAlias(ctx context.Context, q *updateRoleAliasRequest) (*roleAliasName, error) {
	if q.RoleARN != "" {
		if err := a.passRole(ctx, q.RoleARN); err != nil {
			return nil, err
		}
	}
	return a.roleAliasName(a.o.Registry.UpdateRoleAlias(ctx, q.RoleAlias, q.RoleARN, int(number(q.CredentialDurationSeconds))))
}

func (a *API) deleteRoleAlias(ctx context.Context, q *roleAliasRequest) (*none, error) {
	return &none{}, a.o.Registry.DeleteRoleAlias(ctx, q.RoleAlias)
}
