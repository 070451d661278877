package aws

import (
	"context"
	"time"

	"github.com/almanac-run/almanac/action"
)

type sendInput struct {
	Scope
	QueueURL   string            `json:"queue_url" jsonschema:"queue to send to"`
	Body       string            `json:"body" jsonschema:"the message"`
	Attributes map[string]string `json:"attributes,omitempty" jsonschema:"message attributes, beside Almanac's own; at most 7"`
	Delay      action.Duration   `json:"delay,omitempty" jsonschema:"how long nobody receives it, at most 15m; not for a FIFO queue" default:"0s"`
	GroupID    string            `json:"group_id,omitempty" jsonschema:"message group, of a FIFO queue" default:"almanac"`
}

type sendOutput struct {
	MessageID string `json:"message_id" jsonschema:"the message"`
}

func send(env Env) action.Action {
	return action.New(action.Def[sendInput, sendOutput]{
		Name:    "aws.sqs.send",
		Summary: "Send a message to an SQS queue",
		Details: deliveryDetails,
		Example: `action: aws.sqs.send
with: { queue_url: "https://sqs.eu-central-1.amazonaws.com/123456789012/jobs", body: "reindex" }`,
		Timeout: 5 * time.Minute,
		Do: func(ctx context.Context, in sendInput) (sendOutput, error) {
			c := env.in(ctx, in.Scope)
			input := members(members{"QueueUrl": in.QueueURL, "MessageBody": in.Body, "MessageAttributes": c.attributes(in.Attributes)}.
				with(c.fifo(in.QueueURL, in.GroupID)))
			if in.Delay != 0 {
				input["DelaySeconds"] = seconds(in.Delay, 0)
			}
			answer, err := c.call(ctx, "sqs", "SendMessage", input)
			return sendOutput{MessageID: answer.text("MessageId")}, err
		},
	})
}
