package sweep

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// Problem is a part of AWS into which Find could not look.
type Problem struct {
	Region string `json:"region"`
	What   string `json:"what"`
	Error  string `json:"error"`
}

func (p Problem) String() string { return p.Region + ": " + p.What + ": " + p.Error }

// Find lists what bears the tag of an execution in each scope, which names its
// region. EC2 is asked for each kind, and the Resource Groups Tagging API for all
// that can be tagged: that one is late with its news, and does not know all. So
// what it says of EC2's kinds does not count.
func Find(ctx context.Context, caller awsapi.Caller, scopes []awsapi.Scope) ([]Resource, []Problem, error) {
	var all []Resource
	var problems []Problem
	for _, scope := range scopes {
		c := client{caller, scope}
		failed := func(what string, err error) {
			problems = append(problems, Problem{scope.Region, what, err.Error()})
		}
		for _, k := range kinds {
			if k.list == nil {
				continue
			}
			found, err := k.list(ctx, c)
			if err != nil {
				failed("list "+k.name+"s", err)
				continue
			}
			all = append(all, found...)
		}
		listed, err := c.list(ctx, "resourcegroupstaggingapi", "GetResources", "PaginationToken", "ResourceTagMappingList", members{
			"TagFilters": []any{map[string]any{"Key": TagExecution}}, "ResourcesPerPage": 100})
		if err != nil {
			failed("list what else is tagged", err)
		}
		for _, m := range listed {
			r, err := c.byARN(ctx, m.text("ResourceARN"), m.tags("Tags"))
			if err != nil {
				failed("look at "+m.text("ResourceARN"), err)
			}
			if r != nil {
				all = append(all, *r)
			}
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
	}
	all = slices.DeleteFunc(all, func(r Resource) bool { return r.Execution == "" }) // whatever AWS's filters let through
	slices.SortStableFunc(all, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(a.Execution, b.Execution), cmp.Compare(a.Region, b.Region), cmp.Compare(order(a), order(b)), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.ID, b.ID))
	})
	return slices.CompactFunc(all, func(a, b Resource) bool { return a.Region == b.Region && a.Kind == b.Kind && a.ID == b.ID }), problems, nil
}

// order is where a resource stands in the order of removal.
func order(r Resource) int {
	if r.kind == nil {
		return len(kinds)
	}
	return slices.Index(kinds, r.kind)
}

// byARN looks at what the tagging API has listed; nil if it is gone, lost its
// tag, or is of a kind that is listed otherwise.
func (c client) byARN(ctx context.Context, arn string, tags map[string]string) (*Resource, error) {
	k, id := kindOf(arn)
	if k == nil {
		r := foreign(c, arn, tags)
		return &r, nil
	}
	if k.list != nil {
		return nil, nil
	}
	r, err := k.read(ctx, c, id)
	if err != nil || r == nil || r.Execution == "" {
		return nil, err
	}
	r.ARN = arn
	return r, nil
}

// Regions lists the regions that are enabled for the account.
func Regions(ctx context.Context, caller awsapi.Caller, scope awsapi.Scope) ([]string, error) {
	out, err := client{caller, scope}.call(ctx, "ec2", "DescribeRegions", nil)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, r := range out.list("Regions") {
		names = append(names, r.text("RegionName"))
	}
	slices.Sort(names)
	return names, nil
}

// Here is the region in which calls are made that name none.
func Here(ctx context.Context, caller awsapi.Caller, scope awsapi.Scope) (string, error) {
	out, err := client{caller, scope}.call(ctx, "ec2", "DescribeAvailabilityZones", nil)
	if err != nil {
		return "", err
	}
	if zones := out.list("AvailabilityZones"); len(zones) > 0 {
		return zones[0].text("RegionName"), nil
	}
	return "", fmt.Errorf("ec2 DescribeAvailabilityZones names no zone")
}
