package awsapi

import (
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
)

// ruleSet is a service's endpoint rules: a decision tree over parameters such as
// the region. https://smithy.io/2.0/additional-specs/rules-engine/
type ruleSet struct {
	Parameters map[string]struct {
		BuiltIn  string
		Type     string
		Required bool
		Default  any
	}
	Rules []rule
}

type rule struct {
	Type       string
	Conditions []condition
	Rules      []rule
	Error      any
	Endpoint   *struct {
		URL        any
		Properties map[string]any
		Headers    map[string][]any
	}
}

type condition struct {
	Fn     string
	Argv   []any
	Assign string
}

// endpoint is where a request goes.
type endpoint struct {
	url        *url.URL
	properties map[string]any
	headers    map[string][]string
}

// noEndpoint is what the rules say instead of an endpoint.
type noEndpoint string

func (e noEndpoint) Error() string { return string(e) }

// resolve evaluates the rules.
func (r *ruleSet) resolve(parts *partitions, params map[string]any) (*endpoint, error) {
	scope := make(map[string]any, len(params)+8)
	for name, p := range r.Parameters {
		v := params[name]
		if v == nil {
			v = p.Default
		}
		if v == nil && p.Required {
			return nil, noEndpoint("Missing endpoint parameter " + name)
		}
		if v != nil {
			scope[name] = v
		}
	}
	e := &evaluation{parts: parts, scope: scope}
	ep, done, err := e.rules(r.Rules)
	if err == nil && !done {
		err = noEndpoint("no endpoint rule fits")
	}
	return ep, err
}

type evaluation struct {
	parts *partitions
	scope map[string]any // values are string, bool, []any and map[string]any
}

// rules takes the first rule whose conditions hold. done is false if none does.
func (e *evaluation) rules(rules []rule) (ep *endpoint, done bool, err error) {
	for _, r := range rules {
		var assigned []string
		holds := true
		for _, c := range r.Conditions {
			v, err := e.call(c.Fn, c.Argv)
			if err != nil {
				return nil, false, err
			}
			if v == nil || v == false {
				holds = false
				break
			}
			if c.Assign != "" {
				e.scope[c.Assign] = v
				assigned = append(assigned, c.Assign)
			}
		}
		if holds {
			switch r.Type {
			case "endpoint":
				ep, err = e.endpoint(r)
				return ep, true, err
			case "error":
				text, err := e.value(r.Error)
				if err != nil {
					return nil, true, err
				}
				return nil, true, noEndpoint(fmt.Sprint(text))
			default:
				// A tree that holds has to decide; the rules after it are not tried.
				ep, done, err = e.rules(r.Rules)
				if err == nil && !done {
					err = noEndpoint("no endpoint rule fits")
				}
				return ep, true, err
			}
		}
		for _, name := range assigned {
			delete(e.scope, name)
		}
	}
	return nil, false, nil
}

func (e *evaluation) endpoint(r rule) (*endpoint, error) {
	if r.Endpoint == nil {
		return nil, fmt.Errorf("an endpoint rule without endpoint")
	}
	text, err := e.value(r.Endpoint.URL)
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(fmt.Sprint(text))
	if err != nil {
		return nil, noEndpoint(fmt.Sprintf("the endpoint %q is no URL", text))
	}
	ep := &endpoint{url: u, headers: map[string][]string{}}
	if r.Endpoint.Properties != nil {
		v, err := e.template(r.Endpoint.Properties)
		if err != nil {
			return nil, err
		}
		ep.properties, _ = v.(map[string]any)
	}
	for name, values := range r.Endpoint.Headers {
		for _, v := range values {
			text, err := e.value(v)
			if err != nil {
				return nil, err
			}
			ep.headers[name] = append(ep.headers[name], fmt.Sprint(text))
		}
	}
	return ep, nil
}

// template fills the texts inside a value in.
func (e *evaluation) template(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return e.fill(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			var err error
			if out[i], err = e.template(v[i]); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			var err error
			if out[k], err = e.template(v[k]); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	return v, nil
}

// value evaluates an argument: a literal, a reference or a call.
func (e *evaluation) value(v any) (any, error) {
	switch v := v.(type) {
	case string:
		return e.fill(v)
	case map[string]any:
		if name, ok := v["ref"].(string); ok {
			return e.scope[name], nil
		}
		if fn, ok := v["fn"].(string); ok {
			argv, _ := v["argv"].([]any)
			return e.call(fn, argv)
		}
	}
	return v, nil
}

// fill replaces {Region} and {url#scheme} in a text; {{ and }} are braces.
func (e *evaluation) fill(text string) (string, error) {
	if !strings.ContainsAny(text, "{}") {
		return text, nil
	}
	var out strings.Builder
	for len(text) > 0 {
		i := strings.IndexAny(text, "{}")
		if i < 0 {
			out.WriteString(text)
			break
		}
		out.WriteString(text[:i])
		if strings.HasPrefix(text[i:], "{{") || strings.HasPrefix(text[i:], "}}") {
			out.WriteByte(text[i])
			text = text[i+2:]
			continue
		}
		end := strings.IndexByte(text[i:], '}')
		if text[i] == '}' || end < 0 {
			return "", fmt.Errorf("endpoint rules: the braces of %q do not match", text)
		}
		name, part, isPart := strings.Cut(text[i+1:i+end], "#")
		v := e.scope[name]
		if isPart {
			v = attr(v, part)
		}
		if v == nil {
			return "", fmt.Errorf("endpoint rules: {%s} has no value", text[i+1:i+end])
		}
		fmt.Fprint(&out, v)
		text = text[i+end+1:]
	}
	return out.String(), nil
}

// call runs a function of the rules' library. nil means that it has no value.
func (e *evaluation) call(fn string, argv []any) (any, error) {
	args := make([]any, len(argv))
	for i := range argv {
		var err error
		if args[i], err = e.value(argv[i]); err != nil {
			return nil, err
		}
	}
	arg := func(i int) any {
		if i < len(args) {
			return args[i]
		}
		return nil
	}
	text := func(i int) string { s, _ := arg(i).(string); return s }
	number := func(i int) int { n, _ := arg(i).(float64); return int(n) }
	flag := func(i int) bool { b, _ := arg(i).(bool); return b }
	switch fn {
	case "isSet":
		return arg(0) != nil, nil
	case "not":
		return !(arg(0) != nil && arg(0) != false), nil
	case "booleanEquals", "stringEquals":
		switch arg(0).(type) {
		case string, bool:
			return arg(0) == arg(1), nil
		}
		return false, nil
	case "coalesce":
		for _, v := range args {
			if v != nil {
				return v, nil
			}
		}
		return nil, nil
	case "ite":
		if flag(0) {
			return arg(1), nil
		}
		return arg(2), nil
	case "getAttr":
		return attr(arg(0), text(1)), nil
	case "isValidHostLabel":
		labels := []string{text(0)}
		if flag(1) {
			labels = strings.Split(text(0), ".")
		}
		return !slices.ContainsFunc(labels, func(l string) bool { return !hostLabel.MatchString(l) }), nil
	case "substring":
		return substring(text(0), number(1), number(2), flag(3)), nil
	case "split":
		limit := number(2)
		if limit <= 0 {
			limit = -1
		}
		var out []any
		for _, s := range strings.SplitN(text(0), text(1), limit) {
			out = append(out, s)
		}
		return out, nil
	case "uriEncode":
		return uriEncode(text(0)), nil
	case "parseURL":
		return parseURL(text(0)), nil
	case "aws.partition":
		return e.parts.of(text(0)), nil
	case "aws.parseArn":
		return parseARN(text(0)), nil
	case "aws.isVirtualHostableS3Bucket":
		return virtualHostable(text(0), flag(1)), nil
	}
	return nil, fmt.Errorf("endpoint rules: there is no function %q", fn)
}

var index = regexp.MustCompile(`^(.*)\[(-?\d+)\]$`)

// attr follows a path such as "resourceId[1]" or "authority".
func attr(v any, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		at := ""
		if m := index.FindStringSubmatch(part); m != nil {
			part, at = m[1], m[2]
		}
		if part != "" {
			m, _ := v.(map[string]any)
			v = m[part]
		}
		if at != "" {
			list, _ := v.([]any)
			i := 0
			if _, err := fmt.Sscan(at, &i); err != nil {
				return nil
			}
			if i < 0 {
				i += len(list)
			}
			if i < 0 || i >= len(list) {
				return nil
			}
			v = list[i]
		}
	}
	return v
}

var hostLabel = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)

func substring(s string, start, stop int, reverse bool) any {
	if start < 0 || start >= stop || len(s) < stop {
		return nil
	}
	for _, r := range s {
		if r > 127 {
			return nil
		}
	}
	if reverse {
		return s[len(s)-stop : len(s)-start]
	}
	return s[start:stop]
}

func uriEncode(s string) string {
	var out strings.Builder
	for _, c := range []byte(s) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			out.WriteByte(c)
		} else {
			fmt.Fprintf(&out, "%%%02X", c)
		}
	}
	return out.String()
}

func parseURL(s string) any {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.RawQuery != "" || u.Host == "" {
		return nil
	}
	normal := u.EscapedPath()
	if !strings.HasPrefix(normal, "/") {
		normal = "/" + normal
	}
	if !strings.HasSuffix(normal, "/") {
		normal += "/"
	}
	host, _, _ := strings.Cut(u.Hostname(), "%")
	return map[string]any{
		"scheme":         u.Scheme,
		"authority":      strings.ReplaceAll(u.Host, "%", "%25"),
		"path":           u.EscapedPath(),
		"normalizedPath": normal,
		"isIp":           net.ParseIP(host) != nil,
	}
}

func parseARN(s string) any {
	parts := strings.SplitN(s, ":", 6)
	if len(parts) != 6 || parts[0] != "arn" || parts[1] == "" || parts[2] == "" || parts[5] == "" {
		return nil
	}
	var id []any
	for part := range strings.SplitSeq(strings.ReplaceAll(parts[5], "/", ":"), ":") {
		id = append(id, part)
	}
	return map[string]any{
		"partition": parts[1], "service": parts[2], "region": parts[3], "accountId": parts[4], "resourceId": id,
	}
}

var (
	bucketLabel = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$`)
	bucketName  = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)
)

// virtualHostable says whether a bucket's name can stand in a host.
func virtualHostable(name string, dots bool) bool {
	if !dots {
		return bucketLabel.MatchString(name)
	}
	if !bucketName.MatchString(name) || net.ParseIP(name) != nil {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if !hostLabel.MatchString(label) {
			return false
		}
	}
	return true
}

// partitions is what partitions.json knows of regions.
type partitions struct {
	Partitions []struct {
		ID          string
		RegionRegex string
		Outputs     map[string]any
		Regions     map[string]map[string]any

		pattern *regexp.Regexp
	}
}

func (p *partitions) init() error {
	for i := range p.Partitions {
		var err error
		if p.Partitions[i].pattern, err = regexp.Compile(p.Partitions[i].RegionRegex); err != nil {
			return err
		}
	}
	if len(p.Partitions) == 0 {
		return fmt.Errorf("there are none")
	}
	return nil
}

// of returns the partition of a region, that of aws if no other fits.
func (p *partitions) of(region string) any {
	found := 0
	for i := range p.Partitions {
		if p.Partitions[i].Regions[region] != nil {
			return p.outputs(i, region)
		}
		if found == 0 && p.Partitions[i].pattern.MatchString(region) {
			found = i
		}
	}
	return p.outputs(found, region)
}

func (p *partitions) outputs(i int, region string) map[string]any {
	out := map[string]any{"name": p.Partitions[i].ID}
	for _, from := range []map[string]any{p.Partitions[i].Outputs, p.Partitions[i].Regions[region]} {
		for k, v := range from {
			out[k] = v
		}
	}
	return out
}

// authScheme is how the rules want a request signed.
type authScheme struct {
	Name                  string
	SigningName           string
	SigningRegion         string
	SigningRegionSet      []string // of sigv4a
	DisableDoubleEncoding bool
}

func (ep *endpoint) authSchemes() []authScheme {
	text, err := json.Marshal(ep.properties["authSchemes"])
	if err != nil {
		return nil
	}
	var out []authScheme
	if json.Unmarshal(text, &out) != nil {
		return nil
	}
	return out
}
