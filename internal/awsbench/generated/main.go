// Command generated is a small program that calls operations of five services by
// their names, as ours does, through the generated clients: to be built and
// weighed beside its twin.
package main

import (
	"context"
	"fmt"
	"os"
	"reflect"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

func main() {
	ctx := context.Background()
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	clients := map[string]any{"ec2": ec2.NewFromConfig(cfg), "ssm": ssm.NewFromConfig(cfg), "s3": s3.NewFromConfig(cfg), "iam": iam.NewFromConfig(cfg), "sts": sts.NewFromConfig(cfg)}
	for i := 1; i+1 < len(os.Args); i += 2 {
		call := reflect.ValueOf(clients[os.Args[i]]).MethodByName(os.Args[i+1])
		in := reflect.New(call.Type().In(1).Elem())
		fmt.Println(call.Call([]reflect.Value{reflect.ValueOf(ctx), in})[0].Interface())
	}
}
