package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// counter is a server that counts what arrives, and answers nothing of note.
func counter(t *testing.T) (host string, arrived *atomic.Int64) {
	t.Helper()
	arrived = &atomic.Int64{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived.Add(1)
		if strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-amz-json") || r.URL.Path == "/findings/import" {
			fmt.Fprint(w, "{}")
			return
		}
		action := r.FormValue("Action")
		fmt.Fprintf(w, "<%[1]sResponse><%[1]sResult><none>-</none></%[1]sResult></%[1]sResponse>", action)
	}))
	t.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://"), arrived
}

// calls are one call that writes for every protocol.
var calls = []struct {
	service, operation, throttled, failed string
	status                                int
	in                                    object
	repeated                              bool // by our client, after it may have had an effect
}{
	{"ec2", "CreateTags", "RequestLimitExceeded", "InternalError", 503, object{"Resources": list("i-1"), "Tags": list(tag("a", "b"))}, false},
	{"ec2", "RunInstances", "RequestLimitExceeded", "InternalError", 503, object{"ClientToken": "t", "MinCount": 1, "MaxCount": 1}, true},
	{"sns", "Publish", "Throttling", "InternalFailure", 400, object{"TopicArn": "a", "Message": "m"}, false},
	{"ssm", "PutParameter", "ThrottlingException", "InternalServerError", 400, object{"Name": "n", "Value": "v"}, false},
	{"s3", "PutObject", "SlowDown", "InternalError", 503, object{"Bucket": "bucket", "Key": "k", "Body": "x"}, true},
	{"securityhub", "BatchImportFindings", "TooManyRequestsException", "ServiceException", 429, object{"Findings": list()}, false},
}

func TestProxy(t *testing.T) {
	for _, c := range calls {
		t.Run(c.service+" "+c.operation, func(t *testing.T) {
			t.Parallel()
			call := func(faults ...fault) (arrived int64, e *awsapi.Error) {
				t.Helper()
				host, count := counter(t)
				p := newProxy(t, host)
				p.set(faults...)
				_, err := clientOf(t, p.address).Call(context.Background(), awsapi.Scope{}, c.service, c.operation, c.in)
				if err != nil && !errors.As(err, &e) {
					t.Fatal(err)
				}
				return count.Load(), e
			}
			if n, e := call(); n != 1 || e != nil {
				t.Errorf("without faults %d arrive: %v", n, e)
			}
			// Three attempts are refused before any has an effect.
			if n, e := call(fault{kind: throttle, times: -1}); n != 0 || e == nil || e.Code != c.throttled || e.Status != c.status || e.Class != awsapi.Throttled {
				t.Errorf("throttled: %d arrive, %#v", n, e)
			}
			if n, e := call(fault{kind: throttle, times: 2}); n != 1 || e != nil {
				t.Errorf("throttled twice: %d arrive, %v", n, e)
			}
			if n, e := call(fault{kind: fail500, times: -1}); n != 0 || e == nil || e.Code != c.failed || e.Class != awsapi.Unavailable {
				t.Errorf("failed: %d arrive, %#v", n, e)
			}
			for kind, arrive := range map[kind][2]int64{ // the first call only; if it is tried again, and if not
				dropRequest: {1, 0}, loseReply: {2, 1}, fail500: {1, 0},
			} {
				n, e := call(fault{kind: kind})
				want, ok := arrive[1], e != nil && e.Class == awsapi.Unavailable
				if c.repeated {
					want, ok = arrive[0], e == nil
				}
				if n != want || !ok {
					t.Errorf("%s: %d arrive, want %d: %v", kind, n, want, e)
				}
			}
			if n, e := call(fault{kind: delay, wait: time.Millisecond, times: -1}); n != 1 || e != nil {
				t.Errorf("late: %d arrive, %v", n, e)
			}
		})
	}
}

// Who gives up during a delay has called nobody.
func TestProxyDelay(t *testing.T) {
	host, count := counter(t)
	p := newProxy(t, host)
	p.set(fault{kind: delay, wait: time.Hour})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err := clientOf(t, p.address).Call(ctx, awsapi.Scope{}, "ec2", "CreateTags", calls[0].in)
	if !errors.Is(err, context.DeadlineExceeded) || count.Load() != 0 {
		t.Errorf("%d arrived, %v", count.Load(), err)
	}
}

// A script counts what matches, reads are let pass, and the first line decides.
func TestScript(t *testing.T) {
	var s script
	s.set(
		fault{kind: throttle, service: "ec2", operation: "CreateTags", from: 2, times: 2},
		fault{kind: loseReply, service: "ec2", from: 3, times: -1},
		fault{kind: fail500, service: "ssm", reads: true},
	)
	var got []kind
	for _, a := range []arrival{
		{service: "ec2", operation: "CreateTags"}, {service: "ec2", operation: "DescribeTags"}, {service: "ec2", operation: "CreateTags"},
		{service: "ec2", operation: "CreateTags"}, {service: "ec2", operation: "RunInstances"}, {service: "ssm", operation: "GetParameter"}, {service: "ssm", operation: "GetParameter"},
	} {
		got = append(got, s.meets(a).kind)
	}
	if diff := cmp.Diff([]kind{passOn, passOn, throttle, throttle, loseReply, fail500, passOn}, got); diff != "" {
		t.Error(diff)
	}
}

// What is drawn depends on the seed and the operation's count, not on what else is called.
func TestChance(t *testing.T) {
	draw := func(seed uint64, others bool) []kind {
		var s script
		s.setChance(chance{seed: seed, dropRequest: .1, loseReply: .2, delay: .1, throttle: .2, fail500: .1, wait: time.Second})
		var got []kind
		for range 200 {
			if others {
				s.meets(arrival{service: "ec2", operation: "DescribeInstances"})
			}
			got = append(got, s.meets(arrival{service: "ec2", operation: "RunInstances"}).kind)
		}
		return got
	}
	one := draw(1, false)
	if diff := cmp.Diff(one, draw(1, true)); diff != "" {
		t.Errorf("other calls matter: %s", diff)
	}
	if cmp.Equal(one, draw(2, false)) {
		t.Error("the seed does not matter")
	}
	counts := map[kind]int{}
	for _, k := range one {
		counts[k]++
	}
	for k, want := range map[kind]int{dropRequest: 20, loseReply: 40, delay: 20, throttle: 40, fail500: 20, passOn: 60} {
		if n := counts[k]; n < want/2 || n > want*2 {
			t.Errorf("%q %d times of 200, want about %d", k, n, want)
		}
	}
}

// A connection that breaks is what a client sees, not an answer.
func TestProxyBreaks(t *testing.T) {
	host, count := counter(t)
	p := newProxy(t, host)
	for _, k := range []kind{dropRequest, loseReply} {
		p.set(fault{kind: k, reads: true})
		transport := &http.Transport{DisableKeepAlives: true}
		req, err := http.NewRequest(http.MethodPost, "http://"+p.address, strings.NewReader("Action=X"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err == nil {
			resp.Body.Close()
		}
		if !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", k, err)
		}
	}
	if count.Load() != 1 {
		t.Errorf("%d arrived, want 1", count.Load())
	}
	if a := p.arrivals(); len(a) != 1 || a[0].met != loseReply {
		t.Errorf("%+v", a)
	}
}
