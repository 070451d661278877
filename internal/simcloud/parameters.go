package simcloud

import (
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// parameter of the Parameter Store.
type parameter struct {
	*resource
	versions []*version // oldest first
}

type version struct {
	number                       int64
	value, kind, keyID, dataType string
	description, pattern, tier   string
	labels                       map[string]bool
	modified                     time.Time
}

var (
	parameterForm = regexp.MustCompile(`^/?[a-zA-Z0-9_.-]+(/[a-zA-Z0-9_.-]+)*$`)
	labelForm     = regexp.MustCompile(`^[a-zA-Z_.-][a-zA-Z0-9_.-]{0,99}$`)
)

// named splits name:3 and name:label, and takes the name out of an ARN.
func named(text string) (name, selector string) {
	if _, rest, ok := strings.Cut(text, ":parameter/"); ok && strings.HasPrefix(text, "arn:") {
		text = "/" + rest
	}
	name, selector, _ = strings.Cut(text, ":")
	return name, selector
}

// parameter finds a version of a parameter.
func (k *call) parameter(text string) (*version, error) {
	name, selector := named(text)
	p, ok := k.parameters.get(k.key(name))
	if !ok {
		return nil, k.fail("ParameterNotFound", "parameter %s does not exist", name)
	}
	if selector == "" {
		return p.versions[len(p.versions)-1], nil
	}
	n, _ := strconv.ParseInt(selector, 10, 64)
	for _, v := range p.versions {
		if v.number == n || v.labels[selector] {
			return v, nil
		}
	}
	return nil, k.fail("ParameterVersionNotFound", "Systems Manager could not find version %s of %s. Verify the version and try again.", selector, name)
}

func putParameter(k *call) (map[string]any, error) {
	name, kind, value := k.in.str("Name"), k.in.str("Type"), k.in.str("Value")
	if !parameterForm.MatchString(name) || strings.Count(name, "/") > 15 {
		return nil, k.fail("ValidationException", "Parameter name: can't be empty, and may contain a-zA-Z0-9_.-/ only: %q", name)
	}
	if first := strings.ToLower(strings.Trim(strings.SplitN(strings.TrimPrefix(name, "/"), "/", 2)[0], ".")); strings.HasPrefix(first, "aws") || strings.HasPrefix(first, "ssm") {
		return nil, k.fail("AccessDeniedException", "No access to reserved parameter name: %s.", name)
	}
	if err := k.unsimulated("Policies"); err != nil {
		return nil, err
	}
	p, exists := k.parameters.get(k.key(name))
	switch {
	case exists && !k.in.bool("Overwrite"):
		return nil, k.fail("ParameterAlreadyExists", "The parameter already exists. To overwrite this value, set the overwrite option in the request to true.")
	case k.in.has("Tags") && k.in.bool("Overwrite"):
		return nil, k.fail("ValidationException", "Invalid request: tags and overwrite can't be used together. To create a parameter with tags, please remove overwrite flag.")
	case exists && kind == "":
		kind = p.versions[len(p.versions)-1].kind
	case kind == "":
		return nil, k.fail("ValidationException", "A parameter type is required when you create a parameter.")
	}
	if !slices.Contains([]string{"String", "StringList", "SecureString"}, kind) {
		return nil, k.fail("UnsupportedParameterType", "The parameter type %s is not supported.", kind)
	}
	tier := or(k.in.str("Tier"), "Standard")
	if most := map[string]int{"Standard": 4096}[tier]; most > 0 && len(value) > most {
		return nil, k.fail("ValidationException", "Standard tier parameters support a maximum parameter value of 4096 characters.")
	}
	if len(value) > 8192 {
		return nil, k.fail("ValidationException", "Parameters support a maximum parameter value of 8192 characters.")
	}
	if pattern := k.in.str("AllowedPattern"); pattern != "" {
		form, err := regexp.Compile(pattern)
		if err != nil {
			return nil, k.fail("InvalidAllowedPatternException", "The pattern %s is no regular expression", pattern)
		}
		if !form.MatchString(value) {
			return nil, k.fail("ParameterPatternMismatchException", "Parameter value, cannot be validated against allowedPattern: %s", pattern)
		}
	}
	next := int64(1)
	if exists {
		next = p.versions[len(p.versions)-1].number + 1
	}
	answer := object("Version", next, "Tier", tier)
	dataType := or(k.in.str("DataType"), "text")
	if dataType == "aws:ec2:image" {
		if _, err := k.usableImage(value); err != nil {
			return answer, nil // as AWS does: it says yes, looks later, and makes nothing
		}
	}
	if !exists {
		p = &parameter{resource: k.make("parameter", name, name, k.in.tags("Tags"))}
		k.parameters.put(k.key(name), p)
	}
	if len(p.versions) == 100 {
		if len(p.versions[0].labels) > 0 {
			return nil, k.fail("ParameterMaxVersionLimitExceeded", "The oldest of 100 versions has a label and cannot be deleted.")
		}
		p.versions = p.versions[1:]
	}
	p.versions = append(p.versions, &version{
		number: next, value: value, kind: kind, keyID: k.in.str("KeyId"), dataType: dataType, description: k.in.str("Description"),
		pattern: k.in.str("AllowedPattern"), tier: tier, labels: map[string]bool{}, modified: k.now,
	})
	if exists {
		k.changed(p.resource, "version "+strconv.FormatInt(next, 10))
	}
	return answer, nil
}

// shown is a value as it is read: without WithDecryption, a secret stays sealed.
func (k *call) shown(name string, v *version) string {
	if v.kind == "SecureString" && !k.in.bool("WithDecryption") {
		return "AQICAH" + base64.StdEncoding.EncodeToString(k.hash("sealed", k.account, k.region, name, v.number, v.value))
	}
	return v.value
}

func (k *call) describeParameter(text string, v *version) map[string]any {
	name, selector := named(text)
	if selector != "" {
		selector = ":" + selector
	}
	return object("Name", name, "Type", v.kind, "Value", k.shown(name, v), "Version", v.number, "Selector", selector,
		"LastModifiedDate", v.modified, "DataType", v.dataType,
		"ARN", "arn:aws:ssm:"+k.region+":"+k.account+":parameter/"+strings.TrimPrefix(name, "/"))
}

func getParameter(k *call) (map[string]any, error) {
	v, err := k.parameter(k.in.str("Name"))
	if err != nil {
		return nil, err
	}
	return object("Parameter", k.describeParameter(k.in.str("Name"), v)), nil
}

func getParameters(k *call) (map[string]any, error) {
	if len(k.in.strs("Names")) > 10 {
		return nil, k.fail("ValidationException", "Value at 'names' failed to satisfy constraint: Member must have length less than or equal to 10")
	}
	found, missing := []any{}, []any{}
	for _, name := range k.in.strs("Names") {
		if v, err := k.parameter(name); err == nil {
			found = append(found, k.describeParameter(name, v))
		} else {
			missing = append(missing, name)
		}
	}
	return object("Parameters", found, "InvalidParameters", missing), nil
}

func getParametersByPath(k *call) (map[string]any, error) {
	if err := k.unsimulated("ParameterFilters"); err != nil {
		return nil, err
	}
	path := strings.TrimSuffix(k.in.str("Path"), "/") + "/"
	if !strings.HasPrefix(path, "/") {
		return nil, k.fail("ValidationException", "The parameter path must begin with /: %s", path)
	}
	if k.in.intOr("MaxResults", 10) > 10 {
		return nil, k.fail("ValidationException", "Value at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 10")
	}
	var rows []*parameter
	for _, p := range k.parameters.all() {
		rest, below := strings.CutPrefix(p.name, path)
		if p.place == k.place && below && (k.in.bool("Recursive") || !strings.Contains(rest, "/")) {
			rows = append(rows, p)
		}
	}
	if !k.in.has("MaxResults") {
		k.in = maps.Clone(k.in)
		k.in["MaxResults"] = int64(min(10, k.PageSize))
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Parameters", list(rows, func(p *parameter) map[string]any {
		return k.describeParameter(p.name, p.versions[len(p.versions)-1])
	})), nil
}

func deleteParameter(k *call) (map[string]any, error) {
	name, _ := named(k.in.str("Name"))
	p, ok := k.parameters.get(k.key(name))
	if !ok {
		return nil, k.fail("ParameterNotFound", "parameter %s does not exist", name)
	}
	k.parameters.drop(k.key(name))
	k.remove(p.resource)
	return map[string]any{}, nil
}

func labelParameterVersion(k *call) (map[string]any, error) {
	name := k.in.str("Name")
	p, ok := k.parameters.get(k.key(name))
	if !ok {
		return nil, k.fail("ParameterNotFound", "parameter %s does not exist", name)
	}
	which := name
	if k.in.has("ParameterVersion") {
		which += ":" + strconv.FormatInt(k.in.int("ParameterVersion"), 10)
	}
	v, err := k.parameter(which)
	if err != nil {
		return nil, err
	}
	invalid := []any{}
	var labels []string
	for _, label := range k.in.strs("Labels") {
		low := strings.ToLower(label)
		if !labelForm.MatchString(label) || strings.HasPrefix(low, "aws") || strings.HasPrefix(low, "ssm") {
			invalid = append(invalid, label)
			continue
		}
		labels = append(labels, label)
	}
	all := maps.Clone(v.labels)
	for _, label := range labels {
		all[label] = true
	}
	if len(all) > 10 {
		return nil, k.fail("ParameterVersionLabelLimitExceeded", "A parameter version can have a maximum of ten labels.")
	}
	for _, label := range labels {
		for _, other := range p.versions {
			delete(other.labels, label) // a label is on one version
		}
		v.labels[label] = true
		k.changed(p.resource, "label "+label)
	}
	return object("ParameterVersion", v.number, "InvalidLabels", invalid), nil
}

func getParameterHistory(k *call) (map[string]any, error) {
	name := k.in.str("Name")
	p, ok := k.parameters.get(k.key(name))
	if !ok {
		return nil, k.fail("ParameterNotFound", "parameter %s does not exist", name)
	}
	rows, next := page(k, p.versions, "MaxResults")
	return object("NextToken", next, "Parameters", list(rows, func(v *version) map[string]any {
		labels := slices.Sorted(maps.Keys(v.labels))
		return object("Name", name, "Type", v.kind, "Value", k.shown(name, v), "Version", v.number, "Labels", append([]string{}, labels...),
			"LastModifiedDate", v.modified, "LastModifiedUser", "arn:aws:iam::"+k.account+":root", "KeyId", v.keyID, "Description", v.description,
			"AllowedPattern", v.pattern, "Tier", v.tier, "DataType", v.dataType)
	})), nil
}

// parameterToTag finds what AddTagsToResource names.
func (k *call) parameterToTag() (*parameter, error) {
	if kind := k.in.str("ResourceType"); kind != "Parameter" {
		return nil, k.fail("NotSimulated", "tags of SSM's %s are not simulated", kind)
	}
	p, ok := k.parameters.get(k.key(k.in.str("ResourceId")))
	if !ok || p.origin == byAWS {
		return nil, k.fail("InvalidResourceId", "parameter %s does not exist", k.in.str("ResourceId"))
	}
	return p, nil
}

func addTagsToResource(k *call) (map[string]any, error) {
	r, err := k.toTag()
	if err != nil {
		return nil, err
	}
	maps.Copy(r.tags, k.in.tags("Tags"))
	k.changed(r, "tags")
	return map[string]any{}, nil
}

func listTagsForResource(k *call) (map[string]any, error) {
	r, err := k.toTag()
	if err != nil {
		return nil, err
	}
	return object("TagList", tagList(r.tags)), nil
}

// toTag finds what a call tags: a parameter, or a hybrid node. Instances have the
// tags of EC2.
func (k *call) toTag() (*resource, error) {
	if k.in.str("ResourceType") != "ManagedInstance" {
		p, err := k.parameterToTag()
		if err != nil {
			return nil, err
		}
		return p.resource, nil
	}
	i, ok := k.instances.get(k.in.str("ResourceId"))
	if !ok || i.place != k.place || !i.hybrid {
		return nil, k.fail("InvalidResourceId", "The resource ID isn't valid. Verify that you entered the correct ID and try again.")
	}
	return i.resource, nil
}
