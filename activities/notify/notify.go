// Package notify is the actions that tell people and other systems something.
//
// It gives Actions. It promises that a message stays one message (no text can
// add a header, a recipient or a second mail), that addresses which are secrets
// (webhooks) appear in no error, and that a repeated message can be recognised
// by what it carries. It refuses to know what the message is about.
package notify

import (
	"net/http"
	"time"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/httpcall"
)

// Actions lists the actions of this package.
func Actions() []action.Action {
	client := httpcall.New()
	return []action.Action{
		slack(client),
		webhook(client),
		email(),
	}
}

// Sent is the output of a notification by HTTP.
type Sent struct {
	Status int `json:"status" jsonschema:"HTTP status of the answer"`
}

// post is a call to a webhook whose URL is a secret: named, not shown.
func post(name, url string, headers map[string]action.Secret, payload []byte) httpcall.Request {
	return httpcall.Request{
		Method: http.MethodPost, URL: url, Name: name, Headers: headers,
		Body: payload, ContentType: "application/json",
		Timeout: 30 * time.Second, MaxBytes: 4 << 10,
	}
}
