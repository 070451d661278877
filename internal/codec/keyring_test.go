package codec

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadRefuses(t *testing.T) {
	k1 := newKey(t, "k1")
	secret := strings.Fields(k1)[1]
	for what, tt := range map[string]struct{ text, says string }{
		"nothing":       {"# nothing\n\n", "there is no key"},
		"no key":        {"k1", ":1: want"},
		"two":           {k1 + "\n" + k1, ":2: there are two keys k1"},
		"short":         {"k1 AAAA", "has 3 bytes, and needs 32"},
		"no base64":     {"k1 ?", "not base64"},
		"a bad id":      {"k/1 " + secret, ":1: want"},
		"of something":  {k1 + " web-1", "node/ID"},
		"kms, no KMS":   {"k1 kms:AAAA alias/x", "does not call"},
		"kms, no name":  {"k1 kms:AAAA", "the key of KMS"},
		"too many said": {k1 + " node/a b", ":1: want"},
	} {
		_, err := Read(t.Context(), tt.text, nil)
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", what, err, tt.says)
		} else if strings.Contains(err.Error(), secret) {
			t.Errorf("%s: the error tells the key", what)
		}
	}
}

// Three keys, one after the other, while payloads of each are there.
func TestRotation(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	lines := []string{newKey(t, "k1"), newKey(t, "k2"), newKey(t, "k3")}
	write := func(lines ...string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(lines[0])
	keys, err := ReadFile(t.Context(), file, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := New(keys, Options{})
	old := seal(t, c, text("first"))
	// A reader that gets the new key first reads what others write with it, and writes with the old one still.
	write(lines[1], lines[0])
	if err := keys.Reload(t.Context()); err != nil || keys.Writes() != "k1" {
		t.Fatalf("writes %s, %v", keys.Writes(), err)
	}
	write(lines...)
	if err := keys.Reload(t.Context()); err != nil || keys.Writes() != "k3" {
		t.Fatalf("writes %s, %v", keys.Writes(), err)
	}
	young := seal(t, c, text("third"))
	if string(young.Metadata[metaKey]) != "k3" {
		t.Errorf("written with %s", young.Metadata[metaKey])
	}
	if got, err := unseal(c, old); err != nil || string(got.Data) != "first" {
		t.Errorf("of the first key: %v %v", got, err)
	}
	write(lines[1:]...)
	if err := keys.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	refuses(t, "of a key that was removed", c, old, "there is no key \"k1\" here")
	// A broken file leaves what there is.
	write(lines[1], "rubbish")
	if err := keys.Reload(t.Context()); err == nil {
		t.Error("a broken file was read")
	}
	if got, err := unseal(c, young); err != nil || string(got.Data) != "third" {
		t.Errorf("after a broken file: %v %v", got, err)
	}
}

// A file that changes is read without anybody asking.
func TestWatch(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	k1, k2 := newKey(t, "k1"), newKey(t, "k2")
	if err := os.WriteFile(file, []byte(k1), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		keys, err := ReadFile(ctx, file, nil)
		if err != nil {
			t.Fatal(err)
		}
		go keys.Watch(ctx, slog.New(slog.DiscardHandler))
		if err := os.WriteFile(file, []byte(k1+"\n"+k2), 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lookAtFile)
		synctest.Wait()
		if keys.Writes() != "k2" {
			t.Errorf("writes %s", keys.Writes())
		}
		stop()
	})
}

// KMS is asked again every few minutes; what it does not confirm is not read any more, and the other keys are.
func TestKMS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var disabled sync.Map
		var asked atomic.Int32
		unwrap := func(_ context.Context, kmsKey string, wrapped []byte, about map[string]string) ([]byte, error) {
			asked.Add(1)
			if _, ok := disabled.Load(about["key"]); ok {
				return nil, errors.New("DisabledException")
			}
			if kmsKey != "alias/almanac" || about["almanac"] != "payloads" {
				t.Errorf("asked for %s about %v", kmsKey, about)
			}
			return append(make([]byte, 28), wrapped[:4]...), nil
		}
		ctx, stop := context.WithCancel(t.Context())
		keys, err := Read(ctx, WrappedLine("d1", "alias/almanac", []byte("one!"))+"\n"+WrappedLine("d2", "alias/almanac", []byte("two!")), unwrap)
		if err != nil {
			t.Fatal(err)
		}
		c := New(keys, Options{})
		go keys.Watch(ctx, slog.New(slog.DiscardHandler))
		p2 := seal(t, c, text("x"))
		time.Sleep(20 * time.Minute)
		if _, err := unseal(c, p2); err != nil {
			t.Errorf("after 20 minutes: %v", err)
		}
		if n := asked.Load(); n > 14 {
			t.Errorf("KMS was asked %d times", n)
		}
		disabled.Store("d1", true)
		time.Sleep(6 * time.Minute)
		if _, err := unseal(c, p2); err != nil {
			t.Errorf("d1 is disabled, and d2 is not read: %v", err)
		}
		disabled.Store("d2", true)
		time.Sleep(6 * time.Minute)
		refuses(t, "disabled", c, p2, "has not been confirmed by KMS")
		// The SDK writes a memo in plain text if it cannot be encrypted: writing goes on.
		seal(t, c, text("y"))
		disabled.Delete("d2")
		time.Sleep(time.Minute)
		if _, err := unseal(c, p2); err != nil {
			t.Errorf("confirmed again: %v", err)
		}
		if _, err := keys.Node("a"); err == nil {
			t.Error("a key of KMS was handed out for good")
		}
		stop()
	})
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "keys")
	if err := MakeFile(file); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := MakeFile(file); err != nil {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(file); string(after) != string(before) {
		t.Fatal("the key file was made twice")
	}
	keys := ringOf(t, string(before))
	ofA, err := keys.Node("a")
	if err != nil {
		t.Fatal(err)
	}
	nodeFile := filepath.Join(dir, "node")
	if err := os.WriteFile(nodeFile, []byte(ofA), 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(dir, "open")
	if err := os.WriteFile(open, before, 0o644); err != nil {
		t.Fatal(err)
	}
	for what, tt := range map[string]struct {
		env  map[string]string
		set  Settings
		says string // of the error; empty: there is a codec; "-": there is none, and no error
	}{
		"nothing":                    {says: "worker key new"},
		"nothing, agent":             {set: Settings{Node: "a"}, says: "worker node-key a"},
		"flag":                       {set: Settings{File: file}},
		"default":                    {set: Settings{DefaultFile: file}},
		"environment":                {env: map[string]string{EnvKeys: string(before)}},
		"environment's file":         {env: map[string]string{EnvFile: file}},
		"a file that is not there":   {set: Settings{File: filepath.Join(dir, "no")}, says: "no such file"},
		"a file that is open":        {set: Settings{File: open}, says: "chmod 600"},
		"insecure":                   {set: Settings{Insecure: true}, says: "-"},
		"insecure by environment":    {env: map[string]string{EnvInsecure: "1"}, set: Settings{DefaultFile: file}, says: "-"},
		"insecure and a key":         {set: Settings{Insecure: true, File: file}, says: "leave one out"},
		"a node's key":               {set: Settings{Node: "a", File: nodeFile}},
		"another node's key":         {set: Settings{Node: "b", File: nodeFile}, says: "is that of node a, and this is node b"},
		"a node with everything":     {set: Settings{Node: "a", File: file}, says: "which a node must not"},
		"the worker, a node's key":   {set: Settings{File: nodeFile}, says: "that node's payloads only"},
		"the flag before variables":  {env: map[string]string{EnvKeys: "rubbish", EnvFile: "no"}, set: Settings{File: file}},
		"ALMANAC_KEYS before a file": {env: map[string]string{EnvKeys: string(before), EnvFile: "no"}},
		"memos past the codec":       {env: map[string]string{envPlainMemo: "0"}, set: Settings{File: file}, says: "without encryption"},
		"memos through the codec":    {env: map[string]string{envPlainMemo: "1"}, set: Settings{File: file}},
		"memos, and no keys":         {env: map[string]string{envPlainMemo: "0", EnvInsecure: "1"}, says: "-"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Chdir(dir)
			for _, name := range []string{EnvKeys, EnvFile, EnvInsecure, EnvRefuse, envPlainMemo} {
				t.Setenv(name, tt.env[name])
			}
			tt.set.NoWatch = true
			c, err := Open(t.Context(), tt.set)
			switch {
			case tt.says == "" && (err != nil || c == nil), tt.says == "-" && (err != nil || c != nil):
				t.Errorf("%v, %v", c, err)
			case tt.says != "" && tt.says != "-" && (err == nil || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("%v, want %q", err, tt.says)
			}
		})
	}
}
