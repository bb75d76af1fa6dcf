package registry

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/weir-iot/weir/internal/eventlog"
	"github.com/weir-iot/weir/internal/kv"
)

const childDir = "WEIR_TEST_REGISTRY_DIR"

// childMain is the process that TestKillLeavesNothingHalf kills: 16 workers make
// things, each with a group, a certificate and a policy of its own, and say so
// once it is confirmed.
func childMain() bool {
	dir := os.Getenv(childDir)
	if dir == "" {
		return false
	}
	ctx := context.Background()
	die := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	l, err := eventlog.Open(ctx, eventlog.Options{Dir: dir})
	die(err)
	go l.Run(ctx)
	b, err := kv.Open(ctx, l, kv.Config{Name: "registry"})
	die(err)
	r, err := Open(ctx, Options{Bucket: b, AccountID: "123456789012", Region: "us-east-1", Logger: slog.New(slog.DiscardHandler)})
	die(err)
	go r.Run(ctx)
	_, err = r.CreateGroup(ctx, CreateGroup{Name: "g"})
	die(err)
	if _, err := r.CreatePolicy(ctx, "p", "{}", nil); CodeOf(err) != Exists {
		die(err)
	}
	var out sync.Mutex
	for w := range 16 {
		go func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("t-%d-%d-%d", os.Getpid(), w, i)
				leaf := newCA(nil, name).client(name)
				die(r.Change(ctx, "test", func(tx *Tx) error {
					if _, err := tx.CreateThing(CreateThing{Name: name}); err != nil {
						return err
					}
					c, err := tx.register(leaf, nil, true, Active)
					if err != nil {
						return err
					}
					if err := tx.AttachPrincipal(name, c.ID, Exclusive); err != nil {
						return err
					}
					if err := tx.AttachPolicy("p", c.ID); err != nil {
						return err
					}
					return tx.AddToGroup(name, "g")
				}))
				out.Lock()
				fmt.Println(name)
				out.Unlock()
			}
		}()
	}
	select {}
}

func TestKillLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	var made []string
	for range 3 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		ok(t, err)
		ok(t, cmd.Start())
		s := bufio.NewScanner(out)
		late := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
		n := 0
		for s.Scan() {
			made = append(made, s.Text())
			if n++; n == 60 {
				cmd.Process.Kill() // what it says before it ends is confirmed, too
			}
		}
		late.Stop()
		cmd.Wait()
		if n < 60 {
			t.Fatalf("the process ended after %d things", n)
		}
	}
	b, _ := store(t, eventlog.Options{Dir: dir})
	r, _ := open(t, b, nil)
	if bad := sound(r); len(bad) > 0 {
		t.Fatal(bad)
	}
	whole := func(name string) {
		t.Helper()
		list, _, err := r.PrincipalsOf(name, Exclusive, Page{})
		ok(t, err)
		groups, _, err := r.GroupsOfThing(name, Page{})
		ok(t, err)
		if len(list) != 1 || len(groups) != 1 {
			t.Fatalf("%s has %d certificates and %d groups", name, len(list), len(groups))
		}
		if policies := must[[]EffectivePolicy](t)(r.EffectivePolicies(list[0].CertificateID, "")); len(policies) != 1 {
			t.Fatalf("%s has %d policies", name, len(policies))
		}
	}
	for _, name := range made {
		whole(name)
	}
	for name := range r.things.rows { // also what was not confirmed any more
		whole(name)
	}
	if n, m := len(r.things.rows), len(r.certificates.rows); n != m {
		t.Fatalf("%d things, %d certificates", n, m)
	}
}
