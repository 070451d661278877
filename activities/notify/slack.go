package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
)

// SlackInput is the input of notify.slack.
type SlackInput struct {
	WebhookURL action.Secret   `json:"webhook_url" jsonschema:"incoming webhook of a Slack app"`
	Text       string          `json:"text" jsonschema:"the message; what notifications show if there are blocks"`
	Blocks     json.RawMessage `json:"blocks,omitempty" jsonschema:"list of Block Kit blocks"`
}

// slackEscape does what Slack asks of whoever puts text into a message.
var slackEscape = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

func slack(client *httpcall.Client) action.Action {
	return action.New(action.Def[SlackInput, Sent]{
		Name:    "notify.slack",
		Summary: "Send a message to Slack",
		Details: `
In the text, ` + "`&`, `<` and `>`" + ` are escaped, so that text from elsewhere cannot mention a channel or
disguise a link. Slack does not recognise a message that is sent twice; one whose answer is lost may appear twice.
`,
		Example: `action: notify.slack
with:
  webhook_url: ${{ inputs.slack_webhook }}
  text: "The image is ready, built by ${{ execution.id }}"`,
		Timeout: 2 * time.Minute,
		Do: func(ctx context.Context, in SlackInput) (Sent, error) {
			url, err := in.WebhookURL.Reveal(ctx)
			if err != nil {
				return Sent{}, fmt.Errorf("webhook_url: %w", err)
			}
			message := map[string]any{"text": slackEscape.Replace(in.Text)}
			if len(in.Blocks) > 0 && string(in.Blocks) != "null" {
				var blocks []json.RawMessage
				if json.Unmarshal(in.Blocks, &blocks) != nil {
					return Sent{}, action.Errorf(action.Invalid, "blocks is not a list")
				}
				message["blocks"] = blocks
			}
			payload, err := json.Marshal(message)
			if err != nil {
				return Sent{}, action.Errorf(action.Invalid, "blocks: %w", err)
			}
			resp, err := client.Do(ctx, post("Slack webhook", url, nil, payload))
			return Sent{Status: resp.Status}, err
		},
	})
}
