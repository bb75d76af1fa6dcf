package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"

	"github.com/weir-iot/weir/internal/mqttclient"
	"github.com/weir-iot/weir/test/weirtest"
)

// enrol is a device's whole way, from its claim to its own certificate. Unlike
// those of device, its errors are to be expected: the other side is killed.
func (e *enrolment) enrol(ctx context.Context, addr, name, csr string) (certificate []byte, err error) {
	answers := make(chan *mqttclient.Message, 4)
	conf := e.conf.Clone()
	conf.Certificates = []tls.Certificate{e.claim}
	c, err := mqttclient.Connect(ctx, mqttclient.Options{Addr: addr, TLS: conf, ClientID: name, OnMessage: func(m *mqttclient.Message) { answers <- m }})
	if err != nil {
		return nil, err
	}
	defer c.Abort()
	if err := c.Subscribe(ctx, 1, enrolling("json", "lamps")...); err != nil {
		return nil, err
	}
	ask := func(call string, q any) (a map[string]any, err error) {
		b, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		if err := c.Publish(ctx, &mqttclient.Message{Topic: call, Payload: b, QoS: 1}); err != nil {
			return nil, err
		}
		select {
		case m := <-answers:
			if !strings.HasSuffix(m.Topic, "/accepted") {
				return nil, fmt.Errorf("%s: %s", m.Topic, m.Payload)
			}
			return a, json.Unmarshal(m.Payload, &a)
		case <-c.Done():
			return nil, errors.New("the connection ended")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	a, err := ask("$aws/certificates/create-from-csr/json", map[string]string{"certificateSigningRequest": csr})
	if err != nil {
		return nil, err
	}
	b, _ := pem.Decode([]byte(a["certificatePem"].(string)))
	_, err = ask(provisionLamps+"json", map[string]any{"certificateOwnershipToken": a["certificateOwnershipToken"], "parameters": map[string]string{"ThingName": name}})
	return b.Bytes, err
}

// The process is killed while devices enrol. Who was told that it is enrolled is,
// and nothing is there half: no thing without its certificate, no certificate that
// is good without its thing.
func TestProvisioningKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("a process that is killed")
	}
	w := weirtest.Process(t, weirtest.Durability("disk"), weirtest.Key("listen.mqtts", "localhost:0"))
	e := newEnrolment(t, w)
	key := ecKey(t)
	csr := csrOf(t, key, &x509.CertificateRequest{})
	told := map[string][]byte{}
	for round := range 3 {
		var mu sync.Mutex
		var workers sync.WaitGroup
		enough, addr := make(chan struct{}), w.Endpoints().MQTTS
		for i := range 8 {
			workers.Go(func() {
				for n := 0; ; n++ {
					name := fmt.Sprintf("lamp-%d-%d-%d", round, i, n)
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					certificate, err := e.enrol(ctx, addr, name, csr)
					cancel()
					if err != nil {
						select {
						case <-enough:
						default:
							t.Errorf("%s: %v", name, err)
						}
						return
					}
					mu.Lock()
					told[name] = certificate
					if len(told) == 20*(round+1) {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		select {
		case <-enough:
		case <-time.After(time.Minute):
			t.Error("the devices do not get on")
		}
		w.Kill()
		workers.Wait()
		w.BeginProcess()
	}

	api := sdk(t, w, nil)
	things := map[string]bool{}
	for p := iot.NewListThingsPaginator(api, &iot.ListThingsInput{}); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, thing := range page.Things {
			things[*thing.ThingName] = true
			held, err := api.ListThingPrincipals(t.Context(), &iot.ListThingPrincipalsInput{ThingName: thing.ThingName})
			if err != nil || len(held.Principals) != 1 {
				t.Errorf("thing %s has the certificates %v, %v", *thing.ThingName, held, err)
			}
		}
	}
	var last string
	for name := range told {
		if last = name; !things[name] {
			t.Errorf("%s was told that it is enrolled, and is not there", name)
		}
	}
	good := 0
	for p := iot.NewListCertificatesPaginator(api, &iot.ListCertificatesInput{}); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range page.Certificates {
			held, err := api.ListPrincipalThings(t.Context(), &iot.ListPrincipalThingsInput{Principal: c.CertificateArn})
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.Status == types.CertificateStatusActive && len(held.Things) == 1:
				good++
			case c.Status == types.CertificateStatusPendingActivation && len(held.Things) == 0:
			case c.Status == types.CertificateStatusActive && (*c.CertificateId == e.claimID || *c.CertificateId == e.owner):
			default:
				t.Errorf("certificate %s is %s, with %d things", *c.CertificateId, c.Status, len(held.Things))
			}
		}
	}
	if good != len(things) {
		t.Errorf("%d things, %d certificates of things", len(things), good)
	}
	t.Logf("%d enrolled, %d of them were told", len(things), len(told))
	own := e.connect(last, tls.Certificate{Certificate: [][]byte{told[last]}, PrivateKey: key})
	if err := own.c.Publish(t.Context(), &mqttclient.Message{Topic: "dt/" + last + "/x", Payload: []byte("1"), QoS: 1}); err != nil {
		t.Error(err)
	}
	if _, err := api.DescribeThing(t.Context(), &iot.DescribeThingInput{ThingName: aws.String(last)}); err != nil {
		t.Error(err)
	}
}
