package composecheck

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
)

const root = "../.."

// load reads docker-compose.yml as docker compose does: anchors, variables,
// schema, and the consistency of what refers to what.
func load(t *testing.T, environment map[string]string) (*types.Project, error) {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	return loader.LoadWithContext(t.Context(), types.ConfigDetails{
		WorkingDir:  dir,
		ConfigFiles: []types.ConfigFile{{Filename: filepath.Join(dir, "docker-compose.yml")}},
		Environment: environment,
	}, func(o *loader.Options) { o.Profiles = []string{"*"} })
}

func project(t *testing.T) *types.Project {
	t.Helper()
	p, err := load(t, map[string]string{"POSTGRES_PASSWORD": "chosen", "ALMANAC_KEYS": "k1 chosen"})
	if err != nil {
		t.Fatalf("docker-compose.yml does not follow the compose specification: %v", err)
	}
	return p
}

// What reads and writes executions has their keys, and nothing else has.
func TestKeys(t *testing.T) {
	if _, err := load(t, map[string]string{"POSTGRES_PASSWORD": "chosen"}); err == nil || !strings.Contains(err.Error(), "ALMANAC_KEYS") {
		t.Errorf("without a key: %v, want an error that names ALMANAC_KEYS", err)
	}
	for name, s := range project(t).Services {
		if _, has := s.Environment["ALMANAC_KEYS"]; has != (name == "worker" || name == "starter") {
			t.Errorf("%s has keys: %t", name, has)
		}
	}
}

func TestPasswordMustBeChosen(t *testing.T) {
	if _, err := load(t, nil); err == nil || !strings.Contains(err.Error(), "POSTGRES_PASSWORD") {
		t.Errorf("without a password: %v, want an error that names POSTGRES_PASSWORD", err)
	}
	for _, file := range []string{"docker-compose.yml", ".env.example"} {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		if found := regexp.MustCompile(`(?im)^\s*\w*(PASSWORD|PWD)\w*\s*[:=][ \t]*([^$\s].*)$`).FindString(string(text)); found != "" {
			t.Errorf("%s has a password in clear: %s", file, found)
		}
	}
	for name, s := range project(t).Services {
		for k, v := range s.Environment {
			if regexp.MustCompile("PASSWORD|PWD").MatchString(k) && (v == nil || *v != "chosen") {
				t.Errorf("%s: %s does not come from .env", name, k)
			}
		}
	}
}

func TestOnlyLoopbackIsBound(t *testing.T) {
	published := 0
	for name, s := range project(t).Services {
		for _, port := range s.Ports {
			published++
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s binds port %s to %q, not to 127.0.0.1", name, port.Published, port.HostIP)
			}
		}
		if s.NetworkMode != "" || s.Privileged {
			t.Errorf("%s: network mode %q, privileged %t", name, s.NetworkMode, s.Privileged)
		}
	}
	if published != 2 {
		t.Errorf("%d ports are published, want two: the server's and the Web UI's", published)
	}
}

func TestImagesArePinned(t *testing.T) {
	p := project(t)
	for name, s := range p.Services {
		if s.Build != nil {
			continue
		}
		if !regexp.MustCompile(`:\d+\.\d+(\.\d+)?$`).MatchString(s.Image) {
			t.Errorf("%s: image %s has no full version", name, s.Image)
		}
	}
	_, version, _ := strings.Cut(p.Services["temporal"].Image, ":")
	for _, name := range []string{"temporal-schema", "temporal-namespace"} {
		if got := p.Services[name].Image; got != "temporalio/admin-tools:"+version {
			t.Errorf("%s uses %s; the tools are of the server's version, %s", name, got, version)
		}
	}
}

// What depends on a service that takes time waits until it is healthy, or, if
// it ends by itself, until it has ended well; what should stay up comes back.
func TestOrderAndRestart(t *testing.T) {
	p := project(t)
	ends := map[string]bool{"temporal-schema": true, "temporal-namespace": true, "starter": true}
	for name, s := range p.Services {
		switch {
		case name == "starter":
		case ends[name] && !strings.HasPrefix(s.Restart, "on-failure:"):
			t.Errorf("%s ends when it is done, but its restart is %q", name, s.Restart)
		case !ends[name] && s.Restart != "unless-stopped":
			t.Errorf("%s: restart is %q", name, s.Restart)
		}
		for on, d := range s.DependsOn {
			want := types.ServiceConditionHealthy
			if ends[on] {
				want = types.ServiceConditionCompletedSuccessfully
			}
			if d.Condition != want {
				t.Errorf("%s waits for %s with %s, want %s", name, on, d.Condition, want)
			}
			if want == types.ServiceConditionHealthy && p.Services[on].HealthCheck == nil {
				t.Errorf("%s waits until %s is healthy, which has no healthcheck", name, on)
			}
		}
	}
	for _, on := range []string{"temporal", "temporal-namespace"} {
		if _, ok := p.Services["worker"].DependsOn[on]; !ok {
			t.Errorf("the worker does not wait for %s", on)
		}
	}
}

func TestOurProgramsAreConfined(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	p := project(t)
	for _, name := range []string{"worker", "starter"} {
		s := p.Services[name]
		if !s.ReadOnly || len(s.CapDrop) != 1 || s.CapDrop[0] != "ALL" || len(s.SecurityOpt) != 1 || s.SecurityOpt[0] != "no-new-privileges:true" {
			t.Errorf("%s: read_only %t, cap_drop %v, security_opt %v", name, s.ReadOnly, s.CapDrop, s.SecurityOpt)
		}
		if s.Build == nil || !regexp.MustCompile(`(?m)^FROM \S+ AS `+s.Build.Target+`$`).Match(dockerfile) {
			t.Errorf("%s: the Dockerfile has no stage for its build target", name)
		}
	}
}

// Every image that the Dockerfile leaves behind runs without root, on a base of
// a given version.
func TestDockerfile(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	stages := map[string]bool{"scratch": true} // by name: whether it ends without root
	name := ""
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case len(f) == 4 && f[0] == "FROM":
			_, ours := stages[f[1]]
			if !ours && !regexp.MustCompile(`:\d+\.\d+`).MatchString(f[1]) {
				t.Errorf("base image %s has no full version", f[1])
			}
			name = f[3]
			stages[name] = ours && stages[f[1]] && f[1] != "scratch"
		case len(f) == 2 && f[0] == "USER":
			stages[name] = f[1] == "65532:65532"
		}
	}
	for _, want := range []string{"worker", "starter", "agent"} {
		if !stages[want] {
			t.Errorf("stage %s is missing, or runs as root", want)
		}
	}
}

// Files that are mounted exist, else Docker would make empty directories of them.
func TestMountsExist(t *testing.T) {
	for name, s := range project(t).Services {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s mounts %v", name, err)
			}
		}
	}
}
