package aws

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/almanac-run/almanac/action"
)

// A note is what an action writes on a resource of EC2, as a tag, before it
// changes it: how it was. So an attempt whose predecessor's answer was lost, and
// a compensation that has no output, know what there is to take back. A note
// stays on the resource until the compensation has run or the next step of that
// kind writes its own; it does no harm there.
//
// The tag is almanac:note:KIND with the token and the text; a text too long for
// one tag goes on in almanac:note:KIND:2 and so on.

const (
	notePrefix = tagPrefix + "note:"
	noteRoom   = 256 - 26 - 1 // of a tag's value, behind the token
	mostNotes  = 8            // tags of one note; a resource has 50
)

func noteKey(kind string, part int) string {
	if part == 1 {
		return notePrefix + kind
	}
	return notePrefix + kind + ":" + strconv.Itoa(part)
}

// tagsNow reads the tags of resources of EC2. All resources are in the answer.
func (c client) tagsNow(ctx context.Context, ids []string) (map[string]map[string]string, error) {
	all := map[string]map[string]string{}
	for _, id := range ids {
		all[id] = map[string]string{}
	}
	for some := range slices.Chunk(ids, 200) {
		tags, err := c.list(ctx, "ec2", "DescribeTags", "Tags", members{"Filters": []any{filter("resource-id", some...)}})
		if err != nil {
			return nil, err
		}
		for _, t := range tags {
			if of := all[t.text("ResourceId")]; of != nil {
				of[t.text("Key")] = t.text("Value")
			}
		}
	}
	return all, nil
}

// notes returns what this step has noted, by resource; those without a note are
// absent. If an attempt before may have written, it looks for as long as the news takes.
func (c client) notes(ctx context.Context, kind string, ids []string, mayHave bool) (map[string]string, error) {
	found := map[string]string{}
	look := func() (bool, string, error) {
		tags, err := c.tagsNow(ctx, ids)
		if err != nil {
			return false, "", err
		}
		for id, of := range tags {
			if text, ok := c.noteIn(of, kind); ok {
				found[id] = text
			}
		}
		return len(found) == len(ids), "no note yet", nil
	}
	if !mayHave {
		_, _, err := look()
		return found, err
	}
	_, err := c.within(ctx, newsTakes, "look for what was noted", look)
	return found, err
}

func (c client) noteIn(tags map[string]string, kind string) (string, bool) {
	var text strings.Builder
	for part := 1; ; part++ {
		token, rest, _ := strings.Cut(tags[noteKey(kind, part)], " ")
		if token != c.step.Token {
			return text.String(), part > 1
		}
		text.WriteString(rest)
	}
}

// note writes notes, by resource.
func (c client) note(ctx context.Context, kind string, texts map[string]string) error {
	// Those that say the same go in one call.
	same := map[string][]string{}
	for id, text := range texts {
		same[text] = append(same[text], id)
	}
	for _, text := range slices.Sorted(maps.Keys(same)) {
		tags := map[string]string{}
		for part, rest := 1, text; part == 1 || rest != ""; part++ {
			if part > mostNotes {
				return action.Errorf(action.Invalid, "what there was before is too much to be kept in tags: change less in one step")
			}
			n := min(len(rest), noteRoom)
			for n < len(rest) && !utf8.RuneStart(rest[n]) {
				n--
			}
			value := c.step.Token
			if n > 0 {
				value += " " + rest[:n]
			}
			tags[noteKey(kind, part)], rest = value, rest[n:]
		}
		ids := slices.Sorted(slices.Values(same[text]))
		if err := c.tag(ctx, ids, tags); err != nil {
			return err
		}
	}
	return nil
}

// forget takes this step's notes away.
func (c client) forget(ctx context.Context, kind string, ids []string) error {
	var tags []any
	for part := 1; part <= mostNotes; part++ {
		tags = append(tags, map[string]any{"Key": noteKey(kind, part)})
	}
	now, err := c.tagsNow(ctx, ids)
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(now)) {
		if _, ok := c.noteIn(now[id], kind); !ok {
			continue
		}
		if _, err := c.call(ctx, "ec2", "DeleteTags", members{"Resources": []any{id}, "Tags": tags}); err != nil && !notFound(err) {
			return err
		}
	}
	return nil
}

// tag sets tags of resources of EC2.
func (c client) tag(ctx context.Context, ids []string, tags map[string]string) error {
	for some := range slices.Chunk(ids, 100) {
		if _, err := c.news(ctx, "ec2", "CreateTags", members{"Resources": anys(some), "Tags": tagList(tags)}); err != nil {
			return err
		}
	}
	return nil
}
