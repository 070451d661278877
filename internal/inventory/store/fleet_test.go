package store

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/almanac-run/almanac/internal/inventory"
)

// fleetSize is that of the fleet of the benchmark: ALMANAC_FLEET=10000 is what docs/inventory.md has figures of.
func fleetSize() int {
	n, err := strconv.Atoi(os.Getenv("ALMANAC_FLEET"))
	if err != nil {
		return 200
	}
	return n
}

// machineOf is a made-up node of 500 items: the packages of four images, of which some were
// updated, its own users and files, and a fact.
func machineOf(n int) []inventory.Item {
	var items []inventory.Item
	add := func(kind, key string, values map[string]any) {
		items = append(items, inventory.Item{Kind: kind, Key: key, Values: values})
	}
	image := n % 4
	for i := range 400 {
		version := fmt.Sprintf("%d.%d-%d", i%7, i%13, image)
		if (n*31+i*17)%50 == 0 {
			version = fmt.Sprintf("%d.%d-%d", i%7, i%13+1, n%3)
		}
		add("package", fmt.Sprintf("package%d", i), map[string]any{"name": fmt.Sprintf("package%d", i), "version": version, "arch": "amd64", "manager": "dpkg"})
	}
	for i := range 40 {
		add("service", fmt.Sprintf("service%d", i), map[string]any{"active": (n+i)%20 != 0, "enabled": true, "state": "enabled"})
	}
	for i := range 25 {
		add("user", fmt.Sprintf("user%d", i), map[string]any{"uid": 1000 + i, "shell": "/bin/sh", "home": "/home"})
	}
	for i := range 20 {
		add("file", fmt.Sprintf("/etc/app/%d.conf", i), map[string]any{"mode": "0644", "owner": "root", "size": 100 + i, "sha256": fmt.Sprintf("%064d", n*100+i)})
	}
	for i := range 13 {
		add("port", fmt.Sprintf("tcp/0.0.0.0:%d", 8000+i), map[string]any{"port": 8000 + i, "protocol": "tcp", "address": "0.0.0.0", "processes": []string{"app"}})
	}
	root := "no"
	if n%100 == 0 {
		root = "yes"
	}
	add("fact", "sshd", map[string]any{"permitrootlogin": root, "port": 22})
	add("instance", fmt.Sprintf("node-%05d", n), map[string]any{"cloud": "aws", "id": fmt.Sprintf("i-%017d", n), "cpus": 4})
	return items
}

// BenchmarkFleet records a fleet, a second report without a change, and asks. Run it with -benchtime 1x.
func BenchmarkFleet(b *testing.B) {
	for _, kind := range []string{"sqlite", "postgres"} {
		b.Run(kind, func(b *testing.B) {
			dsn := filepath.Join(b.TempDir(), "inventory.db")
			if kind == "postgres" {
				dsn = server.Database(b)
			}
			s, err := Open(b.Context(), dsn)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			nodes := fleetSize()
			for range b.N {
				measure(b, "record", nodes, func() {
					for n := range nodes {
						snap, err := inventory.New(fmt.Sprintf("node-%05d", n), time.Now(), machineOf(n))
						if err == nil {
							err = s.Record(b.Context(), snap)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
				})
				some := min(nodes, 200)
				measure(b, "unchanged", some, func() {
					for n := range some {
						snap, _ := inventory.New(fmt.Sprintf("node-%05d", n), time.Now(), machineOf(n))
						if err := s.Record(b.Context(), snap); err != nil {
							b.Fatal(err)
						}
					}
				})
				for _, text := range []string{
					`item.kind == "package" && item.key == "package7" && item.version == "0.7-1"`,
					`item.kind == "fact" && item.permitrootlogin == "yes"`,
					`item.version == "0.8-2"`,
					`item.kind == "file" && item.mode != "0644"`,
					`item.node == "node-00007" && item.kind == "file"`,
					`item.node.endsWith("7") && item.kind == "user" && item.uid == 1003`,
					`has(item.sha256) && item.sha256.startsWith("ff")`,
				} {
					found := 0
					measure(b, text, 1, func() {
						page, err := s.Query(b.Context(), text, 1000, "")
						if err != nil {
							b.Fatal(err)
						}
						found = len(page.Items)
					})
					b.Logf("  %d found", found)
				}
				rules := []inventory.Rule{
					{Name: "sshd", Severity: "critical", Kind: "fact", Where: `item.key == "sshd"`, Assert: `item.permitrootlogin == "no"`, Required: true},
					{Name: "modes", Severity: "low", Kind: "file", Assert: `item.mode == "0644"`},
					{Name: "package7", Severity: "low", Kind: "package", Where: `item.key == "package7"`, Assert: `item.version != "0.8-1"`},
				}
				measure(b, "check of 3 rules on all nodes", 1, func() {
					for cursor := ""; ; {
						page, err := s.Check(b.Context(), "bench", rules, true, cursor)
						if err != nil {
							b.Fatal(err)
						}
						if cursor = page.Cursor; cursor == "" {
							return
						}
					}
				})
			}
			if info, err := os.Stat(dsn); err == nil {
				b.Logf("%d MiB", info.Size()>>20)
			}
		})
	}
}

func measure(b *testing.B, what string, of int, do func()) {
	runtime.GC()
	start := time.Now()
	do()
	took := time.Since(start)
	b.Logf("%s: %s, %s each", what, took.Round(time.Millisecond), (took / time.Duration(of)).Round(10*time.Microsecond))
}
