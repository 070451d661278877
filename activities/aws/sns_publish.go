package aws

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
)

type publishInput struct {
	Scope
	TopicARN   string            `json:"topic_arn" jsonschema:"topic to publish to"`
	Message    string            `json:"message" jsonschema:"the message"`
	Subject    string            `json:"subject,omitempty" jsonschema:"subject, for subscribers by mail"`
	Attributes map[string]string `json:"attributes,omitempty" jsonschema:"message attributes, beside Almanac's own; at most 7"`
	GroupID    string            `json:"group_id,omitempty" jsonschema:"message group, of a FIFO topic" default:"almanac"`
}

type publishOutput struct {
	MessageID string `json:"message_id" jsonschema:"the message"`
}

const deliveryDetails = `
A message whose answer was lost is sent again. A FIFO one has the step's token as its deduplication id, by which AWS recognises it for five minutes. For others
the attributes ` + "`almanac-token`, `almanac-execution` and `almanac-step`" + ` let a receiver recognise it. What is sent cannot be taken back: rollback leaves it.
`

func publish(env Env) action.Action {
	return action.New(action.Def[publishInput, publishOutput]{
		Name:    "aws.sns.publish",
		Summary: "Publish a message to an SNS topic",
		Details: deliveryDetails,
		Example: `action: aws.sns.publish
with: { topic_arn: "arn:aws:sns:eu-central-1:123456789012:images", message: "a new base image is ready" }`,
		Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, in publishInput) (publishOutput, error) {
			c := env.in(ctx, in.Scope)
			answer, err := c.call(ctx, "sns", "Publish", members{"TopicArn": in.TopicARN, "Message": in.Message, "MessageAttributes": c.attributes(in.Attributes)}.
				with(c.fifo(in.TopicARN, in.GroupID).with(members{"Subject": in.Subject})))
			return publishOutput{MessageID: answer.text("MessageId")}, err
		},
	})
}

// attributes are those of a message.
func (c client) attributes(users map[string]string) map[string]any {
	texts := c.asAttributes()
	maps.DeleteFunc(texts, func(_, v string) bool { return v == "" })
	maps.Copy(texts, users)
	all := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		all[name] = map[string]any{"DataType": "String", "StringValue": texts[name]}
	}
	return all
}

// fifo is what a message to a FIFO topic or queue has, too.
func (c client) fifo(to, group string) members {
	if !strings.HasSuffix(to, ".fifo") {
		return nil
	}
	if group == "" {
		group = "almanac"
	}
	return members{"MessageGroupId": group, "MessageDeduplicationId": c.token()}
}
