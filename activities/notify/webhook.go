package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
)

// WebhookInput is the input of notify.webhook.
type WebhookInput struct {
	URL     action.Secret            `json:"url" jsonschema:"where to send it"`
	Payload json.RawMessage          `json:"payload,omitempty" jsonschema:"what to send, as JSON" default:"{}"`
	Headers map[string]action.Secret `json:"headers,omitempty" jsonschema:"request headers"`
}

func webhook(client *httpcall.Client) action.Action {
	return action.New(action.Def[WebhookInput, Sent]{
		Name:    "notify.webhook",
		Summary: "Send JSON to a webhook",
		Details: `
A POST whose ` + "`Idempotency-Key`" + ` header is the same for every attempt of the step, unless ` + "`headers`" + ` has one.
Redirects are not followed. Use ` + "`http.request`" + ` to see the answer.
`,
		Example: `action: notify.webhook
with:
  url: ${{ inputs.hook }}
  payload: { event: patched, execution: "${{ execution.id }}" }`,
		Timeout: 2 * time.Minute,
		Do: func(ctx context.Context, in WebhookInput) (Sent, error) {
			url, err := in.URL.Reveal(ctx)
			if err != nil {
				return Sent{}, fmt.Errorf("url: %w", err)
			}
			payload := in.Payload
			if len(payload) == 0 || string(payload) == "null" {
				payload = json.RawMessage("{}")
			}
			resp, err := client.Do(ctx, post("webhook", url, in.Headers, payload))
			return Sent{Status: resp.Status}, err
		},
	})
}
