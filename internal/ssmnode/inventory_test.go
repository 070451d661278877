package ssmnode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/inventory"
)

func (w *world) inventory(name string, at time.Time, entries ...m) {
	w.Helper()
	content := []any{}
	for _, e := range entries {
		content = append(content, e)
	}
	w.given("ssm", "PutInventory", m{"InstanceId": w.id, "Items": []any{m{"TypeName": name, "SchemaVersion": "1.0", "CaptureTime": at.UTC().Format("2006-01-02T15:04:05Z"), "Content": content}}})
}

func TestInventory(t *testing.T) {
	w := newWorld(t, nil)
	var got []inventory.Snapshot
	w.env.Report = func(_ context.Context, s inventory.Snapshot) error {
		got = append(got, s)
		return s.Check()
	}
	_, err := w.do("host.inventory.collect", m{})
	wants(t, err, action.Failed, "AWS-GatherSoftwareInventory")

	at := w.time().Add(-20 * time.Minute)
	packages := []m{
		{"Name": "bash", "Version": "5.2.15", "Release": "1.amzn2023", "Architecture": "x86_64", "Publisher": "Amazon Linux"},
		{"Name": "openssl", "Version": "3.0.8", "Release": "1", "Epoch": "1", "Architecture": "x86_64"},
	}
	for i := range 120 {
		packages = append(packages, m{"Name": fmt.Sprintf("p%03d", i), "Version": "1"})
	}
	w.inventory("AWS:Application", at, packages...)
	w.inventory("AWS:Network", at.Add(-time.Minute), m{"Name": "eth0", "MacAddress": "0a:00", "IPV4": "10.0.0.5", "IPV6": "fe80::1,fe80::2"})
	w.inventory("AWS:InstanceInformation", at, m{"ComputerName": "web-1", "PlatformName": "Amazon Linux", "PlatformVersion": "2023", "AgentVersion": "3.3.1"})
	run := w.find("host.inventory.collect") // one worker
	collect := func() m {
		out, err := run.Do(w.context(action.Target{ID: w.id, Platform: "linux"}), []byte(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		return asData(t, out)
	}
	out := collect()
	if fmt.Sprint(out["counts"], out["changed"], out["reported"], out["problems"]) != "map[instance:1 interface:1 package:122] true true []" {
		t.Error(out)
	}
	if len(got) != 1 || got[0].Node != w.id || !got[0].At.Equal(at.Add(-time.Minute)) {
		t.Fatalf("%+v", got)
	}
	items := map[string]string{}
	for _, s := range got[0].Sections {
		for _, i := range s.Items {
			v, err := i.JSON()
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(i.Key, "p0") && !strings.HasPrefix(i.Key, "p1") {
				items[i.Kind+" "+i.Key] = v
			}
		}
	}
	if diff := cmp.Diff(map[string]string{
		"package bash":     `{"arch":"x86_64","name":"bash","publisher":"Amazon Linux","version":"5.2.15-1.amzn2023"}`,
		"package openssl":  `{"arch":"x86_64","name":"openssl","version":"1:3.0.8-1"}`,
		"interface eth0":   `{"addresses":["10.0.0.5","fe80::1","fe80::2"],"mac":"0a:00"}`,
		"instance " + w.id: `{"hostname":"web-1","os_name":"Amazon Linux","os_version":"2023","ssm_agent":"3.3.1"}`,
	}, items); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if again := collect(); again["changed"] != false || again["digest"] != out["digest"] {
		t.Error(again)
	}
	w.inventory("AWS:Network", at, m{"Name": "eth0", "MacAddress": "0a:00", "IPV4": "10.0.0.6"})
	if again := collect(); again["changed"] != true || again["digest"] == out["digest"] {
		t.Error(again)
	}
	if out := w.must("host.inventory.collect", m{"kinds": []any{"package", "port"}}); fmt.Sprint(out["problems"]) != "[port: Systems Manager's inventory has nothing of that kind]" {
		t.Error(out)
	}
	w.inventory("AWS:Network", at.Add(-100*time.Hour), m{"Name": "eth0"})
	if out := w.must("host.inventory.collect", m{"kinds": []any{"interface"}}); !strings.Contains(fmt.Sprint(out["problems"]), "collected 100h0m0s ago") {
		t.Error(out)
	}
	for _, in := range []m{{"files": []any{"/etc/*"}}, {"facts": []any{m{"name": "x", "script": "x"}}}, {"kinds": []any{"x"}}} {
		_, err := w.do("host.inventory.collect", in)
		wants(t, err, action.Invalid)
	}
	w.env.Report = func(context.Context, inventory.Snapshot) error { return errors.New("the store is away") }
	_, err = w.do("host.inventory.collect", m{})
	wants(t, err, action.Unavailable, "the store is away")
}

func asData(t *testing.T, v any) m {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var out m
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}
