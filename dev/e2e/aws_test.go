package e2e

import (
	"context"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"

	"github.com/almanac-run/almanac/activities"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/catalog"
	"github.com/almanac-run/almanac/internal/simcloud"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/runbooks"
	"github.com/almanac-run/almanac/workflows"
)

// quick is how much faster the time of the simulated cloud and of the actions
// passes than ours, so that images take a second.
const quick = 120

// quickTime is the time of a cloud that began at a moment of ours.
func quickTime(began time.Time) func() time.Time {
	return func() time.Time { return began.Add(time.Since(began) * quick) }
}

func quickSleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d / quick):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A cloudServer lets workers in other processes call the simulated cloud, which
// must outlive them.
type cloudServer struct{ caller awsapi.Caller }

// CloudCall and CloudAnswer travel between a worker and the cloud.
type CloudCall struct {
	Scope              awsapi.Scope
	Service, Operation string
	Input              map[string]any
}

type CloudAnswer struct {
	Output map[string]any
	Err    *awsapi.Error
}

// Call is what net/rpc calls.
func (s *cloudServer) Call(c CloudCall, a *CloudAnswer) error {
	out, err := s.caller.Call(context.Background(), c.Scope, c.Service, c.Operation, c.Input)
	if errors.As(err, &a.Err) {
		return nil
	}
	a.Output = out
	return err
}

func init() { // gob wants to know what an any may hold
	for _, v := range []any{[]any{}, map[string]any{}, time.Time{}, json.Number(""), []byte{}, int64(0), 0.0} {
		gob.Register(v)
	}
}

// mortal is a caller whose process dies at one of its calls.
type mortal struct {
	cloud  *rpc.Client
	mu     sync.Mutex
	n      int
	killAt int    // from 1; 0 never
	when   string // before or after the call
}

func (m *mortal) Call(_ context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	m.mu.Lock()
	m.n++
	dies := m.n == m.killAt
	m.mu.Unlock()
	if dies && m.when == "before" {
		die()
	}
	var a CloudAnswer
	err := m.cloud.Call("AWS.Call", CloudCall{in, service, operation, input}, &a)
	if dies && m.when == "after" {
		die()
	}
	if a.Err != nil {
		return nil, a.Err
	}
	return a.Output, err
}

func die() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {}
}

// awsWorkerProcess is a control worker of AWS's actions.
func awsWorkerProcess() error {
	cloud, err := rpc.Dial("unix", os.Getenv("E2E_CLOUD"))
	if err != nil {
		return err
	}
	m := &mortal{cloud: cloud, when: os.Getenv("E2E_WHEN")}
	m.killAt, _ = strconv.Atoi(os.Getenv("E2E_KILL_AT"))
	began, err := time.Parse(time.RFC3339Nano, os.Getenv("E2E_BEGAN"))
	if err != nil {
		return err
	}
	c, err := client.Dial(client.Options{HostPort: os.Getenv("E2E_ADDRESS"), Logger: quiet{}})
	if err != nil {
		return err
	}
	w := worker.New(c, os.Getenv("E2E_QUEUE"), worker.Options{
		StickyScheduleToStartTimeout: 2 * time.Second, Interceptors: []interceptor.WorkerInterceptor{&endless{}},
	})
	workflows.Register(w)
	activities.Register(w, aws.Actions(aws.Env{Caller: m, Sleep: quickSleep, Now: quickTime(began)}), activities.Options{})
	return w.Run(nil)
}

// endless hides from actions when their attempt ends: that is told in our time, and
// they live in the quick one.
type endless struct {
	interceptor.WorkerInterceptorBase
}

func (e *endless) InterceptActivity(ctx context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &endlessActivity{interceptor.ActivityInboundInterceptorBase{Next: next}}
}

type endlessActivity struct {
	interceptor.ActivityInboundInterceptorBase
}

func (e *endlessActivity) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	return e.Next.ExecuteActivity(withoutDeadline{ctx}, in)
}

type withoutDeadline struct{ context.Context }

func (withoutDeadline) Deadline() (time.Time, bool) { return time.Time{}, false }

func shipped(t *testing.T, name string) *program.Program {
	t.Helper()
	file, source, err := runbooks.Source(name)
	if err != nil {
		t.Fatal(err)
	}
	p, ds := compile.Compile(file, source, compile.Options{Actions: catalog.Actions(),
		Runbook: func(name string) (string, []byte, error) { return runbooks.Source(name) }})
	if p == nil {
		t.Fatal(ds)
	}
	return p
}

// buildRun builds a golden image with a worker that dies at a call of AWS, and
// returns what there is of each kind and place at the end, how many calls there
// were, and the result. With broken the image fails its test.
func buildRun(t *testing.T, c client.Client, address string, p *program.Program, broken bool, at int, when string) (live map[string]int, calls int, r *workflows.Result) {
	t.Helper()
	began := time.Now()
	cloud := simcloud.New(simcloud.Options{
		Clock: quickTime(began), Delays: simcloud.RealDelays(), HostManagement: true,
		Shell: func(_ context.Context, cmd simcloud.Command) simcloud.CommandResult {
			if broken && strings.HasSuffix(cmd.Instance.Tags["Name"], "test") {
				return simcloud.CommandResult{ExitCode: 1, Stderr: "not what it should be\n"}
			}
			return simcloud.Simulated(cmd)
		},
	})
	t.Cleanup(cloud.Close)
	socket := filepath.Join(t.TempDir(), "aws")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	srv := rpc.NewServer()
	must(srv.RegisterName("AWS", &cloudServer{cloud}))
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return // closed
			}
			go srv.ServeConn(conn)
		}
	}()

	queue := fmt.Sprintf("golden-%v-%s-%d", broken, when, at)
	starts := keepRunning(t, "aws", "E2E_CLOUD="+socket, "E2E_QUEUE="+queue, "E2E_ADDRESS="+address,
		"E2E_BEGAN="+began.Format(time.RFC3339Nano), "E2E_KILL_AT="+strconv.Itoa(at), "E2E_WHEN="+when)
	inputs := map[string]json.RawMessage{
		"kind": json.RawMessage(`"base"`), "region": json.RawMessage(`"eu-west-1"`), "regions": json.RawMessage(`["eu-central-1"]`),
		"accounts": json.RawMessage(`["210987654321"]`), "publish_as": json.RawMessage(`"/images/base"`),
	}
	r = ended(t, begin(t, c, queue, p, inputs))
	calls = len(cloud.Ledger())
	if at > 0 && starts() < 2 && calls >= at { // how often it has to look varies
		t.Errorf("the worker was not killed")
	}
	live = map[string]int{}
	for _, res := range cloud.Live() {
		live[res.Region+" "+res.Kind]++
	}
	for _, res := range cloud.Untagged() {
		t.Errorf("%s %s has no tags by which it could be found", res.Kind, res.ID)
	}
	made := map[string]int{}
	for _, e := range cloud.Ledger() {
		for _, f := range e.Effects {
			if f.Change == "made" {
				made[f.Kind]++
			}
		}
	}
	// Every step makes its thing once, whoever died meanwhile.
	if made["instance"] != 2 || made["image"] > 2 || made["parameter"] > 2 {
		t.Errorf("made %v, want two instances, and two images and parameters at most", made)
	}
	return live, calls, r
}

// TestGoldenImageKilled kills the worker with SIGKILL before and after calls of
// AWS while it builds an image: nothing is made twice, and nothing is left that
// would not be there otherwise. ALMANAC_CRASH=all tries every call.
func TestGoldenImageKilled(t *testing.T) {
	t.Parallel()
	srv, c := serve(t, nil)
	p := shipped(t, "aws/golden-image")
	for _, tt := range []struct {
		name   string
		broken bool
		want   workflows.Outcome
		stride int
	}{{"succeeds", false, workflows.Succeeded, 59}, {"fails", true, workflows.RolledBack, 63}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			want, calls, r := buildRun(t, c, srv.Address(), p, tt.broken, 0, "never")
			if r.Outcome != tt.want {
				t.Fatalf("%s: %s; not rolled back: %v", r.Outcome, r.Message, r.NotRolledBack)
			}
			if tt.broken && len(want) > 0 {
				t.Fatalf("left behind: %v", want)
			}
			t.Logf("%d calls, then there is %v", calls, want)
			stride := tt.stride
			if os.Getenv("ALMANAC_CRASH") == "all" {
				stride = 1
			}
			for at := 1; at <= calls; at += stride {
				for _, when := range []string{"before", "after"} {
					t.Run(fmt.Sprintf("%s call %d", when, at), func(t *testing.T) {
						t.Parallel()
						live, _, r := buildRun(t, c, srv.Address(), p, tt.broken, at, when)
						if r.Outcome != tt.want {
							t.Errorf("%s: %s; not rolled back: %v", r.Outcome, r.Message, r.NotRolledBack)
						}
						if !maps.Equal(live, want) {
							t.Errorf("at the end there is %v, want %v", live, want)
						}
					})
				}
			}
		})
	}
}
