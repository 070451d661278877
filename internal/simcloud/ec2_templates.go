package simcloud

import (
	"maps"
	"slices"
	"strconv"
	"time"
)

type template struct {
	*resource
	versions []*templateVersion // by number, from 1; nil where deleted
	standard int64              // the default version
}

type templateVersion struct {
	number      int64
	description string
	data        input
	made        time.Time
}

// template finds a launch template by id or name.
func (k *call) template(in input) (*template, error) {
	if id := in.str("LaunchTemplateId"); id != "" {
		return byID(k, "launch-template", &k.templates, id)
	}
	name := in.str("LaunchTemplateName")
	if name == "" {
		return nil, k.fail("MissingParameter", "Either LaunchTemplateId or LaunchTemplateName must be specified")
	}
	for _, t := range k.templates.all() {
		if t.place == k.place && t.name == name && !t.removed {
			if k.sees(t.resource) {
				return t, nil
			}
			break
		}
	}
	return nil, k.fail("InvalidLaunchTemplateName.NotFoundException", "The specified launch template, with template name %s, does not exist.", name)
}

// version finds a version by number, $Latest or $Default; "" is the default.
func (k *call) version(t *template, which string) (*templateVersion, error) {
	n := t.standard
	switch which {
	case "", "$Default":
	case "$Latest":
		n = t.latest()
	default:
		var err error
		if n, err = strconv.ParseInt(which, 10, 64); err != nil {
			return nil, k.fail("InvalidLaunchTemplateId.VersionNotFound", "Invalid launch template version %s", which)
		}
	}
	if n < 1 || n > int64(len(t.versions)) || t.versions[n-1] == nil {
		return nil, k.fail("InvalidLaunchTemplateId.VersionNotFound", "Could not find launch template version %s of %s", which, t.id)
	}
	return t.versions[n-1], nil
}

func (t *template) latest() int64 {
	for n := len(t.versions); n > 0; n-- {
		if t.versions[n-1] != nil {
			return int64(n)
		}
	}
	return 0
}

// withTemplate is a launch's members with those of a launch template beneath.
func (k *call) withTemplate(in, spec input) (input, error) {
	if spec == nil {
		return in, nil
	}
	t, err := k.template(spec)
	if err != nil {
		return nil, err
	}
	v, err := k.version(t, spec.str("Version"))
	if err != nil {
		return nil, err
	}
	merged := maps.Clone(v.data)
	maps.Copy(merged, in)
	if tags := slices.Concat(v.data.subs("TagSpecifications"), in.subs("TagSpecifications")); tags != nil {
		merged["TagSpecifications"] = list(tags, func(i input) map[string]any { return i })
	}
	return merged, nil
}

func createLaunchTemplate(k *call) (map[string]any, error) {
	if err := k.tagSpecs("launch-template"); err != nil {
		return nil, err
	}
	t, err := once(k, "ClientToken", "CreateLaunchTemplate", "IdempotentParameterMismatch", func() (*template, error) {
		name := k.in.str("LaunchTemplateName")
		for _, t := range k.templates.all() {
			if t.place == k.place && t.name == name && !t.removed {
				return nil, k.fail("InvalidLaunchTemplateName.AlreadyExistsException", "Launch template name already in use.")
			}
		}
		t := &template{resource: k.make("launch-template", k.mint("lt-", 17), name, k.in.tagsFor("launch-template")), standard: 1}
		t.versions = []*templateVersion{{1, k.in.str("VersionDescription"), maps.Clone(k.in.sub("LaunchTemplateData")), k.now}}
		k.templates.put(t.id, t)
		return t, nil
	})
	if err != nil {
		return nil, err
	}
	return object("LaunchTemplate", describeTemplate(t)), nil
}

func describeTemplate(t *template) map[string]any {
	return object("LaunchTemplateId", t.id, "LaunchTemplateName", t.name, "CreateTime", t.made, "CreatedBy", "arn:aws:iam::"+t.account+":root",
		"DefaultVersionNumber", t.standard, "LatestVersionNumber", t.latest(), "Tags", tagList(t.tags))
}

func describeTemplateVersion(t *template, v *templateVersion) map[string]any {
	return object("LaunchTemplateId", t.id, "LaunchTemplateName", t.name, "VersionNumber", v.number, "VersionDescription", v.description,
		"CreateTime", v.made, "CreatedBy", "arn:aws:iam::"+t.account+":root", "DefaultVersion", v.number == t.standard, "LaunchTemplateData", maps.Clone(v.data))
}

func createLaunchTemplateVersion(k *call) (map[string]any, error) {
	t, err := k.template(k.in)
	if err != nil {
		return nil, err
	}
	v, err := once(k, "ClientToken", "CreateLaunchTemplateVersion", "IdempotentParameterMismatch", func() (*templateVersion, error) {
		data := input{}
		if from := k.in.str("SourceVersion"); from != "" {
			source, err := k.version(t, from)
			if err != nil {
				return nil, err
			}
			data = maps.Clone(source.data)
		}
		maps.Copy(data, k.in.sub("LaunchTemplateData"))
		v := &templateVersion{int64(len(t.versions)) + 1, k.in.str("VersionDescription"), data, k.now}
		t.versions = append(t.versions, v)
		k.changed(t.resource, "version "+strconv.FormatInt(v.number, 10))
		return v, nil
	})
	if err != nil {
		return nil, err
	}
	return object("LaunchTemplateVersion", describeTemplateVersion(t, v)), nil
}

func describeLaunchTemplates(k *call) (map[string]any, error) {
	rows, err := described(k, "launch-template", &k.templates, k.in.strs("LaunchTemplateIds"))
	if err != nil {
		return nil, err
	}
	if names := k.in.strs("LaunchTemplateNames"); names != nil {
		rows = nil
		for _, name := range names {
			t, err := k.template(input{"LaunchTemplateName": name})
			if err != nil {
				return nil, err
			}
			rows = append(rows, t)
		}
	}
	rows, err = filter(k, rows, fields[*template]{"launch-template-name": field(func(t *template) string { return t.name })})
	if err != nil {
		return nil, err
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "LaunchTemplates", list(rows, describeTemplate)), nil
}

func describeLaunchTemplateVersions(k *call) (map[string]any, error) {
	if err := k.unsimulated("Filters"); err != nil {
		return nil, err
	}
	t, err := k.template(k.in)
	if err != nil {
		return nil, err
	}
	low := k.versionNumber(k.in.str("MinVersion"), 1)
	high := k.versionNumber(k.in.str("MaxVersion"), int64(len(t.versions)))
	var rows []*templateVersion
	for _, v := range slices.Backward(t.versions) {
		if v != nil && v.number >= low && v.number <= high {
			rows = append(rows, v)
		}
	}
	if which := k.in.strs("Versions"); which != nil {
		rows = nil
		for _, one := range which {
			v, err := k.version(t, one)
			if err != nil {
				return nil, err
			}
			rows = append(rows, v)
		}
	}
	rows, next := page(k, rows, "MaxResults")
	return object("NextToken", next, "LaunchTemplateVersions", list(rows, func(v *templateVersion) map[string]any { return describeTemplateVersion(t, v) })), nil
}

func (k *call) versionNumber(text string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	return otherwise
}

func modifyLaunchTemplate(k *call) (map[string]any, error) {
	t, err := k.template(k.in)
	if err != nil {
		return nil, err
	}
	v, err := k.version(t, k.in.str("DefaultVersion"))
	if err != nil {
		return nil, err
	}
	if t.standard != v.number {
		t.standard = v.number
		k.changed(t.resource, "default version")
	}
	return object("LaunchTemplate", describeTemplate(t)), nil
}

func deleteLaunchTemplate(k *call) (map[string]any, error) {
	t, err := k.template(k.in)
	if err != nil {
		return nil, err
	}
	k.remove(t.resource)
	return object("LaunchTemplate", describeTemplate(t)), nil
}

func deleteLaunchTemplateVersions(k *call) (map[string]any, error) {
	t, err := k.template(k.in)
	if err != nil {
		return nil, err
	}
	var done, left []any
	for _, which := range k.in.strs("Versions") {
		v, err := k.version(t, which)
		about := object("LaunchTemplateId", t.id, "LaunchTemplateName", t.name, "VersionNumber", k.versionNumber(which, 0))
		switch {
		case err != nil:
			about["ResponseError"] = object("Code", "launchTemplateVersionDoesNotExist", "Message", "no such version: "+which)
			left = append(left, about)
		case v.number == t.standard:
			about["ResponseError"] = object("Code", "unexpectedError", "Message", "The default version cannot be deleted.")
			left = append(left, about)
		default:
			t.versions[v.number-1] = nil
			k.changed(t.resource, "version "+which+" deleted")
			done = append(done, about)
		}
	}
	return object("SuccessfullyDeletedLaunchTemplateVersions", done, "UnsuccessfullyDeletedLaunchTemplateVersions", left), nil
}
