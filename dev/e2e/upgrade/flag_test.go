package upgrade

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/almanac-run/almanac/internal/codec"
)

// plainMemo is the setting of the SDK under which programs with keys refuse to start.
const plainMemo = "TEMPORAL_SDK_FLAG_7"

// printMemo prints a memo as it would go to a server, with keys.
func printMemo() error {
	line, err := codec.NewKey("k1")
	if err != nil {
		return err
	}
	keys, err := codec.Read(context.Background(), line, nil)
	if err != nil {
		return err
	}
	o := client.Options{HostPort: "127.0.0.1:1", Logger: quiet{}}
	o.DataConverter, o.FailureConverter = codec.New(keys, codec.Options{}).Converters()
	o.ConnectionOptions.DialOptions = []grpc.DialOption{grpc.WithChainUnaryInterceptor(
		func(_ context.Context, _ string, req, _ any, _ *grpc.ClientConn, _ grpc.UnaryInvoker, _ ...grpc.CallOption) error {
			if start, ok := req.(*workflowservice.StartWorkflowExecutionRequest); ok {
				fmt.Printf("%s\n", start.GetMemo().GetFields()["node"].GetData())
				return status.Error(codes.InvalidArgument, "enough")
			}
			return nil
		})}
	c, err := client.NewLazyClient(o)
	if err != nil {
		return err
	}
	defer c.Close()
	_, _ = c.ExecuteWorkflow(context.Background(), client.StartWorkflowOptions{ID: "x", TaskQueue: "x", Memo: map[string]any{"node": "canary"}}, "x") // refused above
	return nil
}

// TestPlainMemo shows that the setting does what internal/codec refuses it for: a memo goes past the encryption.
func TestPlainMemo(t *testing.T) {
	t.Parallel()
	for value, plain := range map[string]bool{"": false, "1": false, "0": true} {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "UPGRADE_ROLE=memo", plainMemo+"="+value)
		out, err := cmd.CombinedOutput()
		if err != nil || len(out) < 5 {
			t.Fatalf("%v: %s", err, out)
		}
		if bytes.Contains(out, []byte("canary")) != plain {
			t.Errorf("with %s=%q the memo is %q", plainMemo, value, out)
		}
	}
}
