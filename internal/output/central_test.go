package output_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/output/postgres"
	"github.com/almanac-run/almanac/internal/output/s3"
	"github.com/almanac-run/almanac/internal/pgtest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	server.Stop()
	os.Exit(code)
}

// backEnds are the stores that one suite holds to the contract of output.Central.
var backEnds = []struct {
	name string
	open func(t testing.TB) output.Central
}{
	{"directory", func(t testing.TB) output.Central { return output.InDir(filepath.Join(t.TempDir(), "central")) }},
	{"s3", func(t testing.TB) output.Central { return bucket(t, fakeS3(t), "s3://outputs/almanac/one") }},
	{"postgres", func(t testing.TB) output.Central { return database(t) }},
}

func each(t *testing.T, test func(t *testing.T, c output.Central)) {
	for _, b := range backEnds {
		t.Run(b.name, func(t *testing.T) { test(t, b.open(t)) })
	}
}

// fakeS3 is a server with the bucket "outputs"; who signs with another key than KEY is refused.
func fakeS3(t testing.TB) *httptest.Server {
	t.Helper()
	backend := s3mem.New()
	if err := backend.CreateBucket("outputs"); err != nil {
		t.Fatal(err)
	}
	fake := gofakes3.New(backend, gofakes3.WithLogger(gofakes3.DiscardLog()), gofakes3.WithTimeSkewLimit(0)).Server()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.Contains(r.Header.Get("Authorization"), "Credential=KEY/") {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprint(w, `<?xml version="1.0"?><Error><Code>InvalidAccessKeyId</Code><Message>The AWS Access Key Id you provided does not exist in our records.</Message></Error>`)
			return
		}
		fake.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

func bucket(t testing.TB, srv *httptest.Server, address string) *s3.Store {
	t.Helper()
	return bucketAs(t, srv, address, "KEY")
}

func bucketAs(t testing.TB, srv *httptest.Server, address, key string) *s3.Store {
	t.Helper()
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": "hunter2-hunter2", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	aws, err := awsapi.New(t.Context(), awsapi.Options{Region: "eu-central-1", Endpoint: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	s, err := s3.New(aws, aws.Models(), address)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// server is one PostgreSQL for all tests, started by the first that needs it.
var server pgtest.Server

func database(t testing.TB) *postgres.Store {
	t.Helper()
	return databaseAt(t, server.Database(t))
}

func databaseAt(t testing.TB, address string) *postgres.Store {
	t.Helper()
	s, err := postgres.New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// filler is a text that differs at each place.
func filler(n int) []byte {
	b := make([]byte, 0, n+32)
	for i := 0; len(b) < n; i++ {
		b = fmt.Appendf(b, "line %d of an output, ä\n", i)
	}
	return b[:n]
}

func put(t testing.TB, c output.Central, ref string, b []byte) {
	t.Helper()
	if err := c.Put(t.Context(), ref, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
}

// all reads an output as a program does that has a small buffer.
func all(ctx context.Context, c output.Central, ref string, block int) ([]byte, error) {
	var b []byte
	p := make([]byte, block)
	for {
		n, err := c.ReadAt(ctx, ref, p, int64(len(b)))
		b = append(b, p[:n]...)
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			return b, err
		}
	}
}

// names lists what is there: outputs with their sizes, notes with a -.
func names(t testing.TB, c output.Central) []string {
	t.Helper()
	found := []string{}
	if err := c.List(t.Context(), func(e output.Entry) error {
		if time.Since(e.At) > time.Hour || time.Until(e.At) > time.Hour {
			t.Errorf("%s is of %s", e.Ref, e.At)
		}
		if e.Note {
			found = append(found, "-"+e.Ref)
		} else {
			found = append(found, fmt.Sprintf("%s %d", e.Ref, e.Size))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(found)
	return found
}

func TestCentralKeeps(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		for name, b := range map[string][]byte{
			"empty": {}, "short": []byte("one\n"), "binary": {0, 255, 10, 13, 0}, "of more than one block": filler(700 << 10), "of several parts": filler(20<<20 + 7),
		} {
			ref := output.Ref("x/1", name+"[3].y#2", "web-1")
			if _, err := c.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: size before: %v", name, err)
			}
			if _, err := c.ReadAt(t.Context(), ref, make([]byte, 9), 0); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: read before: %v", name, err)
			}
			put(t, c, ref, b)
			size, err := c.Size(t.Context(), ref)
			got, rerr := all(t.Context(), c, ref, 256<<10)
			if err != nil || rerr != nil || size != int64(len(b)) || !bytes.Equal(got, b) {
				t.Errorf("%s: %d bytes, %d read, want %d; %v, %v", name, size, len(got), len(b), err, rerr)
			}
		}
	})
}

func TestCentralReadAt(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		ref := output.Ref("x", "s", "web-1")
		put(t, c, ref, []byte("0123456789"))
		for _, tt := range []struct {
			offset int64
			length int
			want   string
			end    bool
		}{{0, 4, "0123", false}, {8, 4, "89", true}, {10, 4, "", true}, {99, 4, "", true}, {6, 3, "678", false}, {0, 0, "", false}} {
			p := make([]byte, tt.length)
			n, err := c.ReadAt(t.Context(), ref, p, tt.offset)
			if string(p[:n]) != tt.want || (err == io.EOF) != tt.end || err != nil && err != io.EOF {
				t.Errorf("%+v: %q, %v", tt, p[:n], err)
			}
		}
		if _, err := c.ReadAt(t.Context(), ref, make([]byte, 1), -1); err == nil {
			t.Error("read before the beginning")
		}
	})
}

// A second Put takes the place of the first, for readers at once and as a whole.
func TestCentralReplaces(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		ref := output.Ref("x", "s", "web-1")
		a, b := bytes.Repeat([]byte("a"), 300<<10), bytes.Repeat([]byte("b"), 400<<10)
		put(t, c, ref, a)
		ctx, stop := context.WithCancel(t.Context())
		var readers sync.WaitGroup
		for range 4 {
			readers.Go(func() {
				p := make([]byte, 512<<10)
				for ctx.Err() == nil {
					n, err := c.ReadAt(t.Context(), ref, p, 0)
					if err != io.EOF || !bytes.Equal(p[:n], a) && !bytes.Equal(p[:n], b) {
						t.Errorf("%d bytes that begin with %q: %v", n, p[:min(n, 1)], err)
						return
					}
				}
			})
		}
		for i := range 20 {
			put(t, c, ref, [][]byte{b, a}[i%2])
		}
		stop()
		readers.Wait()
		if got := names(t, c); !slices.Equal(got, []string{fmt.Sprintf("%s %d", ref, len(a))}) {
			t.Errorf("there is %q", got)
		}
	})
}

// failing gives some of an output and then an error.
type failing struct {
	io.Reader
	err error
}

func (f failing) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

// Of an output that does not come as a whole nothing is there, and what was there before is there still.
func TestCentralIsWhole(t *testing.T) {
	lost := errors.New("the node does not answer")
	each(t, func(t *testing.T, c output.Central) {
		for i, tt := range []struct {
			name string
			from func(b []byte) io.Reader
		}{
			{"it is shorter", func(b []byte) io.Reader { return bytes.NewReader(b[:len(b)-1]) }},
			{"the connection is lost", func(b []byte) io.Reader { return failing{bytes.NewReader(b[:len(b)/2]), lost} }},
			{"an error that looks like an end", func(b []byte) io.Reader {
				return failing{bytes.NewReader(b[:len(b)/2]), fmt.Errorf("node: %w", io.ErrUnexpectedEOF)}
			}},
			{"another error that looks like an end", func(b []byte) io.Reader {
				return failing{bytes.NewReader(b[:len(b)/2]), fmt.Errorf("node: %w", io.EOF)}
			}},
		} {
			for _, size := range []int{1000, 20 << 20} {
				b, ref := filler(size), output.Ref("x", fmt.Sprint("s", i, size), "web-1")
				for _, before := range []string{"", "before"} {
					if before != "" {
						put(t, c, ref, []byte(before))
					}
					if err := c.Put(t.Context(), ref, tt.from(b), int64(size)); err == nil {
						t.Errorf("%s, %d bytes: it is taken", tt.name, size)
					}
					got, err := all(t.Context(), c, ref, 1<<20)
					if before == "" && !errors.Is(err, fs.ErrNotExist) || string(got) != before {
						t.Errorf("%s, %d bytes: %d bytes are there, %v", tt.name, size, len(got), err)
					}
				}
			}
		}
		if got := names(t, c); len(got) != 8 {
			t.Errorf("there is %q", got)
		}
	})
}

// A node may say of an output what it likes.
func TestCentralOfImpossibleSize(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		for _, size := range []int64{-1, -1 << 63, 1<<63 - 1} {
			if err := c.Put(t.Context(), output.Ref("x", "s", "web-1"), strings.NewReader("text"), size); err == nil {
				t.Errorf("%d bytes: it is taken", size)
			}
		}
		if got := names(t, c); len(got) > 0 {
			t.Errorf("there is %q", got)
		}
	})
}

// cancelling cancels when half of it is read.
type cancelling struct {
	io.Reader
	left   int
	cancel func()
}

func (c *cancelling) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	if c.left -= n; c.left < 0 {
		c.cancel()
	}
	return n, err
}

// A worker that is stopped in the middle leaves nothing, and the next one begins anew.
func TestCentralIsStopped(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		b, ref := filler(20<<20), output.Ref("x", "s", "web-1")
		ctx, cancel := context.WithCancel(t.Context())
		err := c.Put(ctx, ref, &cancelling{bytes.NewReader(b), len(b) / 2, cancel}, int64(len(b)))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("stopped: %v", err)
		}
		if _, err := c.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || len(names(t, c)) > 0 {
			t.Errorf("something is there: %v, %q", err, names(t, c))
		}
		put(t, c, ref, b)
		if got, err := all(t.Context(), c, ref, 1<<20); err != nil || !bytes.Equal(got, b) {
			t.Errorf("the second time: %d bytes, %v", len(got), err)
		}
	})
}

func TestCentralExpires(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		ref, other := output.Ref("x", "s", "web-1"), output.Ref("x", "s", "web-2")
		put(t, c, ref, filler(9<<20))
		put(t, c, other, []byte("stays"))
		const note = "expired on 2026-11-20 (kept for 30d)"
		for range 2 { // twice does no harm
			if err := c.Expire(t.Context(), ref, note); err != nil {
				t.Fatal(err)
			}
		}
		var expired *output.ExpiredError
		_, err := c.ReadAt(t.Context(), ref, make([]byte, 10), 0)
		if !errors.As(err, &expired) || !errors.Is(err, fs.ErrNotExist) || expired.Note != note || !strings.Contains(err.Error(), ref+" "+note) {
			t.Errorf("read: %v", err)
		}
		if _, err := c.Size(t.Context(), ref); !errors.As(err, &expired) {
			t.Errorf("size: %v", err)
		}
		if got := names(t, c); !slices.Equal(got, []string{"-" + ref, other + " 5"}) {
			t.Errorf("there is %q", got)
		}
		for range 2 {
			if err := c.Forget(t.Context(), ref); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := c.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || errors.As(err, &expired) {
			t.Errorf("after the note: %v", err)
		}
		// It comes again, after all.
		if err := c.Expire(t.Context(), other, note); err != nil {
			t.Fatal(err)
		}
		put(t, c, other, []byte("again"))
		if got := names(t, c); !slices.Equal(got, []string{other + " 5"}) {
			t.Errorf("there is %q", got)
		}
		if err := c.Forget(t.Context(), other); err != nil {
			t.Fatal(err)
		}
		if got, err := all(t.Context(), c, other, 10); string(got) != "again" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	})
}

// No reference leads out of the store.
func TestCentralRefuses(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		put(t, c, output.Ref("x", "s", "web-1"), []byte("inside"))
		for _, ref := range []string{
			"", "a.log", "../b/c.log", "a/../c.log", "a/b/..log", "/a/b.log", "a//c.log", "a/b/c/d.log", "a/b/c", "../../x/s/web-1.log",
			"x/../x/s/web-1.log", "x/s/web-1.expired", "x/s/.put-1.log", "a/b\x00/c.log", `a/..\x/c.log`, "a/ü/c.log", "a/b/" + strings.Repeat("c", 300) + ".log",
		} {
			if err := c.Put(t.Context(), ref, strings.NewReader("x"), 1); err == nil {
				t.Errorf("Put(%q) is accepted", ref)
			}
			if _, err := c.ReadAt(t.Context(), ref, make([]byte, 1), 0); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("ReadAt(%q): %v", ref, err)
			}
			if _, err := c.Size(t.Context(), ref); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("Size(%q): %v", ref, err)
			}
			if c.Expire(t.Context(), ref, "x") == nil || c.Forget(t.Context(), ref) == nil {
				t.Errorf("%q is removed", ref)
			}
		}
		if got := names(t, c); len(got) != 1 {
			t.Errorf("there is %q", got)
		}
	})
}

// More outputs than a page of any back end lists.
func TestCentralListsMany(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		const n = 2100
		for i := range n {
			put(t, c, output.Ref("x", "s", fmt.Sprint("node-", i)), []byte("x"))
		}
		if got := len(names(t, c)); got != n {
			t.Errorf("%d, want %d", got, n)
		}
		enough := errors.New("enough")
		seen := 0
		if err := c.List(t.Context(), func(output.Entry) error {
			if seen++; seen == 3 {
				return enough
			}
			return nil
		}); !errors.Is(err, enough) || seen != 3 {
			t.Errorf("%v after %d", err, seen)
		}
	})
}

// endless gives size bytes without having them.
type endless struct{ n byte }

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		e.n++
		p[i] = e.n
	}
	return len(p), nil
}

// 100 MiB go in and out within bounded memory. What the fake S3 keeps is not ours: so it hashes
// and forgets here.
func TestCentralBoundsMemory(t *testing.T) {
	const size = 100 << 20
	for _, b := range backEnds {
		t.Run(b.name, func(t *testing.T) {
			var c output.Central
			if b.name == "s3" {
				c = bucket(t, forgetful(t), "s3://outputs")
			} else {
				c = b.open(t)
			}
			ref := output.Ref("x", "s", "web-1")
			var most atomic.Uint64
			ctx, stop := context.WithCancel(t.Context())
			var watching sync.WaitGroup
			watching.Go(func() {
				for ctx.Err() == nil {
					var m runtime.MemStats
					runtime.ReadMemStats(&m)
					most.Store(max(most.Load(), m.HeapAlloc))
					time.Sleep(20 * time.Millisecond)
				}
			})
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			began := time.Now()
			if err := c.Put(t.Context(), ref, &endless{}, size); err != nil {
				t.Fatal(err)
			}
			in := time.Since(began)
			if b.name != "s3" {
				h, want := sha256.New(), sha256.New()
				p := make([]byte, 256<<10)
				for at := int64(0); ; {
					n, err := c.ReadAt(t.Context(), ref, p, at)
					h.Write(p[:n])
					at += int64(n)
					if err == io.EOF || n == 0 {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
				}
				io.Copy(want, io.LimitReader(&endless{}, size))
				if !bytes.Equal(h.Sum(nil), want.Sum(nil)) {
					t.Error("it is another")
				}
			}
			stop()
			watching.Wait()
			grown := (most.Load() - min(most.Load(), m.HeapAlloc)) >> 20
			t.Logf("100 MiB: in within %.1f s, out within %.1f s, at most %d MiB of memory", in.Seconds(), (time.Since(began) - in).Seconds(), grown)
			if grown > 48 {
				t.Errorf("it takes %d MiB of memory", grown)
			}
		})
	}
}

// forgetful takes the parts of one upload without keeping them.
func forgetful(t testing.TB) *httptest.Server {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch {
		case r.Method == http.MethodPost && r.URL.Query().Has("uploads"):
			fmt.Fprint(w, `<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>`)
		case r.Method == http.MethodPost:
			fmt.Fprint(w, `<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>`)
		case r.Method == http.MethodPut:
			w.Header().Set("ETag", `"1"`)
		}
	}))
	t.Cleanup(srv.Close)
	return srv
}
