package output_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/almanac-run/almanac/internal/output"
	"github.com/almanac-run/almanac/internal/output/postgres"
)

// A wrong key, a bucket that is not there, a wrong password: the error says so, without the secret.
func TestWrongCredentials(t *testing.T) {
	srv := fakeS3(t)
	ref := output.Ref("x", "s", "web-1")
	for want, s := range map[string]output.Central{
		"output store s3://outputs/p: s3 PutObject: InvalidAccessKeyId: ": bucketAs(t, srv, "s3://outputs/p", "OTHER"),
	} {
		err := s.Put(t.Context(), ref, strings.NewReader("x"), 1)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v, want %s", err, want)
		}
		if _, err := s.Size(t.Context(), ref); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("what may not be looked at is said not to be there: %v", err)
		}
	}
	if err := bucketAs(t, srv, "s3://outputs/p", "OTHER").Check(t.Context()); err == nil || !strings.Contains(err.Error(), "InvalidAccessKeyId") {
		t.Errorf("check: %v", err)
	}
	none := bucket(t, srv, "s3://elsewhere/p")
	if err := none.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "NoSuchBucket") {
		t.Errorf("a bucket that is not there: %v", err)
	}
	if _, err := none.ReadAt(t.Context(), ref, make([]byte, 1), 0); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a bucket that is not there: %v", err)
	}
	if err := bucket(t, srv, "s3://outputs/p").Check(t.Context()); err != nil {
		t.Error(err)
	}

	address := server.Database(t)
	err := databaseAt(t, strings.Replace(address, "hunter2-hunter2", "wrong-hunter2", 1)).Check(t.Context())
	if !postgres.Refused(err) || !strings.Contains(err.Error(), "password authentication failed") || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	// The password may come from outside, as libpq takes it.
	t.Setenv("PGPASSWORD", "hunter2-hunter2")
	if err := databaseAt(t, strings.Replace(address, ":hunter2-hunter2", "", 1)).Check(t.Context()); err != nil {
		t.Error(err)
	}
	if err := databaseAt(t, server.Address("elsewhere")).Check(t.Context()); !postgres.Refused(err) || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("a database that is not there: %v", err)
	}
}

// A server that is away when the worker starts is used once it is there.
func TestPostgresAwayAtStart(t *testing.T) {
	address := server.Database(t)
	socket := filepath.Join(t.TempDir(), "socket")
	s := databaseAt(t, strings.Replace(address, server.Dir(), socket, 1))
	ref := output.Ref("x", "s", "web-1")
	if err := s.Check(t.Context()); err == nil || postgres.Refused(err) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("%v", err)
	}
	if _, err := s.Size(t.Context(), ref); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what cannot be looked at is said not to be there: %v", err)
	}
	if err := os.Symlink(server.Dir(), socket); err != nil {
		t.Fatal(err)
	}
	put(t, s, ref, []byte("text"))
	if got, err := all(t.Context(), s, ref, 10); string(got) != "text" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

// While as many outputs come from slow nodes as the worker fetches at once, others are read and written.
func TestCentralWhileOthersAreSlow(t *testing.T) {
	each(t, func(t *testing.T, c output.Central) {
		const slow = 8 // fetches of package control
		ref := output.Ref("x", "s", "web-1")
		put(t, c, ref, []byte("text"))
		var writers sync.WaitGroup
		begun, end := make(chan struct{}, slow), make(chan struct{})
		for i := range slow {
			writers.Go(func() {
				from := &meddler{strings.NewReader("slow"), 0, func() { begun <- struct{}{}; <-end }}
				if err := c.Put(t.Context(), output.Ref("x", "s", fmt.Sprint("slow-", i)), from, 4); err != nil {
					t.Error(err)
				}
			})
		}
		for range slow {
			<-begun
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if got, err := all(ctx, c, ref, 10); string(got) != "text" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if err := c.Put(ctx, output.Ref("x", "s", "web-2"), strings.NewReader("text"), 4); err != nil {
			t.Error(err)
		}
		close(end)
		writers.Wait()
		if got := names(t, c); len(got) != slow+2 {
			t.Errorf("there is %q", got)
		}
	})
}

// meddler calls do when so much was read.
type meddler struct {
	r  io.Reader
	at int
	do func()
}

func (m *meddler) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if m.at -= n; m.at < 0 && m.do != nil {
		m.do()
		m.do = nil
	}
	return n, err
}

// PostgreSQL ends the connection in the middle, as when it restarts: nothing is visible, no large object is left, and
// the next attempt does it. The same store is used, which finds another connection.
func TestPostgresConnectionLost(t *testing.T) {
	address := server.Database(t)
	s := databaseAt(t, address)
	if err := s.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	look, err := pgx.Connect(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer look.Close(t.Context())
	objects := func() (n int) {
		if err := look.QueryRow(t.Context(), "select count(*) from pg_largeobject_metadata").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	b, ref := filler(8<<20), output.Ref("x", "s", "web-1")
	cut := func() {
		if _, err := look.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"); err != nil {
			t.Error(err)
		}
	}
	if err := s.Put(t.Context(), ref, &meddler{bytes.NewReader(b), len(b) / 2, cut}, int64(len(b))); err == nil {
		t.Error("it is taken")
	}
	if _, err := s.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || objects() != 0 {
		t.Errorf("%v, and %d large objects", err, objects())
	}
	for range 3 { // each takes the place of the one before
		if err := s.Put(t.Context(), ref, bytes.NewReader(b), int64(len(b))); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := all(t.Context(), s, ref, 1<<20); err != nil || !bytes.Equal(got, b) || objects() != 1 {
		t.Errorf("%d bytes, %v, %d large objects", len(got), err, objects())
	}
	if err := s.Expire(t.Context(), ref, "expired"); err != nil || objects() != 0 {
		t.Errorf("after it expired: %v, %d large objects", err, objects())
	}
}

// S3 fails in the middle: the parts are taken away again, and nothing is visible.
func TestS3ConnectionLost(t *testing.T) {
	srv := fakeS3(t)
	inner := srv.Config.Handler
	broken, aborted := false, 0
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete && r.URL.Query().Has("uploadId") {
			aborted++
		}
		if broken && r.Method == http.MethodPut {
			panic(http.ErrAbortHandler) // the connection ends without an answer
		}
		inner.ServeHTTP(w, r)
	})
	s := bucket(t, srv, "s3://outputs")
	b, ref := filler(20<<20), output.Ref("x", "s", "web-1")
	err := s.Put(t.Context(), ref, &meddler{bytes.NewReader(b), len(b) / 2, func() { broken = true }}, int64(len(b)))
	if err == nil || aborted != 1 {
		t.Errorf("%v, %d uploads were aborted", err, aborted)
	}
	broken = false
	if _, err := s.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || len(names(t, s)) > 0 {
		t.Errorf("%v, %q", err, names(t, s))
	}
	if err := s.Put(t.Context(), ref, bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	if got, err := all(t.Context(), s, ref, 1<<20); err != nil || !bytes.Equal(got, b) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// Parts that a worker left behind which was killed go after a day; those of an upload that goes on, and of others, stay.
func TestS3PartsLeftBehind(t *testing.T) {
	upload := func(key string, age time.Duration) string {
		return fmt.Sprintf("<Upload><Key>%s</Key><UploadId>%s</UploadId><Initiated>%s</Initiated></Upload>", key, "id", time.Now().Add(-age).UTC().Format(time.RFC3339))
	}
	var aborted []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch q := r.URL.Query(); {
		case r.Method == http.MethodDelete && q.Has("uploadId"):
			aborted = append(aborted, r.URL.Path)
			w.WriteHeader(http.StatusNoContent)
		case q.Has("uploads"):
			fmt.Fprint(w, "<ListMultipartUploadsResult>", upload("p/x/s/old.log", 25*time.Hour), upload("p/x/s/new.log", 23*time.Hour), upload("p/backup.tar", 99*time.Hour), "</ListMultipartUploadsResult>")
		default:
			fmt.Fprint(w, "<ListBucketResult></ListBucketResult>")
		}
	}))
	t.Cleanup(srv.Close)
	if got := names(t, bucket(t, srv, "s3://outputs/p")); len(got) > 0 {
		t.Error(got)
	}
	if len(aborted) != 1 || aborted[0] != "/outputs/p/x/s/old.log" {
		t.Errorf("aborted: %q", aborted)
	}
}

// A directory's worker is killed while it writes: nobody sees the half, the next attempt does it, and what was left
// goes after a day. Others' files stay.
func TestDirectoryLeftBehind(t *testing.T) {
	dir := t.TempDir()
	c := output.InDir(dir)
	ref := output.Ref("x", "s", "web-1")
	half, foreign := filepath.Join(dir, "x/s/.put-123"), filepath.Join(dir, "x/s/notes.txt")
	if err := os.MkdirAll(filepath.Dir(half), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{half, foreign} {
		if err := os.WriteFile(file, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Size(t.Context(), ref); !errors.Is(err, fs.ErrNotExist) || len(names(t, c)) > 0 {
		t.Errorf("%v, %q", err, names(t, c))
	}
	if _, err := os.Stat(half); err != nil {
		t.Errorf("what may still be written is gone: %v", err)
	}
	old := time.Now().Add(-25 * time.Hour)
	for _, file := range []string{half, foreign} {
		if err := os.Chtimes(file, old, old); err != nil {
			t.Fatal(err)
		}
	}
	put(t, c, ref, []byte("whole"))
	names(t, c)
	if _, err := os.Stat(half); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it is still there")
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

// A full disk is an error, leaves nothing behind that takes space, and what was there stays.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=700"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("a file system of its own needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c := output.InDir(dir)
	ref := output.Ref("x", "s", "web-1")
	put(t, c, ref, []byte("before"))
	if err := c.Put(t.Context(), ref, &endless{}, 2<<20); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if got, err := all(t.Context(), c, ref, 100); string(got) != "before" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	put(t, c, output.Ref("x", "s", "web-2"), filler(800<<10)) // there is room again
	// A disk that is full does not keep what is old from being removed.
	if err := c.Put(context.Background(), output.Ref("x", "s", "web-3"), &endless{}, 400<<10); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if err := c.Expire(t.Context(), output.Ref("x", "s", "web-2"), "expired"); err != nil {
		t.Error(err)
	}
	put(t, c, output.Ref("x", "s", "web-4"), filler(700<<10))
}
