package awsapi

import (
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/smithy-go/middleware"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"golang.org/x/net/http/httpguts"
)

// call is one call under way.
type call struct {
	scope   Scope // with the role's ARN in full
	region  string
	service *service
	op      *operation
	wire    *wire
	input   *input
	bucket  string // of S3
	again   bool   // doing it twice does no harm
	signAs  aws.CredentialsProvider

	request  *http.Request // without body and signature
	body     io.ReadSeeker
	auth     authScheme
	unsigned bool
}

// prepare does what needs no network.
func (c *Client) prepare(in Scope, service, operation string, values map[string]any) (*call, error) {
	s, op, err := c.models.lookup(service, operation)
	if err != nil {
		return nil, err
	}
	w, err := s.compile(op)
	if err != nil {
		return nil, err
	}
	k := &call{scope: in, service: s, op: op, wire: w, region: or(in.Region, c.config.Region)}
	if k.region != "" && !hostLabel.MatchString(k.region) { // it becomes a part of the host
		return nil, &Error{Code: CodeParameters, Class: Invalid, Message: fmt.Sprintf("%q is no region", k.region)}
	}
	if k.scope.Role, err = c.roleARN(in, k.region); err != nil {
		return nil, err
	}
	k.input, err = s.take(w, values)
	if err != nil {
		return nil, err
	}
	k.again = repeatable(op, k.input)
	if err := k.custom(); err != nil {
		return nil, err
	}
	if region, ok := c.buckets.Load(k.bucket); ok && k.bucket != "" {
		k.region, _ = region.(string)
	}
	return k, c.build(k)
}

// take makes input of values, or says what is wrong with them.
func (s *service) take(w *wire, values map[string]any) (*input, error) {
	in := &input{values: map[string]any{}}
	if w.input == nil {
		if len(values) > 0 {
			return nil, &Error{Code: CodeParameters, Class: Invalid, Message: "it takes no input"}
		}
		in.node = &node{}
		return in, nil
	}
	in.node = w.input
	v, err := coerce(w.input, orEmpty(values), "", 0)
	if err != nil {
		return nil, &Error{Code: CodeParameters, Class: Invalid, Message: err.Error()}
	}
	in.values, _ = v.(map[string]any)
	for _, f := range w.input.order {
		if _, ok := in.values[f.name]; f.IdempotencyToken && !ok {
			return nil, &Error{Code: CodeToken, Class: Invalid,
				Message: f.name + ": the call needs an idempotency token of its step; a random one would make a repeated call a second effect"}
		}
	}
	if s.name == "s3" {
		in.skip = "Bucket"
	}
	if w.payload != nil {
		in.stream, _ = in.values[w.payload.name].(io.Reader)
	}
	return in, nil
}

func orEmpty(values map[string]any) map[string]any {
	if values == nil {
		return map[string]any{}
	}
	return values
}

// repeatable says whether an operation may be sent again if nobody knows whether
// it was done: it only reads, it is so by the meaning of its HTTP method, or it
// carries a token by which AWS knows it again.
func repeatable(op *operation, in *input) bool {
	if op.Readonly || op.Idempotent {
		return true
	}
	switch op.HTTP.Method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete:
		return true
	}
	for _, verb := range []string{"Describe", "List", "Get", "BatchGet", "Lookup", "Search", "Query", "Scan", "AssumeRole", "Decrypt", "GenerateDataKey", "CompleteMultipartUpload"} {
		if strings.HasPrefix(op.name, verb) {
			return true
		}
	}
	return slices.ContainsFunc(in.node.order, func(f *field) bool {
		_, ok := in.values[f.name]
		return f.IdempotencyToken && ok
	})
}

// build makes the request.
func (c *Client) build(k *call) error {
	ep, custom, err := c.endpoint(k)
	if err != nil {
		return err
	}
	req, ok := smithyhttp.NewStackRequest().(*smithyhttp.Request)
	if !ok {
		return errors.New("smithy: NewStackRequest makes another type")
	}
	if err := k.service.serialize(k.wire, k.op, k.input, req); err != nil {
		return err
	}
	r := req.Request
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) || slices.ContainsFunc(values, func(v string) bool { return !httpguts.ValidHeaderFieldValue(v) }) {
			return &Error{Code: CodeParameters, Class: Invalid, Message: fmt.Sprintf("header %q would have a name or a value that HTTP does not allow", name)}
		}
	}
	path, raw := r.URL.Path, r.URL.RawPath
	r.URL.Scheme, r.URL.Host = ep.url.Scheme, ep.url.Host
	r.URL.Path = smithyhttp.JoinPath(ep.url.Path, path)
	if raw != "" || ep.url.RawPath != "" {
		r.URL.RawPath = smithyhttp.JoinPath(ep.url.EscapedPath(), or(raw, (&url.URL{Path: path}).EscapedPath()))
	}
	// The endpoint rules of S3 Control place the account themselves.
	if prefix := k.op.Endpoint.HostPrefix; prefix != "" && !custom && k.service.name != "s3control" {
		host, err := k.hostPrefix(prefix)
		if err != nil {
			return err
		}
		r.URL.Host = host + r.URL.Host
	}
	r.Host = r.URL.Host
	for name, values := range ep.headers {
		r.Header[http.CanonicalHeaderKey(name)] = values
	}
	r.Header.Set("User-Agent", userAgent)
	k.headers(r.Header)
	k.request = r
	switch body := req.GetStream().(type) {
	case nil:
	case io.ReadSeeker:
		k.body = body
	default:
		return fmt.Errorf("a body that cannot be sent twice: %T", body)
	}
	if err := c.authorize(k, ep); err != nil {
		return err
	}
	return c.checksum(k)
}

// serialize lets the protocol write a request, and takes back what Smithy would
// send and AWS does not expect.
func (s *service) serialize(w *wire, op *operation, in *input, req *smithyhttp.Request) error {
	for _, f := range in.node.order {
		if v, ok := in.values[f.name]; f.Location == "uri" && f.name != in.skip && (!ok || v == "") {
			return &Error{Code: CodeParameters, Class: Invalid, Message: f.name + ": is required, and not empty"}
		}
	}
	name := w.schema.ID().Name
	ctx := middleware.WithOperationName(context.Background(), name)
	if err := s.protocol.SerializeRequest(ctx, w.schema, in, req); err != nil {
		return &Error{Code: CodeParameters, Class: Invalid, Message: err.Error()}
	}
	if s.protocol.name == "rest-xml" && !s.hasBody(w, in) {
		// The library (1.28.9) sends {} for a payload that is absent, and an empty
		// element for a body without members.
		empty, err := req.SetStream(nil)
		if err != nil {
			return err
		}
		*req = *empty
		if !slices.ContainsFunc(in.node.order, func(f *field) bool {
			_, ok := in.values[f.name]
			return ok && f.Location == "header" && strings.EqualFold(f.LocationName, "Content-Type")
		}) {
			req.Header.Del("Content-Type")
		}
	}
	return nil
}

func (s *service) hasBody(w *wire, in *input) bool {
	if w.payload != nil {
		_, ok := in.values[w.payload.name]
		return ok
	}
	return slices.ContainsFunc(in.node.order, func(f *field) bool {
		_, ok := in.values[f.name]
		return ok && f.Location == ""
	})
}

func (k *call) hostPrefix(prefix string) (string, error) {
	for _, f := range k.input.node.order {
		if f.HostLabel {
			v, _ := k.input.values[f.name].(string)
			if !hostLabel.MatchString(v) {
				return "", &Error{Code: CodeParameters, Class: Invalid, Message: fmt.Sprintf("%s: %q cannot be a part of a host name", f.name, v)}
			}
			prefix = strings.ReplaceAll(prefix, "{"+f.name+"}", v)
		}
	}
	return prefix, nil
}

// endpoint evaluates the rules. custom says that somebody set the endpoint.
func (c *Client) endpoint(k *call) (ep *endpoint, custom bool, err error) {
	params, err := k.service.parameters(k.op, k.input.values)
	if err != nil {
		return nil, false, err
	}
	base, err := c.baseEndpoint(k.service)
	if err != nil {
		return nil, false, err
	}
	fips, dual := c.variants()
	builtIn := map[string]any{
		"AWS::Region":       k.region,
		"AWS::UseFIPS":      fips,
		"AWS::UseDualStack": dual,
		"SDK::Endpoint":     base,
		// A bucket in the path is what emulators and other stores understand.
		"AWS::S3::ForcePathStyle":                 base != "",
		"AWS::S3::UseArnRegion":                   true,
		"AWS::S3Control::UseArnRegion":            true,
		"AWS::S3::Accelerate":                     false,
		"AWS::S3::UseGlobalEndpoint":              false,
		"AWS::STS::UseGlobalEndpoint":             false,
		"AWS::S3::DisableMultiRegionAccessPoints": false,
	}
	if k.service.rules == nil {
		return nil, false, &Error{Code: CodeEndpoint, Class: Invalid, Message: "the model has no endpoint rules"}
	}
	for name, p := range k.service.rules.Parameters {
		if v, ok := builtIn[p.BuiltIn]; ok && v != "" {
			params[name] = v
		}
	}
	if k.service.name == "s3" {
		// Sessions of directory buckets are not implemented; plain signatures do as well.
		params["DisableS3ExpressSessionAuth"] = true
	}
	parts, err := c.models.partitions()
	if err != nil {
		return nil, false, err
	}
	ep, err = k.service.rules.resolve(parts, params)
	if none, ok := errors.AsType[noEndpoint](err); ok {
		message := string(none)
		if k.region == "" {
			message = "no region is set: set AWS_REGION, or a region in the profile; a step may name one (aws: { region: … })"
		}
		return nil, false, &Error{Code: CodeEndpoint, Class: Invalid, Message: message}
	}
	return ep, base != "", err
}

// parameters collects what an operation and its input tell the endpoint rules.
func (s *service) parameters(op *operation, values map[string]any) (map[string]any, error) {
	params := map[string]any{}
	for name, p := range op.StaticParams {
		params[name] = p.Value
	}
	if op.Input != nil {
		for name, r := range s.Shapes[op.Input.Shape].Members {
			if v := values[name]; r.ContextParam != nil && v != nil {
				params[r.ContextParam.Name] = v
			}
		}
	}
	return params, nil
}

// baseEndpoint is the endpoint that the options, the environment or the profile set.
func (c *Client) baseEndpoint(s *service) (string, error) {
	if c.options.Endpoint != "" {
		return c.options.Endpoint, nil
	}
	ctx := context.Background()
	if ignore, found, err := config.GetIgnoreConfiguredEndpoints(ctx, c.config.ConfigSources); err == nil && found && ignore {
		return "", nil
	}
	for _, source := range c.config.ConfigSources {
		if p, ok := source.(interface {
			GetServiceBaseEndpoint(context.Context, string) (string, bool, error)
		}); ok {
			v, found, err := p.GetServiceBaseEndpoint(ctx, s.Metadata.ServiceID)
			if err != nil {
				return "", fmt.Errorf("AWS configuration: %w", err)
			}
			if found && v != "" {
				return v, nil
			}
		}
	}
	if c.config.BaseEndpoint != nil {
		return *c.config.BaseEndpoint, nil
	}
	return "", nil
}

func (c *Client) variants() (fips, dual bool) {
	ctx := context.Background()
	for _, source := range c.config.ConfigSources {
		if p, ok := source.(interface {
			GetUseFIPSEndpoint(context.Context) (aws.FIPSEndpointState, bool, error)
		}); ok && !fips {
			v, found, err := p.GetUseFIPSEndpoint(ctx)
			fips = err == nil && found && v == aws.FIPSEndpointStateEnabled
		}
		if p, ok := source.(interface {
			GetUseDualStackEndpoint(context.Context) (aws.DualStackEndpointState, bool, error)
		}); ok && !dual {
			v, found, err := p.GetUseDualStackEndpoint(ctx)
			dual = err == nil && found && v == aws.DualStackEndpointStateEnabled
		}
	}
	return fips, dual
}

// authorize chooses how the request is signed.
func (c *Client) authorize(k *call, ep *endpoint) error {
	schemes := k.op.Auth
	if len(schemes) == 0 {
		schemes = k.service.Metadata.Auth
	}
	k.unsigned = k.op.Unsigned || k.op.AuthType == "v4-unsigned-body"
	k.auth = authScheme{
		Name:          "sigv4",
		SigningName:   or(k.service.Metadata.SigningName, k.service.Metadata.EndpointPrefix),
		SigningRegion: k.region,
	}
	switch {
	case k.op.AuthType == "none", slices.Contains(schemes, "smithy.api#noAuth"):
		k.auth.Name = "none"
		return nil
	case len(schemes) == 0 && k.service.Metadata.SignatureVersion == "bearer",
		len(schemes) > 0 && !slices.Contains(schemes, "aws.auth#sigv4") && slices.Contains(schemes, "smithy.api#httpBearerAuth"):
		k.auth.Name = "bearer"
		return nil
	}
	offered := ep.authSchemes()
	for _, a := range offered {
		if a.Name == "sigv4" {
			k.auth.SigningName = or(a.SigningName, k.auth.SigningName)
			k.auth.SigningRegion = or(a.SigningRegion, k.auth.SigningRegion)
			k.auth.DisableDoubleEncoding = a.DisableDoubleEncoding
			return nil
		}
	}
	for _, a := range offered {
		if a.Name == "sigv4a" { // of one key for several regions
			k.auth.Name, k.auth.SigningName, k.auth.SigningRegionSet = a.Name, or(a.SigningName, k.auth.SigningName), a.SigningRegionSet
			k.auth.DisableDoubleEncoding = a.DisableDoubleEncoding
			return nil
		}
	}
	if len(offered) > 0 {
		return &Error{Code: "SignatureUnsupported", Class: Invalid,
			Message: fmt.Sprintf("this endpoint wants the signature %s, which is not supported", offered[0].Name)}
	}
	if slices.Contains(schemes, "aws.auth#sigv4a") && !slices.Contains(schemes, "aws.auth#sigv4") {
		k.auth.Name, k.auth.SigningRegionSet = "sigv4a", []string{"*"}
		return nil
	}
	if len(schemes) > 0 && !slices.Contains(schemes, "aws.auth#sigv4") {
		return &Error{Code: "SignatureUnsupported", Class: Invalid,
			Message: fmt.Sprintf("this operation wants the signature %s, which is not supported", strings.Join(schemes, " or "))}
	}
	return nil
}

var checksums = map[string]func() hash.Hash{
	"CRC32":     func() hash.Hash { return crc32.NewIEEE() },
	"CRC32C":    func() hash.Hash { return crc32.New(crc32.MakeTable(crc32.Castagnoli)) },
	"CRC64NVME": func() hash.Hash { return crc64.New(crc64.MakeTable(0x9a6c9329ac4bc9b5)) },
	"SHA1":      sha1.New,
	"SHA256":    sha256.New,
	"MD5":       md5.New,
}

// checksum adds the checksum of the body that the operation wants, or that the
// input asks for.
func (c *Client) checksum(k *call) error {
	algorithm := ""
	if m := k.op.Checksum.RequestAlgorithmMember; m != "" {
		algorithm, _ = k.input.values[m].(string)
		supported := c.config.RequestChecksumCalculation != aws.RequestChecksumCalculationWhenRequired
		if algorithm == "" && (k.op.Checksum.RequestChecksumRequired || supported) {
			algorithm = "CRC32"
			if f := k.input.node.fields[m]; f.Location == "header" {
				k.request.Header.Set(f.LocationName, algorithm)
			}
		}
	} else if k.op.Checksum.RequestChecksumRequired || k.op.ChecksumRequired {
		algorithm = "MD5"
	}
	if algorithm == "" || k.body == nil {
		return nil
	}
	header := "X-Amz-Checksum-" + strings.ToLower(algorithm)
	if algorithm == "MD5" {
		header = "Content-Md5"
	}
	for name := range k.request.Header {
		if strings.HasPrefix(name, "X-Amz-Checksum-") || name == "Content-Md5" {
			return nil // the caller knows it already
		}
	}
	newHash := checksums[strings.ToUpper(algorithm)]
	if newHash == nil {
		return &Error{Code: CodeParameters, Class: Invalid,
			Message: fmt.Sprintf("%s: the checksum %q is not supported", k.op.Checksum.RequestAlgorithmMember, algorithm)}
	}
	sum, err := sumOf(k.body, newHash())
	if err != nil {
		return err
	}
	k.request.Header.Set(header, base64.StdEncoding.EncodeToString(sum))
	return nil
}

func sumOf(body io.ReadSeeker, h hash.Hash) ([]byte, error) {
	if body == nil {
		return h.Sum(nil), nil
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	if _, err := io.Copy(h, body); err != nil {
		return nil, fmt.Errorf("reading the body: %w", err)
	}
	return h.Sum(nil), nil
}
