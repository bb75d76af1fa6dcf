package server

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
)

// EndpointsFile is the name, in the data folder, of what a running Weir says of
// itself to the command line.
const EndpointsFile = "endpoints.json"

// Endpoints is where a running Weir can be reached. Paths are absolute, addresses
// host:port as bound; what is off is empty.
type Endpoints struct {
	PID       int    `json:"pid"`
	DataDir   string `json:"dataDir"`
	API       string `json:"api"` // http://host:port
	MQTT      string `json:"mqtt,omitempty"`
	MQTTS     string `json:"mqtts,omitempty"`
	HTTPS     string `json:"https,omitempty"`
	Mux       string `json:"mux,omitempty"` // the one port that serves everything over TLS
	NATS      string `json:"nats,omitempty"`
	CAFile    string `json:"caFile,omitempty"`
	CertFile  string `json:"certFile,omitempty"` // a client certificate for the owner's own tools
	KeyFile   string `json:"keyFile,omitempty"`
	TokenFile string `json:"tokenFile"`

	// Of the AWS APIs.
	AccessKeyFile string `json:"accessKeyFile"` // in the form of the AWS clients' credentials file
	Region        string `json:"region"`

	AzureFile string `json:"azureFile,omitempty"` // shared access policies of the Azure dialect

	NATSCreds string `json:"natsCreds,omitempty"`
}

// ReadEndpoints reads what the Weir of the data folder dir wrote. The error is
// fs.ErrNotExist where none runs.
func ReadEndpoints(dir string) (*Endpoints, error) {
	b, err := os.ReadFile(filepath.Join(dir, EndpointsFile))
	if err != nil {
		return nil, err
	}
	var e Endpoints
	if err := json.Unmarshal(b, &e); err != nil {
		return nil, err
	}
	return &e, nil
}

func (e *Endpoints) write(dir string) error {
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, EndpointsFile+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(b, '\n'))
	if err := errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), filepath.Join(dir, EndpointsFile))
}
