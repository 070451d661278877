package awsapi

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What EC2 may answer besides what the model says, and what a broken connection
// makes of it. TestAnswers compares what the model says with botocore.
func TestEC2Answers(t *testing.T) {
	instance := func(v ...any) map[string]any {
		return map[string]any{"Reservations": []any{map[string]any{"Instances": []any{object(v...)}}}}
	}
	const head = `<?xml version="1.0" encoding="UTF-8"?>` + "\n"
	wrap := func(s string) string {
		return head + `<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r</requestId><reservationSet><item><instancesSet><item>` +
			s + `</item></instancesSet></item></reservationSet></DescribeInstancesResponse>` + "\n"
	}
	for _, tt := range []struct {
		what, answer string
		want         map[string]any
		fails        string
	}{
		{"nothing", "", map[string]any{}, ""},
		{"no members", `<DescribeInstancesResponse/>`, map[string]any{}, ""},
		{"an empty list", `<DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse>`, map[string]any{"Reservations": []any{}}, ""},
		{"scalars", wrap(`<instanceId>i-1</instanceId><amiLaunchIndex>2</amiLaunchIndex><ebsOptimized>true</ebsOptimized><launchTime>2026-01-02T03:04:05.000Z</launchTime>`),
			instance("InstanceId", "i-1", "AmiLaunchIndex", int64(2), "EbsOptimized", true, "LaunchTime", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)), ""},
		{"a member of the future", wrap(`<new><a><b>1</b></a></new><instanceId>i-1</instanceId>`), instance("InstanceId", "i-1"), ""},
		{"entities and sections", wrap(`<instanceId>a&amp;b<![CDATA[<c>]]>&#100;</instanceId>`), instance("InstanceId", "a&b<c>d"), ""},
		{"spaces are a value's own", wrap(` <instanceId> i </instanceId> `), instance("InstanceId", " i "), ""},
		{"empty text", wrap(`<dnsName/>`), instance("PublicDnsName", ""), ""},
		{"another case", wrap(`<INSTANCEID>i-1</INSTANCEID>`), instance("InstanceId", "i-1"), ""},
		{"a prefix", wrap(`<x:instanceId xmlns:x="u">i-1</x:instanceId>`), instance("InstanceId", "i-1"), ""},
		{"within another element", `<soap><DescribeInstancesResponse><reservationSet/></DescribeInstancesResponse></soap>`, map[string]any{"Reservations": []any{}}, ""},

		{"another answer", `<StopInstancesResponse/>`, nil, "unexpected EOF"},
		{"cut off", wrap(`<instanceId>i-1`)[:200], nil, "unexpected EOF"},
		{"wrong end", wrap(`<instanceId>i-1</instanceType>`), nil, "unexpected </instanceType>"},
		{"wrong end in what is skipped", wrap(`<new><a></b></new>`), nil, "unexpected </b>"},
		{"no number", wrap(`<amiLaunchIndex>x</amiLaunchIndex>`), nil, `Reservations: Instances: AmiLaunchIndex: strconv.ParseInt: parsing "x"`},
		{"no time", wrap(`<launchTime>now</launchTime>`), nil, "LaunchTime"},
		{"an element in a text", wrap(`<instanceId><b>i</b></instanceId>`), nil, "InstanceId: unexpected token"},
		{"no XML", "ok", nil, "unexpected EOF"},
	} {
		c := client(t, Options{Region: "eu-central-1", HTTP: roundTrip(func(*http.Request) (*http.Response, error) { return respond(200, tt.answer), nil })})
		got, err := c.Call(t.Context(), Scope{}, "ec2", "DescribeInstances", nil)
		if tt.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%s: %v, want %s", tt.what, err, tt.fails)
			}
			continue
		}
		if diff := cmp.Diff(tt.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.what, err, diff)
		}
	}
}

func object(v ...any) map[string]any {
	m := map[string]any{}
	for i := 0; i < len(v); i += 2 {
		m[fmt.Sprint(v[i])] = v[i+1]
	}
	return m
}
