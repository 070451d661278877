package simcloud

import (
	"slices"
	"strconv"
	"strings"
)

var taggingOperations = map[string]func(*call) (map[string]any, error){"GetResources": getResources}

// arnOf is the ARN of what the tagging API lists; "" if it does not list its kind.
func (k *call) arnOf(r *resource) string {
	arn := func(service, rest string) string {
		return "arn:aws:" + service + ":" + r.region + ":" + r.account + ":" + rest
	}
	switch r.kind {
	case "instance", "image", "snapshot", "volume", "launch-template":
		return arn("ec2", r.kind+"/"+r.id)
	case "parameter":
		return arn("ssm", "parameter/"+strings.TrimPrefix(r.name, "/"))
	case "topic":
		return arn("sns", r.name)
	case "queue":
		return arn("sqs", r.name)
	case "state-machine":
		return arn("states", "stateMachine:"+r.name)
	case "key":
		return arn("kms", "key/"+r.id)
	case "bucket":
		return "arn:aws:s3:::" + r.name
	case "stack": // it and a secret have a part in their ARNs that tells them from others of that name
		for _, s := range k.stacks.all() {
			if s.resource == r {
				return s.arn
			}
		}
	case "secret":
		for _, s := range k.secrets.all() {
			if s.resource == r {
				return s.arn
			}
		}
	}
	return ""
}

func getResources(k *call) (map[string]any, error) {
	if err := k.unsimulated("ResourceTypeFilters", "ResourceARNList", "IncludeComplianceDetails", "ExcludeCompliantResources", "TagsPerPage"); err != nil {
		return nil, err
	}
	size := k.in.intOr("ResourcesPerPage", 50)
	if size < 1 || size > 100 {
		return nil, k.fail("InvalidParameterException", "ResourcesPerPage must be from 1 to 100.")
	}
	var rows []map[string]any
	for _, r := range k.resources.all() {
		if r.place != k.place || len(r.tags) == 0 || !k.sees(r) {
			continue
		}
		fits := true
		for _, f := range k.in.subs("TagFilters") {
			v, has := r.tags[f.str("Key")]
			values := f.strs("Values")
			fits = fits && has && (len(values) == 0 || slices.Contains(values, v))
		}
		if arn := k.arnOf(r); fits && arn != "" {
			rows = append(rows, map[string]any{"ResourceARN": arn, "Tags": tagList(r.tags)})
		}
	}
	from, _ := strconv.Atoi(strings.TrimPrefix(k.in.str("PaginationToken"), "after-"))
	from = min(max(from, 0), len(rows))
	to := min(from+int(size), len(rows))
	next := "" // AWS answers it empty, too
	if to < len(rows) {
		next = "after-" + strconv.Itoa(to)
	}
	return map[string]any{"PaginationToken": next, "ResourceTagMappingList": list(rows[from:to], func(row map[string]any) map[string]any { return row })}, nil
}
