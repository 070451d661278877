package simcloud

import (
	"encoding/json"
	"strings"
)

var lambdaOperations = map[string]func(*call) (map[string]any, error){"Invoke": invoke, "GetFunction": getFunction}

// function finds a function by name or ARN; those of Options are in every place.
func (k *call) function() (string, Function, error) {
	name := k.in.str("FunctionName")
	if parts := strings.Split(name, ":"); len(parts) >= 7 && parts[0] == "arn" {
		name = parts[6]
	}
	name, _, _ = strings.Cut(name, ":")
	f, ok := k.Functions[name]
	if !ok {
		return name, nil, k.fail("ResourceNotFoundException", "Function not found: arn:aws:lambda:%s:%s:function:%s", k.region, k.account, name)
	}
	return name, f, nil
}

func invoke(k *call) (map[string]any, error) {
	_, f, err := k.function()
	if err != nil {
		return nil, err
	}
	payload := k.in.bytes("Payload")
	if len(payload) > 0 && !json.Valid(payload) {
		return nil, k.fail("InvalidRequestContentException", "Could not parse request body into json")
	}
	kind := or(k.in.str("InvocationType"), "RequestResponse")
	if kind == "DryRun" {
		return object("StatusCode", 204), nil
	}
	k.effects = append(k.effects, Effect{Change: "made", Kind: "invocation", ID: k.in.str("FunctionName")})
	var out []byte
	var failed error
	k.unlocked(func() { out, failed = f(k.ctx, payload) })
	switch {
	case kind == "Event": // nobody hears how it ended
		return object("StatusCode", 202), nil
	case failed != nil:
		text, err := json.Marshal(map[string]string{"errorMessage": failed.Error(), "errorType": "Error"})
		if err != nil {
			return nil, err
		}
		return object("StatusCode", 200, "FunctionError", "Unhandled", "ExecutedVersion", "$LATEST", "Payload", text), nil
	}
	if out == nil {
		out = []byte("null")
	}
	return object("StatusCode", 200, "ExecutedVersion", "$LATEST", "Payload", out), nil
}

func getFunction(k *call) (map[string]any, error) {
	name, _, err := k.function()
	if err != nil {
		return nil, err
	}
	return object("Configuration", object("FunctionName", name, "FunctionArn", "arn:aws:lambda:"+k.region+":"+k.account+":function:"+name,
		"State", "Active", "LastUpdateStatus", "Successful", "Version", "$LATEST")), nil
}
