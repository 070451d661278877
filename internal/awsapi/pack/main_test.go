package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A bundle holds the newest version of each service without what only people
// read; a member that is called documentation stays.
func TestPack(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		file := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		data := []byte(text)
		if filepath.Ext(name) == ".gz" {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			if _, err := w.Write(data); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			data = b.Bytes()
		}
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("botocore/__init__.py", "import os\n__version__ = '1.2.3'\n")
	write("botocore/data/partitions.json", `{"partitions":[]}`)
	write("botocore/data/endpoints.json", `{"not":"packed"}`)
	write("botocore/data/a/2019-01-01/service-2.json", `{"old":1}`)
	write("botocore/data/a/2020-01-01/service-2.json.gz", `{"documentation":"long","shapes":{"S":{"type":"structure","documentation":"long","members":{"documentation":{"shape":"T","documentation":"long"},"max":{"shape":"T"}}},"T":{"type":"string","max":10,"pattern":"<.*>"}}}`)
	write("botocore/data/a/2020-01-01/paginators-1.json", `{"pagination":{}}`)
	write("botocore/data/a/2020-01-01/examples-1.json", `{}`)
	write("dist-info/NOTICE", "notice")
	write("dist-info/LICENSE.txt", "licence")

	target := filepath.Join(t.TempDir(), "models.zip")
	if err := run(target, dir); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(target)
	if err != nil {
		t.Fatal(err)
	}
	if err := run(target, dir); err != nil {
		t.Fatal(err)
	}
	if second, err := os.ReadFile(target); err != nil || !bytes.Equal(first, second) {
		t.Errorf("the same source gave other bytes: %v", err)
	}
	r, err := zip.NewReader(bytes.NewReader(first), int64(len(first)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{"": r.Comment}
	for _, f := range r.File {
		text, err := fs.ReadFile(r, f.Name)
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name] = string(text)
	}
	want := map[string]string{
		"":                               "botocore 1.2.3",
		"partitions.json":                `{"partitions":[]}`,
		"a/2020-01-01/service-2.json":    `{"shapes":{"S":{"members":{"documentation":{"shape":"T"},"max":{"shape":"T"}},"type":"structure"},"T":{"type":"string"}}}`,
		"a/2020-01-01/paginators-1.json": `{"pagination":{}}`,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +\n%s", diff)
	}
	for name, want := range map[string]string{"NOTICE": "notice", "LICENSE.txt": "licence"} {
		if text, err := os.ReadFile(filepath.Join(filepath.Dir(target), name)); err != nil || string(text) != want {
			t.Errorf("%s: %q, %v", name, text, err)
		}
	}
	if err := run(target, t.TempDir()); err == nil {
		t.Error("an empty directory is packed")
	}
}
