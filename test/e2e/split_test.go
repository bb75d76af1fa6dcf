package e2e

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/weir-iot/weir/test/weirtest"
)

// The suite on five processes, a role each, around one NATS server: what touches
// each of them and most of the ways between them. `go tool task test:split` runs
// all of it.
func TestOnFiveProcesses(t *testing.T) {
	if testing.Short() || os.Getenv("WEIR_TEST_SPLIT") != "" {
		t.Skip("several processes")
	}
	tests := []string{
		"TestMQTTToRuleToMQTT", "TestMQTTToRuleToHTTPAndS3", "TestHTTPSPublish", "TestErrorActionAndDeadLetters", "TestRestart", "TestCurl",
		"TestProvisioningByTrustedUser", "TestJustInTimeProvisioning", "TestRegisterThingAPI", "TestLambdaAPITakesSignatures", "TestAzureTwinIsShadow",
		"TestAWSDataPlaneWithCertificate", "TestDeviceSDKv1Shadow", "TestFunctionsElsewhere",
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.timeout=10m", "-test.run=^("+strings.Join(tests, "|")+")$")
	cmd.Env = append(os.Environ(), "WEIR_TEST_SPLIT=1", "WEIR_TEST_BINARY="+weirtest.Binary(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range tests {
		if !strings.Contains(string(out), "--- PASS: "+name+" ") {
			t.Errorf("%s did not run\n%s", name, out)
		}
	}
}
