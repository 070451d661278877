package main

import "github.com/almanac-run/almanac/internal/codec"

// environment is what docs/cli.md says of the variables that are read here,
// beside those of Temporal's own configuration.
var environment = []struct{ name, meaning string }{
	{runbooksEnv, "folders of runbooks, separated as in PATH: the runbook `a/b` is `a/b.yaml` in one of them"},
	{outputEnv, "directory of the output store, for `logs`; else `.almanac/output`"},
	{uiEnv, "address of the Web UI, for links; else `http://127.0.0.1:8233` if the server is a local one on port 7233"},
	{callerEnv, "who runs the command, for executions and answers; else the current user"},
	{codec.EnvKeys, "the keys that executions are encrypted with, as lines of a key file, separated by commas; `--key-file` goes before it"},
	{codec.EnvFile, "file of these keys, if they are not in the environment; else `" + codec.DefaultFile + "`"},
	{codec.EnvInsecure, "1: encrypt nothing, as the worker does that was told so"},
	{codec.EnvRefuse, "1: refuse to read what is not encrypted, as executions from before encryption"},
	{"NO_COLOR", "no colours, unless `--color always`"},
	{"TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS, TEMPORAL_PROFILE, TEMPORAL_CONFIG_FILE, …", "the connection, as for the `temporal` program"},
}
