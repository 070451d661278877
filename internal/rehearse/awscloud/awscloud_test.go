package awscloud

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/activities/aws"
	"github.com/almanac-run/almanac/activities/host"
	"github.com/almanac-run/almanac/activities/notify"
	"github.com/almanac-run/almanac/internal/rehearse"
	"github.com/almanac-run/almanac/lang/compile"
	"github.com/almanac-run/almanac/lang/program"
	"github.com/almanac-run/almanac/workflows"
)

func infos() []action.Info {
	var all []action.Info
	for _, group := range [][]action.Action{aws.Actions(aws.Env{}), host.Actions(host.Node{}), notify.Actions()} {
		for _, a := range group {
			all = append(all, a.Info)
		}
	}
	return all
}

func rehearsed(t testing.TB, file string, given ...rehearse.Given) *rehearse.Report {
	t.Helper()
	source, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	p, ds := compile.Compile(file, source, compile.Options{Actions: infos()})
	if p == nil {
		t.Fatal(ds)
	}
	inputs, wrong := program.CheckInputs(p.Inputs, nil)
	if len(wrong) > 0 {
		t.Fatal(wrong)
	}
	scene := rehearse.Scene{Inputs: inputs, Given: given}
	r, err := rehearse.Rehearse(rehearse.Options{Program: p, Actions: infos(), Scene: scene, Cloud: New, Seed: 1, Trace: true})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var template = rehearse.Given{
	Call:  "ec2.CreateLaunchTemplate",
	Input: json.RawMessage(`{"LaunchTemplateName":"web","LaunchTemplateData":{"ImageId":"ami-0123456789abcdef0","InstanceType":"t3.small"}}`),
}

// An image is built in fifteen steps; whatever fails, nothing is left behind.
func TestImage(t *testing.T) {
	r := rehearsed(t, "testdata/image.yaml", template)
	if r.Straight.Outcome != workflows.Succeeded {
		t.Fatalf("straight: %s %s %s", r.Straight.Outcome, r.Straight.Message, r.Straight.Error)
	}
	t.Logf("%d pieces of work, %d cases, %.0f s of its time, %s of ours", r.Works, len(r.Cases), r.Straight.Seconds, r.Took)
	for _, c := range r.Cases {
		// A reboot is not asked for again if it may have begun.
		if c.Error != "" || len(c.Left) > 0 || c.Unrecovered && c.Step != "reboot" {
			t.Errorf("%s %s (%s): %s %s %s\n%+v", c.Step, c.Fault, c.At, c.Outcome, c.Message, c.Error, c.Left)
			for _, l := range c.Trace {
				fmt.Println("    ", l)
			}
		}
	}
}

func BenchmarkImage(b *testing.B) {
	for b.Loop() {
		r := rehearsed(b, "testdata/image.yaml", template)
		b.ReportMetric(float64(len(r.Cases)), "cases")
	}
}

// What a scene names by an id is there under that id, and is not what a run
// made; that it is removed is noticed.
func TestNames(t *testing.T) {
	r := rehearsed(t, "testdata/names.yaml", rehearse.Given{Call: "ec2.CopyImage", As: "ami-0000000000000000f",
		Input: json.RawMessage(`{"Name":"old-1","SourceImageId":"ami-0123456789abcdef0","SourceRegion":"us-east-1"}`)})
	if r.Straight.Outcome != workflows.Succeeded {
		t.Fatalf("straight: %s %s %s", r.Straight.Outcome, r.Straight.Message, r.Straight.Error)
	}
	if len(r.Made) != 2 || r.Made[0].Kind != "instance" || r.Made[0].Step != "another" || r.Made[1].Kind != "volume" {
		t.Errorf("made %v", r.Made)
	}
	for _, c := range r.Cases {
		if c.Step != "late" {
			continue
		}
		if len(c.Left) != 2 || c.Left[0].What != "the removal of image ami-0000000000000000f (old-1)" || c.Left[0].Step != "gone" {
			t.Errorf("%s: left %+v", c.Fault, c.Left)
		}
	}
	for _, line := range r.Straight.Trace {
		if strings.HasPrefix(line, "gone") && !strings.Contains(line, `{"image_id":"ami-0000000000000000f"}`) {
			t.Errorf("trace: %s", line)
		}
	}
}
