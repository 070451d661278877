package awsapi

import (
	"context"
	"strings"
	"time"
)

// discoverOperation tells where a service's other operations are to be sent.
const discoverOperation = "DescribeEndpoints"

// discovered is where calls go until a moment.
type discovered struct {
	host  string
	until time.Time
}

// discover sends a call where the service says that calls of this account go; it
// is asked once in a while. An endpoint of the user's own is used as it is.
func (c *Client) discover(ctx context.Context, k *call) error {
	if !k.op.Discovery.Required {
		return nil
	}
	_, own, err := c.endpoint(k)
	if err != nil || own {
		return err
	}
	key := strings.Join([]string{k.scope.Role, k.region, k.service.name}, "\x00")
	c.mu.Lock()
	known := c.hosts[key]
	c.mu.Unlock()
	if time.Now().After(known.until) {
		in := k.scope
		in.Region = k.region
		out, err := c.Call(ctx, in, k.service.name, discoverOperation, map[string]any{})
		if err != nil {
			return err
		}
		if known, err = firstEndpoint(out); err != nil {
			return err
		}
		c.mu.Lock()
		c.hosts[key] = known
		c.mu.Unlock()
	}
	k.request.URL.Host, k.request.Host = known.host, known.host
	return nil
}

// firstEndpoint reads the answer. What it names becomes a host, and nothing else.
func firstEndpoint(out map[string]any) (discovered, error) {
	wrong := &Error{Code: CodeAnswer, Class: Failed, Message: "it does not say at which host the service is"}
	all, _ := out["Endpoints"].([]any)
	if len(all) == 0 {
		return discovered{}, wrong
	}
	first, _ := all[0].(map[string]any)
	host, _ := first["Address"].(string)
	for label := range strings.SplitSeq(host, ".") {
		if !hostLabel.MatchString(label) {
			return discovered{}, wrong
		}
	}
	minutes, _ := first["CachePeriodInMinutes"].(int64)
	return discovered{host, time.Now().Add(time.Duration(max(minutes, 1)) * time.Minute)}, nil
}
