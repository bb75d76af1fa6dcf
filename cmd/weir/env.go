package main

import (
	"fmt"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weir-iot/weir/control"
)

func (a *app) envCmd() *cobra.Command {
	c := &cobra.Command{
		Use:   "env",
		Short: "Print the addresses and files of the running Weir as shell exports",
		Long: `Prints exports a shell can evaluate, so that scripts, tests and clients find the running
Weir. A port that is off is left out. NATS_URL and NATS_CREDS are what the nats command
line reads, the AWS_ variables what AWS clients read; the access key is the owner's, which may do everything.`,
		Example: `  eval "$(weir env)"
  mosquitto_sub -h "$WEIR_HOST" -p "$WEIR_MQTT_PORT" -t '#'
  weir env -o json`,
		Args: arguments(0, 0, ""),
		RunE: func(*cobra.Command, []string) error {
			e, err := a.endpoints()
			if err != nil {
				return err
			}
			// The certificate names localhost, and TLS clients send the name they dial.
			vars := [][2]string{{"WEIR_HOST", "localhost"}}
			add := func(name, value string) {
				if value != "" {
					vars = append(vars, [2]string{name, value})
				}
			}
			add("WEIR_MQTT_PORT", portOf(e.MQTT))
			add("WEIR_MQTTS_PORT", portOf(e.MQTTS))
			add("WEIR_HTTPS_PORT", portOf(e.HTTPS))
			add("WEIR_MUX_PORT", portOf(e.Mux))
			add("WEIR_API_URL", e.API)
			add("WEIR_TOKEN_FILE", e.TokenFile)
			add("WEIR_CA_FILE", e.CAFile)
			add("WEIR_CERT_FILE", e.CertFile)
			add("WEIR_KEY_FILE", e.KeyFile)
			key, err := control.ReadAccessKey(e.AccessKeyFile)
			if err != nil {
				return err
			}
			add("AWS_ACCESS_KEY_ID", key.ID)
			add("AWS_SECRET_ACCESS_KEY", key.Secret)
			add("AWS_REGION", e.Region)
			add("AWS_DEFAULT_REGION", e.Region) // botocore's name of it
			add("AWS_ENDPOINT_URL_IOT", e.API)
			add("AWS_ENDPOINT_URL_IOT_DATA_PLANE", e.API)
			if e.AzureFile != "" {
				hub, err := azureConnection(e)
				if err != nil {
					return err
				}
				add("WEIR_AZURE_CONNECTION_STRING", hub.String())
			}
			if e.NATS != "" {
				add("NATS_URL", "nats://"+e.NATS)
				add("NATS_CREDS", e.NATSCreds)
			}
			if a.output == "json" {
				m := map[string]string{}
				for _, v := range vars {
					m[v[0]] = v[1]
				}
				return a.printJSON(m)
			}
			for _, v := range vars {
				fmt.Fprintf(a.stdout, "export %s=%s\n", v[0], shellQuote(v[1]))
			}
			return nil
		},
	}
	return c
}

func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return ""
	}
	return port
}

// shellQuote returns s as one word of a POSIX shell.
func shellQuote(s string) string {
	plain := s != ""
	for _, r := range s {
		if !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-./:,@%+=", r)) {
			plain = false
		}
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
