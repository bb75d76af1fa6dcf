package config

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the expected outputs")

// Each bad file has one mistake; beside it lies what the user reads.
func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/*.bad.yml")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(filepath.Base(f), func(t *testing.T) {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			_, err = Parse("weir.yaml", src, false)
			if err == nil {
				t.Fatal("accepted")
			}
			got := Detail(err) + "\n"
			golden := strings.TrimSuffix(f, ".yml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestGoodFile(t *testing.T) {
	c, err := Load("testdata/good.yml", false, nil)
	if err != nil {
		t.Fatal(Detail(err))
	}
	want := Default(false)
	want.DataDir, want.Durability, want.Partitions = "/var/lib/weir", "os", 4
	want.Listen.MQTTS, want.Listen.NATS = "0.0.0.0:8883", ""
	want.TLS.Names = []string{"weir.example.com", "192.0.2.7"}
	want.Events = Events{MaxBytes: 3 << 29, MaxAge: 7 * 24 * time.Hour, MaxSubjects: 50_000}
	want.Retry = Retry{For: 90 * time.Minute, Tries: "aws"}
	want.HTTP.AllowPrivate = true
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

func TestEveryMistakeIsReported(t *testing.T) {
	_, err := Parse("weir.yaml", []byte("durabilty: disk\npartitions: 0\n"), false)
	if n := strings.Count(Detail(err), "^"); n != 2 {
		t.Errorf("%d carets in\n%s", n, Detail(err))
	}
}

func TestEnvironmentWins(t *testing.T) {
	file := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(file, []byte("durability: disk\nregion: eu-west-1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, false, []string{"WEIR_DURABILITY=memory", "WEIR_EVENTS_MAX_AGE=2h", "WEIR_TLS_NAMES=a.example, b.example", "WEIR_HOST=x"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Durability != "memory" || c.Events.MaxAge != 2*time.Hour || c.Region != "eu-west-1" || len(c.TLS.Names) != 2 {
		t.Errorf("%+v", c)
	}
	_, err = Load("", false, []string{"WEIR_DURABILITY=disc"})
	if err == nil || !strings.Contains(Detail(err), "WEIR_DURABILITY") || !strings.Contains(Detail(err), "did you mean disk?") {
		t.Errorf("%v", err)
	}
	if got := UnknownEnv([]string{"WEIR_DURABILTY=os", "WEIR_HOST=h", "WEIR_PORT=tcp://10.0.0.1:1", "PATH=/bin"}); len(got) != 1 || !strings.Contains(got[0], "WEIR_DURABILITY") {
		t.Errorf("%q", got)
	}
}

func TestEveryKeyHasAnEnvironmentVariable(t *testing.T) {
	seen := map[string]string{}
	for _, k := range Keys {
		if other, ok := seen[k.Env()]; ok {
			t.Errorf("%s and %s share %s", k.Path, other, k.Env())
		}
		seen[k.Env()] = k.Path
		if k.Help == "" || !strings.HasSuffix(k.Help, ".") || k.Type == "" {
			t.Errorf("%s: no help in whole sentences", k.Path)
		}
		if v := Default(false).Get(k.Path); !same(&k, v) {
			t.Errorf("%s: default %q reads back as %q", k.Path, k.Default, v)
		}
	}
	for _, name := range exported {
		if _, ok := seen[name]; ok {
			t.Errorf("%s is both a setting and an export of weir env", name)
		}
	}
}

// Every leaf of Config is reached by a key: a field nobody can set is a mistake.
func TestEveryFieldHasAKey(t *testing.T) {
	var leaves func(reflect.Type) int
	leaves = func(typ reflect.Type) int {
		n := 0
		for i := range typ.NumField() {
			if f := typ.Field(i).Type; f.Kind() == reflect.Struct {
				n += leaves(f)
			} else {
				n++
			}
		}
		return n
	}
	if n := leaves(reflect.TypeFor[Config]()); n != len(Keys) {
		t.Errorf("%d fields, %d keys", n, len(Keys))
	}
}

func TestFileReadsBack(t *testing.T) {
	for _, dev := range []bool{false, true} {
		c := Default(dev)
		c.TLS.Names = []string{"weir.example.com", "::1"}
		c.Region = "eu-west-1"
		for _, all := range []bool{false, true} {
			got, err := Parse("weir.yaml", c.File(all), false)
			if err != nil {
				t.Fatalf("%v\n%s", Detail(err), c.File(all))
			}
			if !reflect.DeepEqual(got, c) {
				t.Errorf("dev %v, all %v: got %+v, want %+v", dev, all, got, c)
			}
		}
	}
}

func TestUnits(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "65536": 65536, "8GiB": 8 << 30, "1.5 GB": 1_500_000_000, "10kB": 10_000, "7B": 7} {
		if n, err := ParseSize(in); err != nil || n != want {
			t.Errorf("%q: %d, %v", in, n, err)
		}
	}
	for _, in := range []string{"", "GiB", "-1", "1e9", "8 gib", "9999999TiB", "NaN", "Inf", "0x10"} {
		if n, err := ParseSize(in); err == nil {
			t.Errorf("%q: %d", in, n)
		}
	}
	for in, want := range map[string]time.Duration{"7d": 168 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "0s": 0} {
		if d, err := ParseDuration(in); err != nil || d != want {
			t.Errorf("%q: %v, %v", in, d, err)
		}
		if d, err := ParseDuration(FormatDuration(want)); err != nil || d != want {
			t.Errorf("%v is written %s", want, FormatDuration(want))
		}
	}
	for _, in := range []string{"", "d", "5", "-1h", "1.5d", "99999d", "1dd"} {
		if d, err := ParseDuration(in); err == nil {
			t.Errorf("%q: %v", in, d)
		}
	}
}

func TestDocsAreGenerated(t *testing.T) {
	const path = "../../docs/configuration.md"
	if *update {
		if err := os.WriteFile(path, Markdown(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, Markdown()) {
		t.Errorf("%s is not what the table says (%v): run `go tool task generate`", path, err)
	}
}

func FuzzParse(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.yml")
	for _, name := range files {
		src, _ := os.ReadFile(name)
		f.Add(src)
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("weir.yaml", src, false)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			_ = Detail(err)
			return
		}
		if again, err := Parse("weir.yaml", c.File(true), false); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("does not read back: %v\n%s", err, c.File(true))
		}
	})
}
