// Package instance is what a machine in EC2 can find out about itself.
//
// It gives OnEC2, whether this machine is an instance, and Metadata, what its
// metadata service says: id, region, account, tags. It promises to ask nobody
// but the one endpoint, without proxies or redirects, with a session token
// (IMDSv2), and not to hold up anyone for more than a few seconds. It refuses to know credentials: the
// service has those too, and an agent wants none.
package instance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// Endpoint is where every instance finds its metadata service.
const Endpoint = "http://169.254.169.254"

// EndpointEnv is the environment variable by which AWS's tools find another endpoint.
const EndpointEnv = "AWS_EC2_METADATA_SERVICE_ENDPOINT"

// Data is what is known of an instance.
type Data struct {
	ID      string
	Region  string
	Account string
	Tags    map[string]string // nil if the instance may not see its tags
}

const (
	askTimeout = time.Second     // of one request
	allTimeout = 5 * time.Second // of all requests
	mostBytes  = 64 << 10        // of one answer
	mostTags   = 100             // AWS takes 50
	tokenTTL   = "60"            // seconds; the token is used at once
)

var (
	idForm      = regexp.MustCompile(`^i-[0-9a-f]{8,17}$`)
	regionForm  = regexp.MustCompile(`^[a-z]{2,}(-[a-z]+)+-[0-9]+$`)
	accountForm = regexp.MustCompile(`^[0-9]{12}$`)
	tagForm     = regexp.MustCompile(`^[^/?#%\s\x00-\x1f]{1,128}$`) // what AWS lets through as the name of a tag in metadata, and more
)

// errNotThere says that the service has no such thing.
var errNotThere = errors.New("not there")

// OnEC2 tells by the firmware of the machine whose files are in root ("" is
// this one) whether it is an instance.
func OnEC2(root string) bool {
	for _, known := range []struct{ file, begins string }{
		{"sys/class/dmi/id/sys_vendor", "amazon ec2"},
		{"sys/class/dmi/id/board_vendor", "amazon ec2"},
		{"sys/hypervisor/uuid", "ec2"},           // Xen
		{"sys/class/dmi/id/product_uuid", "ec2"}, // Xen; only root can read it
	} {
		b, err := os.ReadFile(filepath.Join(root, "/", known.file))
		if err == nil && strings.HasPrefix(strings.ToLower(strings.TrimSpace(string(b))), known.begins) {
			return true
		}
	}
	return false
}

// Metadata asks the metadata service at endpoint; empty is Endpoint.
func Metadata(ctx context.Context, endpoint string) (*Data, error) {
	if endpoint == "" {
		endpoint = Endpoint
	}
	ctx, cancel := context.WithTimeout(ctx, allTimeout)
	defer cancel()
	s := service{base: strings.TrimRight(endpoint, "/"), client: &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true}, // no Proxy: nobody else is to hear of the token
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	d, err := s.read(ctx)
	if err != nil {
		return nil, fmt.Errorf("EC2 metadata at %s: %w", endpoint, err)
	}
	return d, nil
}

type service struct {
	base   string
	client *http.Client
	token  string
}

func (s *service) read(ctx context.Context) (*Data, error) {
	token, err := s.ask(ctx, http.MethodPut, "/latest/api/token")
	if err != nil {
		return nil, fmt.Errorf("no session token: %w", err)
	}
	s.token = token
	text, err := s.ask(ctx, http.MethodGet, "/latest/dynamic/instance-identity/document")
	if err != nil {
		return nil, fmt.Errorf("no identity document: %w", err)
	}
	var doc struct {
		InstanceID string `json:"instanceId"`
		Region     string `json:"region"`
		AccountID  string `json:"accountId"`
	}
	if err := json.Unmarshal([]byte(text), &doc); err != nil {
		return nil, fmt.Errorf("identity document: %w", err)
	}
	if !idForm.MatchString(doc.InstanceID) || !regionForm.MatchString(doc.Region) || !accountForm.MatchString(doc.AccountID) {
		return nil, fmt.Errorf("identity document: instance %q, region %q, account %q", doc.InstanceID, doc.Region, doc.AccountID)
	}
	d := &Data{ID: doc.InstanceID, Region: doc.Region, Account: doc.AccountID}
	names, err := s.ask(ctx, http.MethodGet, "/latest/meta-data/tags/instance")
	if errors.Is(err, errNotThere) {
		return d, nil // its tags are not let through (InstanceMetadataTags)
	}
	if err != nil {
		return nil, fmt.Errorf("tags: %w", err)
	}
	d.Tags = map[string]string{}
	for name := range strings.FieldsSeq(names) {
		if !tagForm.MatchString(name) || len(d.Tags) == mostTags {
			continue
		}
		value, err := s.ask(ctx, http.MethodGet, "/latest/meta-data/tags/instance/"+name)
		if errors.Is(err, errNotThere) {
			continue // it was taken away in the meantime
		}
		if err != nil {
			return nil, fmt.Errorf("tag %s: %w", name, err)
		}
		d.Tags[name] = strings.ToValidUTF8(value, "\uFFFD")
	}
	return d, nil
}

func (s *service) ask(ctx context.Context, method, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, nil)
	if err != nil {
		return "", err
	}
	if method == http.MethodPut {
		req.Header.Set("X-aws-ec2-metadata-token-ttl-seconds", tokenTTL)
	} else {
		req.Header.Set("X-aws-ec2-metadata-token", s.token)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return "", errors.New("no answer in time")
		}
		return "", err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return "", errNotThere
	case http.StatusForbidden:
		return "", errors.New("the metadata service is switched off for this instance (403)")
	default:
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, mostBytes+1))
	if err != nil {
		return "", err
	}
	if len(b) > mostBytes {
		return "", fmt.Errorf("more than %d bytes", mostBytes)
	}
	return string(b), nil
}
