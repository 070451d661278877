package server

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a member cannot begin with is said, before it has begun.
func TestMemberRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, sealFile), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// An empty key would be one that each member makes up.
	_, err := StartMember(t.Context(), Member{Certificates: dir, Log: io.Discard})
	if err == nil || !strings.Contains(err.Error(), "seal.key has 0 bytes") {
		t.Errorf("empty seal.key: %v", err)
	}
	for _, tt := range []struct {
		address  string
		port     int
		database string
		says     string
	}{
		{"10.0.0.1", 7233, "postgres://temporal@db", ""},
		{"10.0.0.1", 301, "postgres://temporal@db:1/", ""},
		{"10.0.0.1", 300, "postgres://temporal@db", "port 300: want 301 to 65525"},
		{"10.0.0.1", 65526, "postgres://temporal@db", "port 65526"},
		{"0.0.0.0", 7233, "postgres://temporal@db", "address"},
		{"db.internal", 7233, "postgres://temporal@db", "address"},
		{"10.0.0.1", 7233, "postgres://db", "database: want"},
		{"10.0.0.1", 7233, "postgres://temporal@:5432", "database: want"},
		{"10.0.0.1", 7233, "postgres://temporal:secret@db/temporal", "database: want"},
	} {
		_, err := Member{Address: tt.address, Port: tt.port, Database: tt.database}.config()
		if (err == nil) != (tt.says == "") || err != nil && (!strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s:%d at %s: %v, want %q", tt.address, tt.port, tt.database, err, tt.says)
		}
	}
}

// The databases' addresses differ in the name; an sslmode of one's own takes the place of the certificates, other settings do not.
func TestMemberDatabase(t *testing.T) {
	const files = "sslcert=%2Fc%2Fdatabase.crt&sslkey=%2Fc%2Fdatabase.key&sslmode=verify-full&sslrootcert=%2Fc%2Fdatabase-ca.crt"
	for have, want := range map[string]string{
		"postgres://temporal@db":                                    "postgres://temporal@db:5432/temporal?" + files,
		"postgres://a%40b:p%20w@[fd00::1]:1?sslmode=disable":        "postgres://a%40b:p%20w@[fd00::1]:1/temporal?sslmode=disable",
		"postgres://temporal@db:1/?connect_timeout=5&sslrootcert=r": "postgres://temporal@db:1/temporal?connect_timeout=5&" + strings.Replace(files, "%2Fc%2Fdatabase-ca.crt", "r", 1),
	} {
		got, err := Member{Database: have, Certificates: "/c"}.address(mainDatabase)
		if err != nil || got.String() != want {
			t.Errorf("%s: %s, %v, want %s", have, got, err, want)
		}
	}
}
