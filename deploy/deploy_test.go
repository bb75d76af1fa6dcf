package deploy

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/weir-iot/weir/internal/config"
)

func TestTheExampleIsValid(t *testing.T) {
	if _, err := config.Load("weir.yaml", false, nil); err != nil {
		t.Error(config.Detail(err))
	}
}

// The variables the image sets are settings, and its values are valid.
func TestTheImagesEnvironmentIsValid(t *testing.T) {
	b, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	var environ []string
	for _, m := range regexp.MustCompile(`(?m)\b(WEIR_[A-Z_]+=\S+)`).FindAllStringSubmatch(string(b), -1) {
		environ = append(environ, strings.TrimSuffix(m[1], `\`))
	}
	if len(environ) < 4 {
		t.Fatalf("%q", environ)
	}
	if unknown := config.UnknownEnv(environ); len(unknown) > 0 {
		t.Error(unknown)
	}
	c, err := config.Load("", false, environ)
	if err != nil {
		t.Fatal(config.Detail(err))
	}
	if c.Listen.MQTTS != "0.0.0.0:8883" || c.DataDir != "/var/lib/weir" {
		t.Errorf("%+v", c)
	}
}
