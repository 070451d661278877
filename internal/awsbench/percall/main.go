// Command percall makes the same calls through our caller and through generated
// clients, against one HTTP server on the loopback interface, and prints what a
// call costs each. It exits with 1 if ours costs more than the bar.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// bar is what ours may cost at most, as a multiple of the generated client's.
const bar = 1.5

// rounds are the pairs of measurements of which the median ratio counts.
const rounds = 7

func main() {
	ok, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "percall:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

const parameter = `{"Parameter":{"Name":"/app/image","Type":"String","Value":"ami-0123456789abcdef0","Version":3,` +
	`"LastModifiedDate":1.7638e9,"ARN":"arn:aws:ssm:eu-central-1:123456789012:parameter/app/image","DataType":"text"}}`

// instances is an answer of 50 instances with what EC2 says of one.
func instances() string {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?><DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><reservationSet>`)
	for i := range 50 {
		id := fmt.Sprintf("%017x", i)
		b.WriteString(`<item><reservationId>r-` + id + `</reservationId><ownerId>123456789012</ownerId><groupSet/><instancesSet><item>` +
			`<instanceId>i-` + id + `</instanceId><imageId>ami-0123456789abcdef0</imageId><instanceState><code>16</code><name>running</name></instanceState>` +
			`<privateDnsName>ip-172-31-0-1.eu-central-1.compute.internal</privateDnsName><dnsName/><reason/><keyName>key</keyName><amiLaunchIndex>0</amiLaunchIndex>` +
			`<productCodes/><instanceType>m6i.large</instanceType><launchTime>2026-01-01T00:00:00.000Z</launchTime>` +
			`<placement><availabilityZone>eu-central-1a</availabilityZone><groupName/><tenancy>default</tenancy></placement><monitoring><state>disabled</state></monitoring>` +
			`<subnetId>subnet-0123456789abcdef0</subnetId><vpcId>vpc-0123456789abcdef0</vpcId><privateIpAddress>172.31.0.1</privateIpAddress><sourceDestCheck>true</sourceDestCheck>` +
			`<groupSet><item><groupId>sg-0123456789abcdef0</groupId><groupName>default</groupName></item></groupSet><architecture>x86_64</architecture>` +
			`<rootDeviceType>ebs</rootDeviceType><rootDeviceName>/dev/xvda</rootDeviceName><blockDeviceMapping><item><deviceName>/dev/xvda</deviceName><ebs>` +
			`<volumeId>vol-0123456789abcdef0</volumeId><status>attached</status><attachTime>2026-01-01T00:00:00.000Z</attachTime><deleteOnTermination>true</deleteOnTermination></ebs></item></blockDeviceMapping>` +
			`<virtualizationType>hvm</virtualizationType><clientToken>t</clientToken><tagSet><item><key>Name</key><value>web</value></item><item><key>role</key><value>web</value></item></tagSet>` +
			`<hypervisor>xen</hypervisor><ebsOptimized>false</ebsOptimized><enaSupport>true</enaSupport></item></instancesSet></item>`)
	}
	b.WriteString(`</reservationSet></DescribeInstancesResponse>`)
	return b.String()
}

func run() (bool, error) {
	ec2Answer := instances()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		if strings.HasPrefix(r.Header.Get("X-Amz-Target"), "AmazonSSM.") {
			w.Header().Set("Content-Type", "application/x-amz-json-1.1")
			_, _ = io.WriteString(w, parameter)
			return
		}
		w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
		_, _ = io.WriteString(w, ec2Answer)
	}))
	defer srv.Close()
	for name, value := range map[string]string{"AWS_ENDPOINT_URL": srv.URL, "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull} {
		if err := os.Setenv(name, value); err != nil {
			return false, err
		}
	}
	ctx := context.Background()
	// Both send by a client of the same kind.
	client := func() *http.Client { return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 32}} }
	ours, err := awsapi.New(ctx, awsapi.Options{Region: "eu-central-1", HTTP: client()})
	if err != nil {
		return false, err
	}
	cfg := aws.Config{Region: "eu-central-1", BaseEndpoint: aws.String(srv.URL), HTTPClient: client(),
		Credentials: credentials.NewStaticCredentialsProvider("AKIAEXAMPLE", "secret", "")}
	theirSSM, theirEC2 := ssm.NewFromConfig(cfg), ec2.NewFromConfig(cfg)

	good := true
	for _, c := range []struct {
		what         string
		ours, theirs func() (bool, error)
	}{
		{
			"ssm GetParameter",
			func() (bool, error) {
				out, err := ours.Call(ctx, awsapi.Scope{}, "ssm", "GetParameter", map[string]any{"Name": "/app/image"})
				return err == nil && out["Parameter"].(map[string]any)["Value"] == "ami-0123456789abcdef0", err
			},
			func() (bool, error) {
				out, err := theirSSM.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("/app/image")})
				return err == nil && *out.Parameter.Value == "ami-0123456789abcdef0", err
			},
		},
		{
			"ec2 DescribeInstances, 50 instances",
			func() (bool, error) {
				out, err := ours.Call(ctx, awsapi.Scope{}, "ec2", "DescribeInstances", nil)
				return err == nil && len(out["Reservations"].([]any)) == 50, err
			},
			func() (bool, error) {
				out, err := theirEC2.DescribeInstances(ctx, &ec2.DescribeInstancesInput{})
				return err == nil && len(out.Reservations) == 50, err
			},
		},
	} {
		var ratios []float64
		var o, t testing.BenchmarkResult
		for range rounds {
			if o, err = measure(c.ours); err != nil {
				return false, err
			}
			if t, err = measure(c.theirs); err != nil {
				return false, err
			}
			ratios = append(ratios, float64(o.NsPerOp())/float64(t.NsPerOp()))
		}
		slices.Sort(ratios)
		median := ratios[len(ratios)/2]
		mark := "ok"
		if median > bar {
			mark, good = "MISSED", false
		}
		fmt.Printf("%-50s %-32s %-30s %s\n", "a call: "+c.what, fmt.Sprintf("%.2f × (%.2f to %.2f)", median, ratios[0], ratios[len(ratios)-1]), fmt.Sprintf("at most %.1f ×", bar), mark)
		fmt.Printf("  last pair: ours %v and %d allocations, generated %v and %d\n", time.Duration(o.NsPerOp()).Round(time.Microsecond), o.AllocsPerOp(),
			time.Duration(t.NsPerOp()).Round(time.Microsecond), t.AllocsPerOp())
	}
	return good, nil
}

func measure(call func() (bool, error)) (testing.BenchmarkResult, error) {
	var failed error
	r := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if ok, err := call(); !ok {
				failed = fmt.Errorf("wrong answer: %v", err)
				return
			}
		}
	})
	return r, failed
}
