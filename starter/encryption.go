package main

import (
	"context"

	"go.temporal.io/sdk/converter"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/awssecret"
	"github.com/almanac-run/almanac/internal/codec"
)

// encryption finds the keys that executions are encrypted with; nil if they are not.
func (a *app) encryption(ctx context.Context, namespace string) (*codec.Codec, error) {
	c, err := codec.Open(ctx, codec.Settings{
		Options: codec.Options{Namespace: namespace}, File: a.keyFile, Insecure: a.insecure, Unwrap: unwrap,
	})
	if err != nil {
		return nil, &exitError{exitUsage, err}
	}
	return c, nil
}

// unwrap asks KMS. Who has no key there needs nothing of AWS.
func unwrap(ctx context.Context, kmsKey string, wrapped []byte, about map[string]string) ([]byte, error) {
	aws, err := awsapi.New(ctx, awsapi.Options{Session: "almanac-keys"})
	if err != nil {
		return nil, err
	}
	return awssecret.Unwrapper(aws)(ctx, kmsKey, wrapped, about)
}

// convert is what reads the payloads of the server's executions.
func (s *server) convert() converter.DataConverter { return s.codec.Converter() }
