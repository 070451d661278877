package awsapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// roundTrip is an HTTP client without a network.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) Do(r *http.Request) (*http.Response, error) { return f(r) }

func respond(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

// 200 launches that begin at once, where AWS takes 5 a second: each gets
// through, since who calls tries again, and few calls are made in vain. The
// clock is the bubble's.
func TestThrottledLaunches(t *testing.T) {
	for _, burst := range []int{1, 5, 100} {
		synctest.Test(t, func(t *testing.T) {
			bucket := rate.NewLimiter(5, burst)
			var calls, refused atomic.Int64
			c := client(t, Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
				calls.Add(1)
				time.Sleep(80 * time.Millisecond)
				if !bucket.Allow() {
					refused.Add(1)
					return respond(503, "<Response><Errors><Error><Code>RequestLimitExceeded</Code><Message>Request limit exceeded.</Message></Error></Errors></Response>"), nil
				}
				return respond(200, "<RunInstancesResponse><reservationId>r-1</reservationId></RunInstancesResponse>"), nil
			})})
			const launches = 200
			began := time.Now()
			var wg sync.WaitGroup
			var failed atomic.Int64
			for range launches {
				wg.Go(func() {
					for range 20 {
						_, err := c.Call(t.Context(), Scope{Region: "eu-central-1"}, "ec2", "RunInstances", map[string]any{"ImageId": "ami-1", "MinCount": 1, "MaxCount": 1, "ClientToken": "t"})
						if err == nil {
							return
						}
						var e *Error
						if !errors.As(err, &e) || e.Class != Throttled {
							t.Error(err)
						}
						failed.Add(1)
						time.Sleep(5 * time.Second)
					}
					t.Error("never launched")
				})
			}
			wg.Wait()
			t.Logf("burst %d: %d calls for %d launches, %d refused, %d seen by callers, in %v", burst, calls.Load(), launches, refused.Load(), failed.Load(), time.Since(began))
			if calls.Load() > launches*13/10 {
				t.Errorf("%d calls for %d launches", calls.Load(), launches)
			}
			if since := time.Since(began); since > 3*time.Minute {
				t.Errorf("it took %v", since)
			}
		})
	}
}

// What is not throttled is not slowed down.
func TestUnthrottledCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := client(t, Options{HTTP: roundTrip(func(*http.Request) (*http.Response, error) {
			time.Sleep(100 * time.Millisecond)
			return respond(200, "<DescribeInstancesResponse/>"), nil
		})})
		began := time.Now()
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() {
				if _, err := c.Call(t.Context(), Scope{Region: "eu-central-1"}, "ec2", "DescribeInstances", nil); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if since := time.Since(began); since > 2*time.Second {
			t.Errorf("1000 calls took %v", since)
		}
	})
}

// A limit recovers, and one that nobody uses is forgotten.
func TestLimitRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l limits
		k := l.key("a")
		if err := k.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.done(true)
		if k.rate == nil {
			t.Fatal("a throttled answer changed nothing")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		for range 3 {
			if err := k.wait(ctx); err != nil {
				var e *Error
				if !errors.As(err, &e) || e.Class != Throttled {
					t.Errorf("no turn before the deadline: %v", err)
				}
				break
			}
			k.done(false)
		}
		time.Sleep(10 * time.Minute)
		if err := k.wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		k.done(false)
		if k.rate != nil {
			t.Errorf("after ten minutes the rate is %v", k.rate.Limit())
		}
		time.Sleep(time.Hour)
		l.key("b")
		if l.keys["a"] != nil {
			t.Error("a was not forgotten")
		}
	})
}
