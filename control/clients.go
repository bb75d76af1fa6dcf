package control

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/weir-iot/weir/internal/errs"
)

// Clients are the MQTT clients: those that are connected, and those that are
// away and whose sessions are kept.
type Clients interface {
	// List returns at most max clients whose ids come behind after, sorted by id.
	List(ctx context.Context, after string, max int) ([]DeviceClient, error)
	// Get returns one; also one that has left not long ago. Error: NotFound.
	Get(ctx context.Context, id string) (*DeviceClient, error)
	// Disconnect ends a client's connection. With clean its session ends too, also
	// that of a client that is away; with noWill its will is not published.
	// Error: NotFound.
	Disconnect(ctx context.Context, id string, clean, noWill bool) error
}

// DeviceClient is an MQTT client.
type DeviceClient struct {
	ClientID      string               `json:"clientId"`
	Connected     bool                 `json:"connected"`
	Since         time.Time            `json:"since,omitzero"`             // it connected, or left
	Reason        string               `json:"disconnectReason,omitempty"` // of one that has left
	Principal     string               `json:"principal,omitempty"`
	Remote        string               `json:"remote,omitempty"` // address and port
	Listener      string               `json:"listener,omitempty"`
	Version       string               `json:"version,omitempty"`       // of MQTT: "3.1.1", "5"
	KeepAlive     int                  `json:"keepAlive,omitempty"`     // seconds
	CleanSession  bool                 `json:"cleanSession"`            // the session ends with the connection
	SessionExpiry int                  `json:"sessionExpiry,omitempty"` // seconds
	Expires       time.Time            `json:"sessionExpires,omitzero"` // of one that is away
	InFlight      int                  `json:"inFlight"`                // sent and not acknowledged
	Queued        int                  `json:"queued"`                  // waiting in memory
	Lag           []uint64             `json:"lag,omitempty"`           // by partition: events of the log not considered for it yet
	Subscriptions []ClientSubscription `json:"subscriptions,omitempty"` // sorted by filter
}

// ClientSubscription is one topic filter of a client.
type ClientSubscription struct {
	Filter string `json:"topicFilter"`
	QoS    byte   `json:"qos"`
}

// LagSum is the lag over all partitions.
func (c *DeviceClient) LagSum() (sum uint64) {
	for _, n := range c.Lag {
		sum += n
	}
	return sum
}

const maxClients = 1000

func (s *Server) listClients(w http.ResponseWriter, r *http.Request) error {
	max := 100
	if text := r.FormValue("max"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxClients {
			return errs.Errorf("control.clients", errs.Invalid, "max is %q, must be 1 to %d", text, maxClients)
		}
		max = n
	}
	list, err := s.o.Clients.List(r.Context(), r.FormValue("after"), max)
	if err != nil {
		return err
	}
	if list == nil {
		list = []DeviceClient{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"clients": list})
	return nil
}

func (s *Server) getClient(w http.ResponseWriter, r *http.Request) error {
	c, err := s.o.Clients.Get(r.Context(), r.FormValue("clientId"))
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, c)
	return nil
}

func (s *Server) disconnectClient(w http.ResponseWriter, r *http.Request) error {
	flag := func(name string) (bool, error) {
		text := r.URL.Query().Get(name)
		if text == "" {
			return false, nil
		}
		v, err := strconv.ParseBool(text)
		if err != nil {
			return false, errs.Errorf("control.clients", errs.Invalid, "%s is %q, must be true or false", name, text)
		}
		return v, nil
	}
	clean, err := flag("clean")
	if err != nil {
		return err
	}
	noWill, err := flag("preventWill")
	if err != nil {
		return err
	}
	id := r.URL.Query().Get("clientId")
	if err := s.o.Clients.Disconnect(r.Context(), id, clean, noWill); err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, map[string]string{"clientId": id})
	return nil
}

// Clients lists MQTT clients; see the interface Clients.
func (c *Client) Clients(ctx context.Context, after string, max int) ([]DeviceClient, error) {
	var out struct{ Clients []DeviceClient }
	err := c.call(ctx, "GET", "/weir/v1/clients", url.Values{"after": {after}, "max": {strconv.Itoa(max)}}, nil, &out)
	return out.Clients, err
}

// Client returns one MQTT client.
func (c *Client) Client(ctx context.Context, id string) (*DeviceClient, error) {
	var out DeviceClient
	return &out, c.call(ctx, "GET", "/weir/v1/client", url.Values{"clientId": {id}}, nil, &out)
}

// Disconnect ends the connection of an MQTT client; see the interface Clients.
func (c *Client) Disconnect(ctx context.Context, id string, clean, noWill bool) error {
	q := url.Values{"clientId": {id}, "clean": {strconv.FormatBool(clean)}, "preventWill": {strconv.FormatBool(noWill)}}
	return c.call(ctx, "DELETE", "/weir/v1/client", q, nil, nil)
}
