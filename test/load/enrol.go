package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/iot"
	"github.com/aws/aws-sdk-go-v2/service/iot/types"
)

// enrolment is what devices enrol with: a claim, and a template of this name.
type enrolment struct {
	addr  string
	claim *tls.Config
	keys  bool // made by the server
	run   int64
}

const enrolTemplate = "load-enrol"

// The policy is one for all devices: it says by variables what each may do.
const enrolBody = `{"Parameters": {"Serial": {"Type": "String"}}, "Resources": {
 "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Join": ["-", ["load", {"Ref": "Serial"}]]}, "AttributePayload": {"serial": {"Ref": "Serial"}}}},
 "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
 "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*", "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}},
  {"Effect": "Allow", "Action": "iot:Publish", "Resource": "arn:aws:iot:*:*:topic/enrolled/${iot:Connection.Thing.ThingName}"}]}}}},
 "DeviceConfiguration": {"Telemetry": "enrolled"}}`

const enrolClaim = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
 {"Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": ["arn:aws:iot:*:*:topic/$aws/certificates/*", "arn:aws:iot:*:*:topic/$aws/provisioning-templates/load-enrol/provision/*"]},
 {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": ["arn:aws:iot:*:*:topicfilter/$aws/certificates/*", "arn:aws:iot:*:*:topicfilter/$aws/provisioning-templates/load-enrol/provision/*"]}]}`

// enrol has devices enrol at a steady rate, each the whole way: it connects over
// TLS with the claim certificate all have, gets a certificate, becomes a thing,
// connects with its own certificate, and publishes once. What that needs it makes
// by the AWS API of the environment that weir env prints.
func enrol(s settings) error {
	ctx := context.Background()
	e, err := newEnrolment(ctx, s)
	if err != nil {
		return err
	}
	var enrolled, counted, refused atomic.Int64
	var counting atomic.Bool
	var whole, creating, registering, returning histogram
	var first atomic.Pointer[error]
	done, turns := make(chan struct{}), make(chan struct{}, s.publishers)
	var workers sync.WaitGroup
	workers.Go(func() {
		defer close(turns)
		tick := time.NewTicker(time.Second / time.Duration(s.rate))
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-done:
				return
			}
			select {
			case turns <- struct{}{}:
			case <-done:
				return
			}
		}
	})
	for range s.publishers {
		workers.Go(func() {
			for range turns {
				began := time.Now()
				laps, err := e.device(int(enrolled.Add(1)))
				switch {
				case err != nil:
					refused.Add(1)
					first.CompareAndSwap(nil, &err)
				case counting.Load():
					counted.Add(1)
					whole.add(time.Since(began))
					creating.add(laps[0])
					registering.add(laps[1])
					returning.add(laps[2])
				}
			}
		})
	}
	time.Sleep(s.warmup)
	cpu, began := cpuTime(s.pid), time.Now()
	counting.Store(true)
	time.Sleep(s.duration)
	counting.Store(false)
	took, used := time.Since(began), cpuTime(s.pid)-cpu
	close(done)
	workers.Wait()
	n := counted.Load()
	fmt.Printf("%d devices/s asked: %.0f enrolled/s, p50 %v, p99 %v; of them certificate p50 %v, thing p50 %v, return p50 %v; %d refused", s.rate, float64(n)/took.Seconds(),
		whole.quantile(0.50), whole.quantile(0.99), creating.quantile(0.5), registering.quantile(0.5), returning.quantile(0.5), refused.Load())
	if s.pid > 0 && n > 0 {
		fmt.Printf(", %.2f ms server CPU each, %d MiB resident", float64(used.Microseconds())/1000/float64(n), resident(s.pid)>>20)
	}
	fmt.Println()
	if err := first.Load(); err != nil {
		return fmt.Errorf("the first that was refused: %w", *err)
	}
	return nil
}

// newEnrolment makes template, claim certificate and its policy.
func newEnrolment(ctx context.Context, s settings) (*enrolment, error) {
	c, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, err
	}
	api := iot.NewFromConfig(c)
	var exists *types.ResourceAlreadyExistsException
	_, err = api.CreateProvisioningTemplate(ctx, &iot.CreateProvisioningTemplateInput{TemplateName: aws.String(enrolTemplate), TemplateBody: aws.String(enrolBody), Enabled: aws.Bool(true),
		ProvisioningRoleArn: aws.String("arn:aws:iam::123456789012:role/provisioning")})
	if err != nil && !errors.As(err, &exists) {
		return nil, err
	}
	_, err = api.CreatePolicy(ctx, &iot.CreatePolicyInput{PolicyName: aws.String(enrolTemplate), PolicyDocument: aws.String(enrolClaim)})
	if err != nil && !errors.As(err, &exists) {
		return nil, err
	}
	made, err := api.CreateKeysAndCertificate(ctx, &iot.CreateKeysAndCertificateInput{SetAsActive: true})
	if err != nil {
		return nil, err
	}
	if _, err := api.AttachPolicy(ctx, &iot.AttachPolicyInput{PolicyName: aws.String(enrolTemplate), Target: made.CertificateArn}); err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair([]byte(*made.CertificatePem), []byte(*made.KeyPair.PrivateKey))
	if err != nil {
		return nil, err
	}
	e := &enrolment{addr: s.addr, run: time.Now().Unix(), keys: s.serverKeys}
	authority, err := os.ReadFile(s.ca)
	if err != nil {
		return nil, fmt.Errorf("-ca: %w", err)
	}
	e.claim = &tls.Config{ServerName: "localhost", RootCAs: x509.NewCertPool(), Certificates: []tls.Certificate{pair}}
	if !e.claim.RootCAs.AppendCertsFromPEM(authority) {
		return nil, errors.New("no certificate in " + s.ca)
	}
	return e, nil
}

// device is the n-th device's way. laps are how long it took to get a
// certificate, to become a thing, and to come back and publish.
func (e *enrolment) device(n int) (laps [3]time.Duration, err error) {
	serial := fmt.Sprintf("%d-%d", e.run, n)
	c, err := e.connect("claim-"+serial, e.claim)
	if err != nil {
		return laps, err
	}
	defer c.c.Close()
	const thing = "$aws/provisioning-templates/" + enrolTemplate + "/provision/json"
	call, q, key := "$aws/certificates/create/json", []byte("{}"), (*ecdsa.PrivateKey)(nil)
	if !e.keys {
		call = "$aws/certificates/create-from-csr/json"
		if key, q, err = request(); err != nil {
			return laps, err
		}
	}
	if err := c.subscribeAll(0, call+"/accepted", call+"/rejected", thing+"/accepted", thing+"/rejected"); err != nil {
		return laps, err
	}
	began := time.Now()
	lap := func(i int) {
		laps[i] = time.Since(began)
		began = time.Now()
	}
	var a struct{ CertificatePEM, PrivateKey, CertificateOwnershipToken, ThingName string }
	if err := c.ask(call, q, &a); err != nil {
		return laps, err
	}
	lap(0)
	if q, err = json.Marshal(map[string]any{"certificateOwnershipToken": a.CertificateOwnershipToken, "parameters": map[string]string{"Serial": serial}}); err != nil {
		return laps, err
	}
	if err := c.ask(thing, q, &a); err != nil {
		return laps, err
	}
	lap(1)
	own := e.claim.Clone()
	if key != nil {
		b, _ := pem.Decode([]byte(a.CertificatePEM))
		own.Certificates = []tls.Certificate{{Certificate: [][]byte{b.Bytes}, PrivateKey: key}}
	} else {
		pair, err := tls.X509KeyPair([]byte(a.CertificatePEM), []byte(a.PrivateKey))
		if err != nil {
			return laps, err
		}
		own.Certificates = []tls.Certificate{pair}
	}
	c.c.Write([]byte{0xe0, 0})
	d, err := e.connect(a.ThingName, own)
	if err != nil {
		return laps, err
	}
	defer d.c.Close()
	if err := d.publishOnce("enrolled/"+a.ThingName, []byte(`{"on":true}`)); err != nil {
		return laps, err
	}
	d.c.Write([]byte{0xe0, 0})
	lap(2)
	return laps, nil
}

// request makes a key and the call that asks for its certificate.
func request() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, err
	}
	q, err := json.Marshal(map[string]string{"certificateSigningRequest": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))})
	return key, q, err
}

func (e *enrolment) connect(id string, conf *tls.Config) (*client, error) {
	nc, err := net.DialTimeout("tcp", e.addr, 10*time.Second)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	c, _, err := connectOn(tls.Client(nc, conf), id, 2)
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("connecting as %s: %w", id, err)
	}
	return c, nil
}

// publishOnce publishes and waits for PUBACK.
func (c *client) publishOnce(topic string, payload []byte) error {
	if err := c.send(topic, payload); err != nil {
		return err
	}
	head, _, err := c.packet()
	if err == nil && head != 0x40 {
		err = fmt.Errorf("expected PUBACK, got %x", head)
	}
	return err
}

func (c *client) send(topic string, payload []byte) error {
	b := appendLength([]byte{0x32}, 4+len(topic)+len(payload))
	b = binary.BigEndian.AppendUint16(appendText(b, topic), 1)
	_, err := c.c.Write(append(b, payload...))
	return err
}

// ask makes a call and reads its answer into v. PUBACK comes before or after it.
func (c *client) ask(call string, payload []byte, v any) error {
	if err := c.send(call, payload); err != nil {
		return err
	}
	acked, answered := false, false
	for !acked || !answered {
		head, body, err := c.packet()
		switch {
		case err != nil:
			return fmt.Errorf("%s: %w", call, err)
		case head == 0x40:
			acked = true
		case head>>4 == 3:
			n := 2 + int(binary.BigEndian.Uint16(body))
			at, answer := string(body[2:n]), body[n:]
			if head&6 != 0 {
				return errors.New("an answer that wants a PUBACK")
			}
			if !strings.HasSuffix(at, "/accepted") {
				return fmt.Errorf("%s: %s", at, answer)
			}
			if err := json.Unmarshal(answer, v); err != nil {
				return err
			}
			answered = true
		}
	}
	return nil
}
