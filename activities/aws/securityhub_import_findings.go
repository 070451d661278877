package aws

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type importFindingsInput struct {
	Scope
	Findings   []json.RawMessage `json:"findings" jsonschema:"findings in AWS Security Finding Format; what they leave out of Id, SchemaVersion, ProductArn, AwsAccountId, GeneratorId, CreatedAt and UpdatedAt is filled in"`
	ProductARN string            `json:"product_arn,omitempty" jsonschema:"product whose findings they are" default:"the account's own default product"`
}

type importFindingsOutput struct {
	Imported int      `json:"imported" jsonschema:"how many findings Security Hub took"`
	IDs      []string `json:"ids" jsonschema:"their ids, in the order of the findings"`
}

// mostFindings is what one call takes.
const mostFindings = 100

func importFindings(env Env) action.Action {
	return action.New(action.Def[importFindingsInput, importFindingsOutput]{
		Name:    "aws.securityhub.import_findings",
		Summary: "Report findings to Security Hub",
		Details: `
A finding is known by its id. One without gets an id made of the step's token and its place in the list, so that every attempt reports the same findings. If Security Hub
refuses some, the step fails and names them; the others are imported.

What was found stays found: rollback leaves it.
`,
		Example: `action: aws.securityhub.import_findings
with:
  findings:
    - Title: Kernel update missing
      Description: A security update of the kernel is not installed.
      Severity: { Label: MEDIUM }
      Types: [Software and Configuration Checks/Vulnerabilities]
      Resources: [{ Type: AwsEc2Instance, Id: "arn:aws:ec2:eu-central-1:123456789012:instance/i-0123456789abcdef0" }]`,
		Timeout: 10 * time.Minute,
		Do: func(ctx context.Context, in importFindingsInput) (importFindingsOutput, error) {
			c, out := env.in(ctx, in.Scope), importFindingsOutput{IDs: []string{}}
			common, err := c.findingsHave(ctx, in.ProductARN)
			if err != nil {
				return out, err
			}
			var all []any
			for i, raw := range in.Findings {
				finding, err := object(fmt.Sprintf("findings[%d]", i), raw)
				if err != nil {
					return out, err
				}
				full := common.with(members{"Id": fmt.Sprintf("almanac/%s/%d", c.token(), i)})
				for name, v := range finding {
					full[name] = v
				}
				all = append(all, full)
				out.IDs = append(out.IDs, members(full).text("Id"))
			}
			refused, imported, err := c.batchImport(ctx, all)
			out.Imported = imported
			if err != nil {
				return out, err
			}
			if len(refused) > 0 {
				return out, refusedFindings(refused, len(all))
			}
			return out, nil
		},
	})
}

// batchImport imports findings. It says of those that Security Hub refused why,
// and how many it took.
func (c client) batchImport(ctx context.Context, findings []any) (refused []string, imported int, err error) {
	for some := range slices.Chunk(findings, mostFindings) {
		answer, err := c.call(ctx, "securityhub", "BatchImportFindings", members{"Findings": some})
		if err != nil {
			return refused, imported, err
		}
		imported += int(answer.int("SuccessCount"))
		for _, f := range answer.list("FailedFindings") {
			refused = append(refused, fmt.Sprintf("%s: %s: %s", f.text("Id"), f.text("ErrorCode"), f.text("ErrorMessage")))
		}
	}
	return refused, imported, nil
}

// refusedFindings names what Security Hub refused, the first of many.
func refusedFindings(refused []string, of int) error {
	const most = 20
	more := ""
	if len(refused) > most {
		more = fmt.Sprintf("; and %d more", len(refused)-most)
	}
	return action.Errorf(action.Invalid, "Security Hub refused %d of %d findings: %s%s", len(refused), of, strings.Join(refused[:min(len(refused), most)], "; "), more)
}

// findingsHave is what findings need and need not say.
func (c client) findingsHave(ctx context.Context, product string) (members, error) {
	who, err := c.call(ctx, "sts", "GetCallerIdentity", members{})
	if err != nil {
		return nil, err
	}
	account, now := who.text("Account"), c.Now().UTC().Format("2006-01-02T15:04:05.000Z")
	if product == "" {
		region := c.scope.Region
		if region == "" {
			if region, err = c.ownRegion(ctx); err != nil {
				return nil, err
			}
		}
		partition, _, _ := strings.Cut(strings.TrimPrefix(who.text("Arn"), "arn:"), ":")
		product = fmt.Sprintf("arn:%s:securityhub:%s:%s:product/%s/default", partition, region, account, account)
	}
	return members{"SchemaVersion": "2018-10-08", "ProductArn": product, "AwsAccountId": account, "GeneratorId": "almanac", "CreatedAt": now, "UpdatedAt": now}, nil
}
