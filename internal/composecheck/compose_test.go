package composecheck

import (
	"maps"
	"os"
	"os/exec"
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
		Environment: maps.Clone(environment), // which it adds to
	}, func(o *loader.Options) { o.Profiles = []string{"*"} })
}

// chosen is what .env must say.
var chosen = map[string]string{"ALMANAC_KEYS": "k1 chosen", "ALMANAC_USER": "1000:1000"}

func project(t *testing.T) *types.Project {
	t.Helper()
	p, err := load(t, chosen)
	if err != nil {
		t.Fatalf("docker-compose.yml does not follow the compose specification: %v", err)
	}
	return p
}

// What reads and writes executions has their keys, and nothing else has.
func TestKeys(t *testing.T) {
	for name, s := range project(t).Services {
		if _, has := s.Environment["ALMANAC_KEYS"]; has != (name == "worker" || name == "starter") {
			t.Errorf("%s has keys: %t", name, has)
		}
	}
}

// Without what must be chosen nothing starts; what .env.example has is no more than what is read.
func TestMustBeChosen(t *testing.T) {
	for missing := range chosen {
		env := maps.Clone(chosen)
		delete(env, missing)
		if _, err := load(t, env); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("without %s: %v, want an error that names it", missing, err)
		}
	}
	compose, err := os.ReadFile(filepath.Join(root, "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile(filepath.Join(root, ".env.example"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range regexp.MustCompile(`(?m)^(\w+)=(.*)$`).FindAllStringSubmatch(string(example), -1) {
		if !strings.Contains(string(compose), "${"+line[1]) {
			t.Errorf(".env.example has %s, which docker-compose.yml does not read", line[1])
		}
		if _, secret := chosen[line[1]]; secret && line[2] != "" {
			t.Errorf(".env.example chooses %s", line[1])
		}
	}
	for file, text := range map[string][]byte{"docker-compose.yml": compose, ".env.example": example} {
		if found := regexp.MustCompile(`(?im)^\s*\w*(PASSWORD|PWD|SECRET)\w*\s*[:=][ \t]*([^$\s].*)$`).FindString(string(text)); found != "" {
			t.Errorf("%s has a secret in clear: %s", file, found)
		}
	}
}

// Who connects does so with a certificate of its own, which is that of its role.
func TestCertificates(t *testing.T) {
	p := project(t)
	own := map[string]string{
		"postgresql": "postgresql", "temporal-schema": "server", "temporal-1": "server", "temporal-2": "server",
		"temporal-ui": "viewer-ui", "worker": "worker-w1", "starter": "operator-trial",
	}
	for name, s := range p.Services {
		mounted := ""
		for _, v := range s.Volumes {
			if rest, ok := strings.CutPrefix(v.Source, filepath.Join(absolute(t), "certificates")); ok {
				mounted += strings.TrimPrefix(rest, "/")
				if !v.ReadOnly || v.Target != "/certificates" {
					t.Errorf("%s mounts certificates at %s, read-only: %t", name, v.Target, v.ReadOnly)
				}
			}
		}
		if mounted != own[name] || mounted == "" {
			t.Errorf("%s has the certificates %q, want %q", name, mounted, own[name])
		}
	}
	for _, name := range []string{"worker", "starter"} {
		env := p.Services[name].Environment
		for _, variable := range []string{"TEMPORAL_TLS_CLIENT_CERT_PATH", "TEMPORAL_TLS_CLIENT_KEY_PATH", "TEMPORAL_TLS_SERVER_CA_CERT_PATH"} {
			if v := env[variable]; v == nil || *v == "" {
				t.Errorf("%s has no %s", name, variable)
			}
		}
		for server := range strings.SplitSeq(*env["TEMPORAL_ADDRESS"], ",") {
			host, _, _ := strings.Cut(server, ":")
			if _, ok := p.Services[host]; !ok {
				t.Errorf("%s connects to %s, and there is no such service", name, server)
			}
		}
	}
	hba, err := os.ReadFile(filepath.Join(root, "deploy", "pg_hba.conf"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(hba)) {
		if f := strings.Fields(line); len(f) > 0 && f[0] != "#" && f[0] != "local" && (f[0] != "hostssl" || f[len(f)-1] != "cert") {
			t.Errorf("deploy/pg_hba.conf lets somebody in without a certificate: %s", line)
		}
	}
}

func absolute(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	return dir
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
	if published != 3 {
		t.Errorf("%d ports are published, want three: the servers' and the Web UI's", published)
	}
	env := maps.Clone(chosen)
	env["ALMANAC_PUBLISH"] = "0.0.0.0"
	p, err := load(t, env)
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range p.Services {
		for _, port := range s.Ports {
			if open, server := port.HostIP == "0.0.0.0", strings.HasPrefix(name, "temporal-") && name != "temporal-ui"; open != server {
				t.Errorf("ALMANAC_PUBLISH binds port %s of %s to %q", port.Published, name, port.HostIP)
			}
		}
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
}

// What depends on a service that takes time waits until it is healthy, or, if
// it ends by itself, until it has ended well; what should stay up comes back.
func TestOrderAndRestart(t *testing.T) {
	p := project(t)
	ends := map[string]bool{"temporal-schema": true, "starter": true}
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
	for _, on := range []string{"temporal-1", "temporal-2"} {
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
	for _, name := range []string{"worker", "starter", "temporal-schema", "temporal-1", "temporal-2"} {
		s := p.Services[name]
		if s.User != chosen["ALMANAC_USER"] {
			t.Errorf("%s runs as %q", name, s.User)
		}
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
	for _, want := range []string{"worker", "starter", "agent", "server"} {
		if !stages[want] {
			t.Errorf("stage %s is missing, or runs as root", want)
		}
	}
}

// Files that are mounted exist, else Docker would make empty directories of them. Certificates do when their script has run.
func TestMountsExist(t *testing.T) {
	made := t.TempDir()
	if out, err := exec.Command("sh", filepath.Join(root, "deploy", "certificates.sh"), "-d", made, "trial").CombinedOutput(); err != nil {
		t.Fatalf("certificates.sh: %v\n%s", err, out)
	}
	for name, s := range project(t).Services {
		for _, v := range s.Volumes {
			if v.Type != types.VolumeTypeBind {
				continue
			}
			if rest, ok := strings.CutPrefix(v.Source, filepath.Join(absolute(t), "certificates")); ok {
				v.Source = made + rest
			}
			if _, err := os.Stat(v.Source); err != nil {
				t.Errorf("%s mounts %v", name, err)
			}
		}
	}
}
