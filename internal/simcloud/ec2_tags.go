package simcloud

import (
	"fmt"
	"slices"
	"strings"
)

// prefixes of ids, by kind.
var prefixes = map[string]string{
	"i": "instance", "ami": "image", "snap": "snapshot", "vol": "volume", "lt": "launch-template",
	"subnet": "subnet", "sg": "security-group", "vpc": "vpc",
}

// tagged finds what is to be tagged.
func (k *call) tagged(id string) (*resource, error) {
	kind := prefixes[id[:max(strings.IndexByte(id, '-'), 0)]]
	if kind == "" {
		return nil, k.fail("InvalidID", "The ID '%s' is not valid", id)
	}
	r, ok := k.resources.get(kind + " " + k.key(id))
	if !ok && kind == "instance" {
		if i, err := k.instance(id); err == nil {
			return i.resource, nil // terminated, but not forgotten
		}
	}
	if !ok || !k.sees(r) {
		return nil, k.noSuch(kind, id)
	}
	return r, nil
}

// retag changes the tags of all Resources, or of none if one is not found.
func (k *call) retag(change func(*resource) error) (map[string]any, error) {
	var all []*resource
	for _, id := range k.in.strs("Resources") {
		r, err := k.tagged(id)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	for _, r := range all {
		if err := change(r); err != nil {
			return nil, err
		}
		k.changed(r, "tags")
	}
	return map[string]any{}, nil
}

func createTags(k *call) (map[string]any, error) {
	if err := k.tagsTaken(k.in.subs("Tags")); err != nil {
		return nil, err
	}
	return k.retag(func(r *resource) error {
		after := len(r.tags)
		for key := range k.in.tags("Tags") {
			if _, has := r.tags[key]; !has {
				after++
			}
		}
		if after > 50 {
			return k.fail("TagLimitExceeded", "The resource %s would have more than 50 tags", r.id)
		}
		for key, v := range k.in.tags("Tags") {
			r.tags[key] = v
		}
		return nil
	})
}

func deleteTags(k *call) (map[string]any, error) {
	return k.retag(func(r *resource) error {
		if !k.in.has("Tags") {
			clear(r.tags)
		}
		for _, t := range k.in.subs("Tags") {
			if v, only := t["Value"]; !only || r.tags[t.str("Key")] == fmt.Sprint(v) {
				delete(r.tags, t.str("Key"))
			}
		}
		return nil
	})
}

func describeTags(k *call) (map[string]any, error) {
	type tag struct {
		*resource
		key, value string
	}
	var rows []tag
	for _, r := range k.resources.all() {
		if r.place != k.place || !slices.Contains([]string{"instance", "image", "snapshot", "volume", "launch-template"}, r.kind) || !k.sees(r) {
			continue
		}
		for _, t := range tagList(r.tags) {
			t := input(t.(map[string]any))
			rows = append(rows, tag{r, t.str("Key"), t.str("Value")})
		}
	}
	rows, err := filter(k, rows, fields[tag]{
		"key":           field(func(t tag) string { return t.key }),
		"value":         field(func(t tag) string { return t.value }),
		"resource-id":   field(func(t tag) string { return t.id }),
		"resource-type": field(func(t tag) string { return t.kind }),
	})
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "Tags", list(rows, func(t tag) map[string]any {
		return map[string]any{"Key": t.key, "Value": t.value, "ResourceId": t.id, "ResourceType": t.kind}
	})), nil
}
