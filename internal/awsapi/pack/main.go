// Command pack makes the bundle of service models that awsapi embeds.
//
//	BOTOCORE=botocore-1.44.8-py3-none-any.whl go generate ./internal/awsapi
//
// The source is a wheel of botocore (`pip download --no-deps botocore`) or a
// directory with its contents. The bundle is a zip file in the layout of
// botocore's data directory, so that one loader reads both; each file is
// compressed by itself, so that a call reads the models of its own service only.
package main

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) != 3 || os.Args[2] == "" {
		fmt.Fprintln(os.Stderr, "usage: BOTOCORE=(wheel or directory of botocore) go generate ./internal/awsapi")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack:", err)
		os.Exit(1)
	}
}

// run packs the models of source into target, and puts botocore's licence beside it.
func run(target, source string) error {
	src, err := open(source)
	if err != nil {
		return err
	}
	out := new(bytes.Buffer)
	files, err := pack(src, out)
	if err != nil {
		return err
	}
	if files == 0 {
		return fmt.Errorf("%s holds no botocore/data/SERVICE/VERSION/service-2.json", source)
	}
	if err := os.WriteFile(target, out.Bytes(), 0o644); err != nil {
		return err
	}
	return fs.WalkDir(src, ".", func(name string, d fs.DirEntry, err error) error {
		if base := path.Base(name); err == nil && (base == "NOTICE" || base == "LICENSE.txt") {
			text, err := fs.ReadFile(src, name)
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(filepath.Dir(target), base), text, 0o644)
		}
		return err
	})
}

func open(source string) (fs.FS, error) {
	if info, err := os.Stat(source); err != nil || info.IsDir() {
		return os.DirFS(source), err
	}
	return zip.OpenReader(source)
}

// pack writes the newest API version of every service, in order of names and
// without times: the same source gives the same bytes.
func pack(src fs.FS, out io.Writer) (files int, err error) {
	w := zip.NewWriter(out)
	w.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(out, flate.BestCompression)
	})
	data, err := fs.Sub(src, "botocore/data")
	if err != nil {
		return 0, err
	}
	version, err := fs.ReadFile(src, "botocore/__init__.py")
	if err != nil {
		return 0, err
	}
	if _, after, ok := strings.Cut(string(version), "__version__ = '"); ok {
		number, _, _ := strings.Cut(after, "'")
		if err := w.SetComment("botocore " + number); err != nil {
			return 0, err
		}
	}
	services, err := fs.ReadDir(data, ".")
	if err != nil {
		return 0, err
	}
	add := func(from, to string) error {
		text, err := read(data, from)
		if err != nil {
			return err
		}
		into, err := w.CreateHeader(&zip.FileHeader{Name: to, Method: zip.Deflate})
		if err != nil {
			return err
		}
		files++
		_, err = into.Write(text)
		return err
	}
	for _, service := range services {
		if !service.IsDir() {
			if service.Name() == "partitions.json" {
				if err := add(service.Name(), service.Name()); err != nil {
					return files, err
				}
			}
			continue
		}
		versions, err := fs.Glob(data, service.Name()+"/*/service-2.json*")
		if err != nil || len(versions) == 0 {
			return files, fmt.Errorf("%s has no service-2.json: %w", service.Name(), err)
		}
		dir := path.Dir(slices.Max(versions))
		for _, name := range []string{
			"endpoint-rule-set-1.json", "paginators-1.json", "paginators-1.sdk-extras.json",
			"service-2.json", "service-2.sdk-extras.json", "waiters-2.json",
		} {
			from, err := fs.Glob(data, dir+"/"+name+"*")
			if err != nil {
				return files, err
			}
			if len(from) > 0 {
				if err := add(from[0], dir+"/"+name); err != nil {
					return files, fmt.Errorf("%s: %w", from[0], err)
				}
			}
		}
	}
	return files, w.Close()
}

// read returns a model without what only people read.
func read(data fs.FS, name string) ([]byte, error) {
	text, err := fs.ReadFile(data, name)
	if err != nil {
		return nil, err
	}
	if strings.HasSuffix(name, ".gz") {
		r, err := gzip.NewReader(bytes.NewReader(text))
		if err != nil {
			return nil, err
		}
		if text, err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v map[string]any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	strip(v)
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err = enc.Encode(v)
	return bytes.TrimSpace(out.Bytes()), err
}

// unread are the keys that nothing here reads: documentation, and the bounds
// that AWS checks better than a model that ages.
var unread = []string{
	"documentation", "documentationUrl", "deprecatedMessage", "deprecatedSince", "examples",
	"min", "max", "pattern", "box", "synthetic", "uid",
}

// names are the keys whose values are keyed by names that people chose; such a
// name may be "documentation" itself.
var names = []string{"shapes", "members", "operations", "parameters", "pagination", "waiters"}

func strip(v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			named, ok := inner.(map[string]any)
			switch {
			case slices.Contains(unread, k):
				delete(v, k)
			case ok && slices.Contains(names, k):
				for _, inner := range named {
					strip(inner)
				}
			default:
				strip(inner)
			}
		}
	case []any:
		for _, inner := range v {
			strip(inner)
		}
	}
}
