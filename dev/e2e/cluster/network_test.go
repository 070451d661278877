//go:build linux

package cluster

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
)

// network is where the machines are. With namespaces each node has a network of its own, with one cable to the rest,
// which can be pulled; all of it ends with the test's processes. Without, machines are addresses of the loopback interface.
type network struct {
	t          *testing.T
	namespaces bool
	prefix     string         // of the addresses
	holder     map[string]int // by node: the process that keeps its namespace
}

// networks counts those that are no namespaces.
var networks atomic.Int32

// inside is set where the test runs in a network namespace of its own.
const inside = "ALMANAC_TEST_NETWORK"

// enter runs the test again in a new network namespace, if the kernel allows, and tells whether it did: then the test
// is over. programs is for the test that is run.
func enter(t *testing.T, programs string) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return false
	}
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("CI has to run this as root: without network namespaces no network is cut")
		}
		t.Log("not root: no network namespaces")
		return false
	}
	probe := exec.Command("true")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if err := probe.Run(); err != nil {
		t.Logf("the kernel allows no network namespaces: %v", err)
		return false
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), inside+"="+programs)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	t.Logf("in a network namespace:\n%s", out)
	if err != nil {
		t.Error(err)
	}
	return true
}

func newNetwork(t *testing.T) *network {
	t.Helper()
	n := &network{t: t, namespaces: os.Getenv(inside) != "", prefix: "10.77.0.", holder: map[string]int{}}
	if !n.namespaces {
		n.prefix = fmt.Sprintf("127.%d.%d.", 76+networks.Add(1), os.Getpid()%250+1) // others test beside us
		t.Logf("NETWORK: loopback addresses %sx; no node's network can be cut", n.prefix)
		return n
	}
	n.ip("link", "set", "lo", "up")
	n.ip("link", "add", "hub", "address", "02:00:00:00:00:01", "type", "bridge") // a bridge without one changes it with each cable
	for _, host := range []int{server1, server2, database} {
		n.ip("addr", "add", n.address(host)+"/24", "dev", "hub")
	}
	n.ip("link", "set", "hub", "up")
	t.Logf("NETWORK: a namespace for each node, and one for the rest")
	return n
}

// The hosts, by the last number of their addresses. Nodes have 11 and up.
const (
	server1 = iota + 1
	server2
	database
)

func (n *network) address(host int) string { return n.prefix + strconv.Itoa(host) }

func (n *network) ip(args ...string) {
	n.t.Helper()
	n.run("ip", args...)
}

func (n *network) run(name string, args ...string) {
	n.t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		n.t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// add gives a node its network.
func (n *network) add(node string, host int) {
	n.t.Helper()
	if !n.namespaces {
		return
	}
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := holder.Start(); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() {
		_ = holder.Process.Kill()
		_ = holder.Wait()
	})
	n.holder[node] = holder.Process.Pid
	n.ip("link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", strconv.Itoa(holder.Process.Pid))
	n.ip("link", "set", node, "master", "hub", "up")
	for _, args := range []string{"link set lo up", "addr add " + n.address(host) + "/24 dev eth0", "link set eth0 up"} {
		n.run("nsenter", append(n.enterNode(node), append([]string{"ip"}, strings.Fields(args)...)...)...)
	}
}

func (n *network) enterNode(node string) []string {
	return []string{"-t", strconv.Itoa(n.holder[node]), "-n"}
}

// on is a command on a node: as the process itself, so that who kills it kills the program.
func (n *network) on(node, program string, args ...string) *exec.Cmd {
	if pid := n.holder[node]; pid == 0 {
		return exec.Command(program, args...)
	}
	return exec.Command("nsenter", append(append(n.enterNode(node), program), args...)...)
}

// cut pulls a node's cable: packets vanish, and nobody is told. mend plugs it in again.
func (n *network) cut(node string)  { n.t.Helper(); n.ip("link", "set", node, "down") }
func (n *network) mend(node string) { n.t.Helper(); n.ip("link", "set", node, "up") }

// processes are what runs on a node beside its agent and the agent's helpers, and how many of those there are.
func (n *network) processes(node, agent, mark string) (others []string, agents int) {
	n.t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		n.t.Fatal(err)
	}
	var own string
	if pid := n.holder[node]; pid != 0 {
		if own, err = os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid)); err != nil {
			n.t.Fatal(err)
		}
	}
	for _, dir := range dirs {
		// What ends meanwhile has nothing to read.
		there := false
		if own != "" {
			net, _ := os.Readlink(dir + "/ns/net")
			there = net == own && filepath.Base(dir) != strconv.Itoa(n.holder[node])
		} else {
			env, _ := os.ReadFile(dir + "/environ")
			there = strings.Contains(string(env), mark) && strings.Contains(string(env), "ALMANAC_NODE="+node)
		}
		if !there {
			continue
		}
		if exe, _ := os.Readlink(dir + "/exe"); exe == agent {
			agents++
			continue
		}
		line, _ := os.ReadFile(dir + "/cmdline")
		if text := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " ")); text != "" { // a zombie has none
			others = append(others, text)
		}
	}
	return others, agents
}
