package authorizer

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/authorization"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// A task's token names an execution and an event, and the server takes it from anybody: whoever knows or guesses the
// two reports the work of another node. So each token that an agent gets bears a seal, made with a key of the servers
// and the agent's identity, and an agent reports with a token that bears its own. The seal is a field of the token that
// the server does not know, and therefore leaves alone.
const sealField protowire.Number = 52077

var errSeal = errors.New("the task was not given to it")

// seal is an interceptor that comes after the one that authorizes, and sees the answers.
func (a *Authorizer) seal(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	resp, err := handler(ctx, req)
	task, ok := resp.(*workflowservice.PollActivityTaskQueueResponse)
	if err != nil || !ok || len(task.GetTaskToken()) == 0 {
		return resp, err
	}
	claims, _ := ctx.Value(authorization.MappedClaims).(*authorization.Claims)
	if who, err := known(claims); err == nil && who.Role == Agent {
		task.TaskToken = sealed(a.o.SealKey, who, task.GetTaskToken())
	}
	return resp, nil
}

func sealed(key []byte, who Identity, token []byte) []byte {
	b := protowire.AppendTag(append([]byte(nil), token...), sealField, protowire.BytesType)
	return protowire.AppendBytes(b, mac(key, who, token))
}

func mac(key []byte, who Identity, token []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte("almanac task token\x00" + who.String() + "\x00")) // a name has no zero byte
	h.Write(token)
	return h.Sum(nil)
}

// sealLen is how many bytes a seal adds.
var sealLen = protowire.SizeTag(sealField) + protowire.SizeBytes(sha256.Size)

// ownTask allows a request whose token bears the caller's seal.
func ownTask(c caller, req proto.Message) error {
	r, ok := req.(interface{ GetTaskToken() []byte })
	if !ok || len(r.GetTaskToken()) <= sealLen {
		return errSeal
	}
	full := r.GetTaskToken()
	if !hmac.Equal(full, sealed(c.o.SealKey, c.Identity, full[:len(full)-sealLen])) {
		return errSeal
	}
	return nil
}
