// Package registry keeps who and what there is: things, thing types, groups,
// certificates, certificate authorities, policies and what is attached to what,
// access keys, and the settings that go with them.
//
// In a message's way it is asked by others from memory: the gateway whether a
// certificate is known and active, the policies which documents hold for it,
// the rules what a thing is. It stores nothing of a message.
//
// All of it is one bucket (kv, "registry"), of which each process keeps a
// projection in memory. Reads never wait for the store. A change is a function
// over a Tx: it reads the projection and names what is to be written; the
// registry commits that as one atomic batch that holds only if nothing it
// relied on has changed, and else runs the function again. So half of a change
// is never seen, not by a crash and not by another process. A change has
// returned once it is durable and readable here; other processes follow by the
// bucket, and OnChange tells of every change, one's own and theirs, in order.
//
// What a change relies on without writing it, such as the policy it attaches,
// it guards: a fixed pool of guard keys stands for "this goes on to exist".
// Attaching bumps one of the policy's guards, deleting the policy bumps all of
// them, so of the two one has to look again.
//
// # Registry API
//
// Things: CreateThing, Thing, Things, UpdateThing, DeleteThing, ThingOf (the
// thing of a connection). Types: CreateThingType, ThingType, ThingTypes,
// UpdateThingType, DeprecateThingType, DeleteThingType. Groups: CreateGroup,
// Group, Groups, Ancestors, UpdateGroup, DeleteGroup, AddToGroup,
// RemoveFromGroup, UpdateGroupsOfThing, ThingsInGroup, GroupsOfThing.
// Certificates: CreateKeysAndCertificate, CreateCertificateFromCSR,
// RegisterCertificate, AutoRegister, Certificate, Certificates,
// CertificatesByCA, UpdateCertificate, DeleteCertificate, LapsedClaims. CAs:
// RegistrationCode, RegisterCACertificate, CACertificate, CACertificates, CAsOf,
// UpdateCACertificate, DeleteCACertificate. Policies: CreatePolicy, Policy,
// Policies, their versions, AttachPolicy, DetachPolicy, AttachedPolicies,
// TargetsOf, EffectivePolicies. Principals: AttachPrincipal, DetachPrincipal,
// PrincipalsOf, ThingsOf. Access keys: CreateAccessKey, AccessKey, AccessKeys,
// UpdateAccessKey, DeleteAccessKey, CreateSession, Credential. Templates:
// CreateTemplate, Template, Templates, their versions; CreateProvisioningClaim,
// ProvisioningClaim, EndProvisioningClaims. Authorizers, domain
// configurations and role aliases likewise; DefaultAuthorizer. Settings:
// LoggingOptions, LogLevels, EventConfigurations, Indexing. Tags:
// TagResource, UntagResource, Tags. Several of these in one atomic change:
// Change with the methods of Tx.
//
// Records that are returned are shared: they must not be modified. A change
// puts a new one in their place.
package registry
