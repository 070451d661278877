// Command awsbench measures the caller of AWS, prints each figure with the bar
// that it must meet, and exits with 1 if one is missed.
//
// It weighs the caller against AWS's generated clients, whose build takes minutes
// and some 3 GB of memory: so it is a module of its own, in which alone they may
// be required, and it runs by hand (make bench-aws). Without -generated it prints
// what needs none of them.
//
// ours, generated and fixed are programs that are built and weighed; percall
// makes the same calls through both callers against one server.
package main

import (
	"context"
	"crypto/sha1"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

func main() {
	generated := flag.Bool("generated", false, "build the generated clients and compare with them")
	flag.Parse()
	b := &bench{}
	err := b.run(*generated)
	if err != nil {
		fmt.Fprintln(os.Stderr, "awsbench:", err)
	}
	if err != nil || b.missed {
		os.Exit(1)
	}
}

type bench struct{ missed bool }

// print writes one figure; ok says whether it meets its bar.
func (b *bench) print(what, figure, bar string, ok bool) {
	mark := "ok"
	if !ok {
		mark, b.missed = "MISSED", true
	}
	fmt.Printf("%-50s %-32s %-30s %s\n", what, figure, bar, mark)
}

func (b *bench) run(generated bool) error {
	tmp, err := os.MkdirTemp("", "awsbench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := b.callable(tmp); err != nil {
		return err
	}
	worker := filepath.Join(tmp, "worker")
	build := exec.Command("go", "build", "-o", worker, "./worker")
	build.Dir = "../.."
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building the worker: %w\n%s", err, out)
	}
	size, err := megabytes(worker)
	if err != nil {
		return err
	}
	fmt.Printf("%-50s %.1f MB\n", "the worker's binary", size)
	if !generated {
		return nil
	}
	return b.compare(tmp)
}

// refused are the codes by which the caller says that it does not do something
// at all: docs/design.md names them.
var refused = map[string]string{
	"EventStreamUnsupported": "streams of events",
}

// arns are tried in turn: in some services they decide on the endpoint.
var arns = []string{
	"arn:aws:%s:us-east-1:123456789012:stream/x", "arn:aws:%s:us-east-1:123456789012:queue/x", "arn:aws:%s:us-east-1:123456789012:channel/x",
	"arn:aws:cloudfront::123456789012:key-value-store/%s",
}

// callable counts what the caller brings to a signed request: with an input of
// what the model requires, as far as the transport.
func (b *bench) callable(tmp string) error {
	if err := credentials(tmp); err != nil {
		return err
	}
	before := os.Getenv("HOME")
	if err := os.Setenv("HOME", tmp); err != nil { // where tokens are looked for
		return err
	}
	ctx := context.Background()
	sent := false
	c, err := awsapi.New(ctx, awsapi.Options{Region: "us-east-1", HTTP: doer(func(*http.Request) (*http.Response, error) {
		sent = true
		return nil, errNoNetwork
	})})
	if err != nil {
		return err
	}
	if err := os.Setenv("HOME", before); err != nil {
		return err
	}
	services, operations, called := 0, 0, 0
	not := map[string]int{}
	for _, service := range c.Models().Services() {
		names, err := c.Models().Operations(service)
		if err != nil {
			return err
		}
		services++
		for _, name := range names {
			operations++
			about, err := c.Models().Describe(service, name)
			if err != nil {
				return err
			}
			code := ""
			for _, arn := range arns {
				input, _ := sample(fmt.Sprintf(arn, service), "", about.Input, 0).(map[string]any)
				ctx, cancel := context.WithCancel(ctx)
				sent, stop = false, cancel
				_, err = c.Call(ctx, awsapi.Scope{}, service, name, input)
				cancel()
				if code = codeOf(err); code != awsapi.CodeEndpoint {
					break
				}
			}
			switch by := refused[code]; {
			case sent:
				called++
			case by != "":
				not[by]++
			default:
				not[service+" "+name+": "+code]++
			}
		}
	}
	fmt.Printf("%-50s %d services, %d operations\n", "known from the models", services, operations)
	byName := 0
	for _, what := range refused {
		byName += not[what]
	}
	b.print("brought to a signed request", fmt.Sprintf("%d", called), fmt.Sprintf("all but %d refused by name", byName), called == operations-byName)
	for _, what := range slices.Sorted(maps.Keys(not)) {
		fmt.Printf("  not: %s: %d\n", what, not[what])
	}
	return nil
}

// credentials makes some, for signatures and for the services that want a token
// of IAM Identity Center.
func credentials(home string) error {
	cache := filepath.Join(home, ".aws", "sso", "cache")
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return err
	}
	const config = "[default]\nsso_session = s\n[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://example.com\n"
	if err := os.WriteFile(filepath.Join(home, "config"), []byte(config), 0o600); err != nil {
		return err
	}
	token := fmt.Sprintf(`{"accessToken":"t","expiresAt":%q}`, time.Now().Add(24*time.Hour).UTC().Format(time.RFC3339))
	if err := os.WriteFile(filepath.Join(cache, fmt.Sprintf("%x.json", sha1.Sum([]byte("s")))), []byte(token), 0o600); err != nil {
		return err
	}
	for name, value := range map[string]string{"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": filepath.Join(home, "config"), "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	return nil
}

// compare builds both programs from nothing, and lets percall call.
func (b *bench) compare(tmp string) error {
	type built struct {
		wall, cpu time.Duration
		size      float64
	}
	all := map[string]built{}
	for _, name := range []string{"ours", "generated", "fixed"} {
		cache := name
		if name == "fixed" {
			cache = "generated" // of it, only the size counts
		}
		fmt.Fprintf(os.Stderr, "building %s…\n", name)
		bin := filepath.Join(tmp, name)
		cmd := exec.Command("go", "build", "-o", bin, "./"+name)
		cmd.Env = append(os.Environ(), "GOCACHE="+filepath.Join(tmp, "cache-"+cache))
		began := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", name, err, out)
		}
		wall := time.Since(began)
		size, err := megabytes(bin)
		if err != nil {
			return err
		}
		all[name] = built{wall, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), size}
	}
	ours, theirs := all["ours"], all["generated"]
	b.print("any operation of ec2, ssm, s3, iam, sts: binary", fmt.Sprintf("%.1f MB, generated %.1f MB", ours.size, theirs.size), "smaller", ours.size < theirs.size)
	fmt.Printf("  generated clients for one operation of each, all others left out by the linker: %.1f MB\n", all["fixed"].size)
	b.print("the same: clean build, processor time", fmt.Sprintf("%s, generated %s", ours.cpu.Round(time.Second), theirs.cpu.Round(time.Second)), "under half", ours.cpu < theirs.cpu/2)
	// The clock has no bar: what else runs on the machine would decide.
	fmt.Printf("  by the clock: %s, generated %s\n", ours.wall.Round(time.Second), theirs.wall.Round(time.Second))

	percall := filepath.Join(tmp, "percall")
	cmd := exec.Command("go", "build", "-o", percall, "./percall")
	cmd.Env = append(os.Environ(), "GOCACHE="+filepath.Join(tmp, "cache-generated")) // where EC2's client is by now
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building percall: %w\n%s", err, out)
	}
	cmd = exec.Command(percall)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		if _, ok := err.(*exec.ExitError); !ok {
			return err
		}
		b.missed = true
	}
	return nil
}

func megabytes(file string) (float64, error) {
	info, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	return float64(info.Size()) / 1e6, nil
}

type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) {
	stop() // one attempt is enough
	return d(r)
}

// stop ends the call that is being made.
var stop = func() {}

var errNoNetwork = fmt.Errorf("no network here")

func codeOf(err error) string {
	if e, ok := err.(*awsapi.Error); ok {
		return e.Code
	}
	return strings.TrimSpace(fmt.Sprint(err))
}

// sample is a value of a shape with what is required.
func sample(arn, name string, s *awsapi.Shape, depth int) any {
	switch s.Kind {
	case awsapi.Structure:
		m := map[string]any{}
		for i, member := range s.Members {
			if (member.Required || member.Token || s.Union && i == 0) && depth < 8 {
				m[member.Name] = sample(arn, member.Name, member.Shape, depth+1)
			}
		}
		return m
	case awsapi.List:
		return []any{}
	case awsapi.Map:
		return map[string]any{}
	case awsapi.Blob:
		return []byte("x")
	case awsapi.Bool:
		return true
	case awsapi.Int:
		return int64(1)
	case awsapi.Float:
		return float64(1)
	case awsapi.Timestamp:
		return time.Unix(0, 0)
	}
	switch {
	case len(s.Enum) > 0:
		return s.Enum[0]
	case strings.HasSuffix(strings.ToUpper(name), "ARN"): // some are part of the endpoint
		return arn
	}
	return "x123456789012" // may be a part of the host
}
