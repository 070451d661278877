package awsapi

import (
	"context"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// What a service wants and its model does not say. AWS's own SDKs have such
// code for a few services each; here is what a runbook would miss.

// custom adapts input before it is written.
func (k *call) custom() error {
	switch k.service.name {
	case "s3":
		k.bucket, _ = k.input.values["Bucket"].(string)
	case "route53":
		// Its answers say /hostedzone/Z1 where its inputs want Z1.
		for _, f := range k.input.node.order {
			switch f.node.schema.ID().Name {
			case "ResourceId", "DelegationSetId", "ChangeId":
				if id, ok := k.input.values[f.name].(string); ok {
					k.input.values[f.name] = id[strings.LastIndexByte(id, '/')+1:]
				}
			}
		}
	case "rds", "docdb", "neptune":
		if k.copyURL() != "" {
			k.input.skip = "SourceRegion" // only the presigned request names it
		}
	}
	return nil
}

// headers adds what a service wants in the request.
func (k *call) headers(h http.Header) {
	switch k.service.name {
	case "apigateway":
		h.Set("Accept", "application/json") // or it answers in another format
	case "glacier":
		h.Set("X-Amz-Glacier-Version", k.service.Metadata.APIVersion)
	}
}

// copyURL is the member for the presigned request of a copy between regions, or "".
func (k *call) copyURL() string {
	for _, name := range []string{"PresignedUrl", "PreSignedUrl"} {
		if k.input.node.fields[name] != nil && k.input.node.fields["SourceRegion"] != nil {
			return name
		}
	}
	return ""
}

// presign signs, for a copy between regions, the request that the destination
// makes of the source in our name.
func (c *Client) presign(ctx context.Context, k *call) error {
	member := k.copyURL()
	source, _ := k.input.values["SourceRegion"].(string)
	if member == "" || source == "" || k.input.values[member] != nil {
		return nil
	}
	there := *k
	there.region = source
	there.input = &input{node: k.input.node, values: maps.Clone(k.input.values)}
	if err := c.build(&there); err != nil {
		return err
	}
	text, err := io.ReadAll(there.body)
	if err != nil {
		return err
	}
	form, err := url.ParseQuery(string(text))
	if err != nil {
		return err
	}
	form.Set("DestinationRegion", k.region)
	form.Set("X-Amz-Expires", "3600")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, there.request.URL.String()+"?"+form.Encode(), nil)
	if err != nil {
		return err
	}
	creds, err := k.signAs.Retrieve(ctx)
	if err != nil {
		return credentialsError(err)
	}
	signed, _, err := c.signer.PresignHTTP(ctx, creds, req, emptySum, there.auth.SigningName, source, c.now())
	if err != nil {
		return err
	}
	k.input.values[member] = signed
	return c.build(k)
}

func (c *Client) now() time.Time { return time.Now().Add(time.Duration(c.skew.Load())).UTC() }
