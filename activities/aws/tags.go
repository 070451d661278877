package aws

import (
	"maps"
	"slices"
	"strings"

	"github.com/almanac-run/almanac/action"
)

// Tags by which everything that is made can be found, given in the call that
// makes it. Nobody else may set a tag that begins with tagPrefix.
const (
	tagPrefix    = "almanac:"
	tagExecution = tagPrefix + "execution"
	tagStep      = tagPrefix + "step"
	tagToken     = tagPrefix + "token"
)

// tags are the user's and ours, in the order of their keys.
func (c client) tags(users map[string]string) ([]any, error) {
	if err := tagsAllowed(users); err != nil {
		return nil, err
	}
	all := map[string]string{tagExecution: tagValue(c.step.Execution), tagStep: tagValue(c.step.Step), tagToken: c.step.Token}
	maps.Copy(all, users)
	return tagList(all), nil
}

func tagsAllowed(users map[string]string) error {
	for key := range users {
		if strings.HasPrefix(key, tagPrefix) {
			return action.Errorf(action.Invalid, "the tag %s begins with %s: those are Almanac's own", key, tagPrefix)
		}
	}
	return nil
}

func tagList(tags map[string]string) []any {
	all := []any{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		all = append(all, map[string]any{"Key": key, "Value": tags[key]})
	}
	return all
}

// tagValue is text as AWS takes it as a tag's value: at most 256 characters, and
// of those that every service allows.
func tagValue(text string) string {
	text = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(" +-=._:/@", r) {
			return r
		}
		return '_'
	}, text)
	if len(text) > 256 {
		text = text[:256]
	}
	return text
}

// tagged are EC2's TagSpecifications for these types of resources.
func (c client) tagged(users map[string]string, kinds ...string) ([]any, error) {
	tags, err := c.tags(users)
	if err != nil {
		return nil, err
	}
	var specs []any
	for _, kind := range kinds {
		specs = append(specs, map[string]any{"ResourceType": kind, "Tags": tags})
	}
	return specs, nil
}

// ours is the filter for what this step has made.
func (c client) ours() map[string]any { return filter("tag:"+tagToken, c.step.Token) }

// tagsOf reads the tags of something.
func tagsOf(m members) map[string]string {
	tags := map[string]string{}
	for _, t := range m.list("Tags") {
		tags[t.text("Key")] = t.text("Value")
	}
	return tags
}

// whose says for a message who made something.
func whose(tags map[string]string) string {
	if by := tags[tagExecution]; by != "" {
		return "made by step " + tags[tagStep] + " of execution " + by
	}
	return "not made by Almanac"
}
