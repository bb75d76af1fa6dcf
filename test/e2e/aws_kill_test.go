package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/weir-iot/weir/test/weirtest"
)

// What the API has acknowledged outlives kill -9, and nothing it was at is left
// half-made: 32 clients make, attach and delete while the process dies.
func TestAWSKill(t *testing.T) {
	w := weirtest.Process(t)
	c := sdk(t, w, nil)
	policy := aws.String("p")
	ok(t, func() (*iot.CreatePolicyOutput, error) {
		return c.CreatePolicy(t.Context(), &iot.CreatePolicyInput{PolicyName: policy, PolicyDocument: aws.String(`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`)})
	})
	ok(t, func() (*iot.CreateThingGroupOutput, error) {
		return c.CreateThingGroup(t.Context(), &iot.CreateThingGroupInput{ThingGroupName: aws.String("g")})
	})
	cert := ok(t, func() (*iot.CreateKeysAndCertificateOutput, error) {
		return c.CreateKeysAndCertificate(t.Context(), &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	}).CertificateArn

	// What became of a thing as far as the API has said so.
	type fate struct {
		made, updated, attached, grouped, deleted bool
		deleting                                  bool // asked for, and perhaps done
	}
	things := map[string]*fate{}
	for round := range 2 {
		var mu sync.Mutex
		done := 0
		ctx, cancel := context.WithCancel(t.Context())
		enough := make(chan struct{})
		var wg sync.WaitGroup
		for n := range 32 {
			wg.Go(func() {
				for i := 0; ctx.Err() == nil; i++ {
					name := aws.String(fmt.Sprintf("t-%d-%d-%d", round, n, i))
					f := &fate{}
					note := func(what *bool) {
						mu.Lock()
						defer mu.Unlock()
						*what = true
						if things[*name] = f; what == &f.grouped {
							if done++; done == 60 {
								close(enough)
							}
						}
					}
					for _, step := range []struct {
						what *bool
						do   func() error
					}{
						{&f.made, func() error {
							_, err := c.CreateThing(ctx, &iot.CreateThingInput{ThingName: name})
							return err
						}},
						{&f.updated, func() error {
							_, err := c.UpdateThing(ctx, &iot.UpdateThingInput{ThingName: name, AttributePayload: &types.AttributePayload{Attributes: map[string]string{"n": "1"}}})
							return err
						}},
						{&f.attached, func() error {
							_, err := c.AttachThingPrincipal(ctx, &iot.AttachThingPrincipalInput{ThingName: name, Principal: cert})
							return err
						}},
						{&f.grouped, func() error {
							_, err := c.AddThingToThingGroup(ctx, &iot.AddThingToThingGroupInput{ThingName: name, ThingGroupName: aws.String("g")})
							return err
						}},
						{nil, func() error {
							if i%3 != 0 {
								return errors.New("is kept")
							}
							note(&f.deleting)
							_, err := c.DetachThingPrincipal(ctx, &iot.DetachThingPrincipalInput{ThingName: name, Principal: cert})
							return err
						}},
						{&f.deleted, func() error {
							_, err := c.DeleteThing(ctx, &iot.DeleteThingInput{ThingName: name})
							return err
						}},
					} {
						if step.do() != nil {
							break
						}
						if step.what != nil {
							note(step.what)
						}
					}
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(90 * time.Second):
			t.Error("the API makes nothing")
		}
		w.Kill()
		cancel()
		wg.Wait()
		w.BeginProcess()
		c = sdk(t, w, nil)
	}

	attached := map[string]bool{}
	for p := iot.NewListPrincipalThingsPaginator(c, &iot.ListPrincipalThingsInput{Principal: cert, MaxResults: aws.Int32(250)}); p.HasMorePages(); {
		for _, name := range ok(t, func() (*iot.ListPrincipalThingsOutput, error) { return p.NextPage(t.Context()) }).Things {
			attached[name] = true
		}
	}
	grouped := map[string]bool{}
	for p := iot.NewListThingsInThingGroupPaginator(c, &iot.ListThingsInThingGroupInput{ThingGroupName: aws.String("g"), MaxResults: aws.Int32(250)}); p.HasMorePages(); {
		for _, name := range ok(t, func() (*iot.ListThingsInThingGroupOutput, error) { return p.NextPage(t.Context()) }).Things {
			grouped[name] = true
		}
	}
	there := map[string]types.ThingAttribute{}
	for p := iot.NewListThingsPaginator(c, &iot.ListThingsInput{MaxResults: aws.Int32(250)}); p.HasMorePages(); {
		for _, th := range ok(t, func() (*iot.ListThingsOutput, error) { return p.NextPage(t.Context()) }).Things {
			there[aws.ToString(th.ThingName)] = th
		}
	}
	for _, name := range slices.Sorted(maps.Keys(things)) {
		f, th := things[name], there[name]
		_, is := there[name]
		switch {
		case f.deleted && (is || attached[name] || grouped[name]):
			t.Errorf("%s was deleted, and is there: %v, attached %v, in its group %v", name, is, attached[name], grouped[name])
		case f.deleting || f.deleted:
		case f.made != is, f.updated && th.Attributes["n"] != "1", f.attached && !attached[name], f.grouped && !grouped[name]:
			t.Errorf("%s: acknowledged %+v; is there %v with %v, attached %v, in its group %v", name, *f, is, th.Attributes, attached[name], grouped[name])
		}
	}
	for name := range attached {
		if _, is := there[name]; !is {
			t.Errorf("%s is attached and not there", name)
		}
	}
	for name := range grouped {
		if _, is := there[name]; !is {
			t.Errorf("%s is in a group and not there", name)
		}
	}
}
