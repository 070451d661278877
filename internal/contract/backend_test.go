package contract

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/simcloud"
)

// place is an account of its own in a back end: scenarios do not meet.
type place struct {
	backend string
	caller  awsapi.Caller // over the proxy, where there is one
	direct  awsapi.Caller // meets no fault
	scope   awsapi.Scope
	account string
	settle  func() // lets pass what takes time
	now     func() time.Time
	sleep   func(context.Context, time.Duration) error // takes no time of ours
	script  *script                                    // of what goes wrong with caller
	cloud   *simcloud.Cloud                            // nil if it is not
	models  *awsapi.Models
}

type backend struct {
	name   string
	needed func(t *testing.T) // skips, or fails, where it is not there
	open   func(t testing.TB, options ...func(*simcloud.Options)) place
}

var backends = []backend{
	{"simcloud", func(*testing.T) {}, openSimcloud},
	{"moto", func(t *testing.T) { moto.start(t) }, openMoto},
}

var models = sync.OnceValues(func() (*awsapi.Models, error) { return awsapi.OpenModels("") })

func allModels(t testing.TB) *awsapi.Models {
	t.Helper()
	m, err := models()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

var accounts atomic.Int64

func newScope() (awsapi.Scope, string) {
	account := fmt.Sprintf("%012d", 222200000000+accounts.Add(1))
	return awsapi.Scope{Role: "arn:aws:iam::" + account + ":role/contract", Account: account}, account
}

// openSimcloud is a cloud in which things take as long as in AWS, by a clock
// that only settle moves.
func openSimcloud(t testing.TB, options ...func(*simcloud.Options)) place {
	t.Helper()
	clock := &madeUp{}
	o := simcloud.Options{Seed: 1, Delays: simcloud.RealDelays(), HostManagement: true, Clock: clock.now, Sleep: clock.sleep}
	for _, change := range options {
		change(&o)
	}
	cloud := simcloud.New(o)
	t.Cleanup(cloud.Close)
	p := place{backend: "simcloud", direct: cloud.Given(), cloud: cloud, models: allModels(t), now: clock.now, sleep: clock.sleep}
	p.scope, p.account = newScope()
	p.settle = func() { clock.passed.Add(int64(16 * time.Minute)) }
	faulty := &faultyCaller{Caller: cloud}
	p.caller, p.script = faulty, &faulty.script
	return p
}

// madeUp is a clock that only sleep moves.
type madeUp struct{ passed atomic.Int64 }

func (m *madeUp) now() time.Time {
	return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC).Add(time.Duration(m.passed.Load()))
}

func (m *madeUp) sleep(ctx context.Context, d time.Duration) error {
	if m.passed.Add(int64(d)) > int64(72*time.Hour) {
		return errors.New("slept for three days")
	}
	return ctx.Err()
}

// faultyCaller is the proxy's counterpart in process.
type faultyCaller struct {
	awsapi.Caller
	script
}

func (f *faultyCaller) Call(ctx context.Context, in awsapi.Scope, service, operation string, input map[string]any) (map[string]any, error) {
	met := f.meets(arrival{service: service, operation: operation})
	lost := &awsapi.Error{Service: service, Operation: operation, Code: awsapi.CodeConnection, Class: awsapi.Unavailable, Message: "lost"}
	switch met.kind {
	case dropRequest, fail500:
		return nil, lost
	case throttle:
		return nil, &awsapi.Error{Service: service, Operation: operation, Code: "Throttling", Class: awsapi.Throttled}
	}
	out, err := f.Caller.Call(ctx, in, service, operation, input)
	if met.kind == loseReply {
		return nil, lost
	}
	return out, err
}

// openMoto is an account of moto's with a client and a proxy of its own.
func openMoto(t testing.TB, _ ...func(*simcloud.Options)) place {
	t.Helper()
	host := moto.host
	if host == "" {
		t.Fatal("moto does not run")
	}
	clock := &madeUp{}
	p := place{backend: "moto", models: allModels(t), settle: func() {}, now: clock.now, sleep: clock.sleep}
	p.scope, p.account = newScope()
	proxy := newProxy(t, host)
	p.caller, p.direct, p.script = clientOf(t, proxy.address), clientOf(t, host), &proxy.script
	return p
}

// clientOf is our client with everything sent to one address of the loopback interface.
func clientOf(t testing.TB, address string) *awsapi.Client {
	t.Helper()
	// Without keep-alives the transport never sends a request twice by itself.
	transport := &http.Transport{DisableKeepAlives: true}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := awsapi.New(context.Background(), awsapi.Options{Region: "us-east-1", Models: allModels(t), HTTP: only{address, transport}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// only sends to one address, whatever the request says.
type only struct {
	address   string
	transport http.RoundTripper
}

func (o only) Do(r *http.Request) (*http.Response, error) {
	if r.Host != endpointHost {
		return nil, fmt.Errorf("a request to %s, which no test is to reach", r.Host)
	}
	r.URL.Host = o.address
	return o.transport.RoundTrip(r)
}

// endpointHost is where the client believes that AWS is; nobody is there. It is
// an address, since moto reads a name as that of a bucket.
const endpointHost = "127.0.0.1:9"

// environment is all that our client is to see of the machine.
var environment = map[string]string{
	"AWS_ENDPOINT_URL": "http://" + endpointHost, "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": "canary",
	"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	"AWS_PROFILE": "", "AWS_SESSION_TOKEN": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", awsapi.ModelsVariable: "",
}

func init() { // before anything reads it; tests that run in parallel cannot set it
	for name, v := range environment {
		err := os.Unsetenv(name)
		if v != "" {
			err = os.Setenv(name, v)
		}
		if err != nil {
			panic(err)
		}
	}
}

// motoVersion is the release that the list of differences is about.
const motoVersion = "5.2.5"

// moto is the one server.
var moto motoServer

type motoServer struct {
	once  sync.Once
	host  string
	stdin io.Closer
	cmd   *exec.Cmd
	err   error
}

// start starts moto, once. Where it must be there, and is not installed, it is
// installed from PyPI, by name; where it need not, its half is skipped.
func (m *motoServer) start(t *testing.T) {
	t.Helper()
	required := os.Getenv("CI") != "" || os.Getenv("ALMANAC_CONTRACT") != ""
	m.once.Do(func() { m.err = m.launch(required) })
	switch {
	case m.err == nil:
	case required:
		t.Fatal(m.err)
	default:
		t.Skipf("%v: nothing is compared over the wire; `make contract` installs it", m.err)
	}
}

func (m *motoServer) launch(install bool) error {
	base, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	cache := filepath.Join(base, "almanac", "moto-"+motoVersion)
	interpreter, complete := filepath.Join(cache, "bin", "python"), filepath.Join(cache, "complete")
	if _, err := os.Stat(complete); err != nil {
		if !install {
			return errors.New("moto " + motoVersion + " is not installed")
		}
		for _, command := range [][]string{
			{"python3", "-m", "venv", cache},
			{interpreter, "-m", "pip", "install", "--quiet", "moto[server]==" + motoVersion},
		} {
			if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", strings.Join(command, " "), err, out)
			}
		}
		if err := os.WriteFile(complete, nil, 0o644); err != nil {
			return err
		}
	}
	m.cmd = exec.Command(interpreter, "testdata/serve.py")
	m.cmd.Env = []string{"MOTO_AMIS_PATH=testdata/amis.json"}
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "AWS_") { // moto asks botocore, which reads them
			m.cmd.Env = append(m.cmd.Env, v)
		}
	}
	if path := os.Getenv("ALMANAC_MOTO_LOG"); path != "" { // where a 500 has its reason
		log, err := os.Create(path)
		if err != nil {
			return err
		}
		m.cmd.Stderr = log
	}
	if m.stdin, err = m.cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := m.cmd.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("moto does not start: %w", err)
	}
	m.host = strings.TrimSpace(line)
	return nil
}

// stop ends moto, which ends when its standard input does; so it does not
// outlive this process, whatever becomes of that.
func (m *motoServer) stop() {
	if m.stdin == nil {
		return
	}
	_ = m.stdin.Close() // and Wait says how it went
	if err := m.cmd.Wait(); err != nil {
		fmt.Fprintln(os.Stderr, "moto:", err)
	}
}
