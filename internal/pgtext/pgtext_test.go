package pgtext_test

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/almanac-run/almanac/internal/pgtext"
)

func TestMasked(t *testing.T) {
	for text, want := range map[string]string{
		// URLs.
		"postgres://u:hunter@h/db":               "postgres://u:***@h/db",
		"postgresql://u:hunter@h:5432,g:1/db":    "postgresql://u:***@h:5432,g:1/db",
		"postgres://u:hunt@er@h/db":              "postgres://u:***@h/db",
		"postgres://u:hun:ter@h/db":              "postgres://u:***@h/db",
		"postgres://:hunter@h/db":                "postgres://:***@h/db",
		"postgres://u:hunter@/db?host=/run/pg":   "postgres://u:***@/db?host=/run/pg",
		"postgres://u@h/db":                      "postgres://u@h/db",
		"postgres://h:5432/db?sslmode=require":   "postgres://h:5432/db?sslmode=require",
		`"postgres://u:hunter@h/db"`:             `"postgres://u:***@h/db"`,
		"http://ann:hunter@proxy.example.com:80": "http://ann:***@proxy.example.com:80",
		"s3://KEY:hunter@bucket/prefix":          "s3://KEY:***@bucket/prefix",
		// Percent-encoding.
		"postgres://u:hun%40t%2Fer@h/db":               "postgres://u:***@h/db",
		"postgres://a%40b:hunter@h/db":                 "postgres://a%40b:***@h/db",
		"postgres://h/db?pass%77ord=hunter":            "postgres://h/db?pass%77ord=***",
		"postgres://h/db?password=hun%26ter&user=u":    "postgres://h/db?password=***&user=u",
		"postgres://h/db?PASSWORD=hunter":              "postgres://h/db?PASSWORD=***",
		"postgres://h/db?sslpassword=hunter&user=u":    "postgres://h/db?sslpassword=***&user=u",
		"postgres://h/db?oauth_client_secret=hunter":   "postgres://h/db?oauth_client_secret=***",
		"postgres://u:p@h/db?host=h&password=hunter&x": "postgres://u:***@h/db?host=h&password=***&***",
		// Where a password may be read from is no password.
		"postgres://u@h/db?passfile=/etc/pgpass": "postgres://u@h/db?passfile=/etc/pgpass",
		"postgres:///?service=prod":              "postgres:///?service=prod",
		"service=prod passfile='/etc/pg pass'":   "service=prod passfile='/etc/pg pass'",
		// Words.
		"host=h password=hunter user=u":         "host=h password=*** user=u",
		"host=h password=hun&ter user=u":        "host=h password=*** user=u",
		"host=h password = hunter user=u":       "host=h password = *** user=u",
		"host=h password='hun ter' user=u":      "host=h password=*** user=u",
		`host=h password='hun\' ter' user=u`:    "host=h password=*** user=u",
		`host=h password='hunter\\' user=u`:     "host=h password=*** user=u",
		`host=h password=hun\ ter user=u`:       "host=h password=*** user=u",
		`host=h password=hunter\`:               "host=h password=***",
		"host=h password='' user=u":             "host=h password=*** user=u",
		"password='hunter' password=hunter2 x=": "password=*** password=*** x=",
		"user=u PASSWORD=hunter":                "user=u PASSWORD=***",
		"sslkey=k sslpassword=hunter":           "sslkey=k sslpassword=***",
		// Mistyped.
		"postgres://u:hun/ter@h/db":         "postgres://…",
		"postgres://u:12/hunter@h/db":       "postgres://…",
		"postgres://u:12#hunter@h/db":       "postgres://…",
		"postgres://u:12?hunter@h/db":       "postgres://…",
		"postgres://u:1@hun/ter@h/db":       "postgres://…",
		"postgres://u:hun ter@h/db":         "postgres://…",
		"postgres://u:hunter%@h/db":         "postgres://…",
		"postgres://u:hunter":               "postgres://…",
		"postgres://u:hunter@%zz/x":         "postgres://…",
		"postgres://h/db?password=a#hunter": "postgres://h/db?password=***#***",
		"postgres://h/db?password=a&hunter": "postgres://h/db?password=***&***",
		"host=h password='hunter user=u":    "host=h password=***",
		`host=h password='hunter\`:          "host=h password=***",
		// Others.
		".almanac/inventory.db":     ".almanac/inventory.db",
		"127.0.0.1:9464":            "127.0.0.1:9464",
		"http://127.0.0.1:9000":     "http://127.0.0.1:9000",
		"s3://bucket/prefix":        "s3://bucket/prefix",
		"":                          "",
		"https://h/a#b":             "https://h/a#***",
		"password=hunter http://h/": "password=*** http://h/",
	} {
		got := pgtext.Masked(text)
		if got != want || strings.Contains(got, "hun") || strings.Contains(got, "ter") && !strings.Contains(want, "ter") {
			t.Errorf("%s is shown as %s, want %s", text, got, want)
		}
		if again := pgtext.Masked(got); again != got && !strings.Contains(got, "…") {
			t.Errorf("%s is shown as %s, and that as %s", text, got, again)
		}
	}
}

// What pgx says of a string that it cannot read is still said, and the string is not.
func TestErrorsOfPgx(t *testing.T) {
	t.Setenv("PGSERVICEFILE", "/nonexistent")
	for address, want := range map[string]string{
		"postgres://u:hunter@h/db?port=none":                       "invalid port",
		"postgres://h/db?password=hunter&sslmode=strict":           "sslmode is invalid",
		"postgres://h/db?sslpassword=hunter&port=none":             "invalid port",
		"postgres://h/db?pass%77ord=hunter&port=none":              "invalid port",
		"postgres://u:hun%60%3A%20ter@h/db?port=none":              "invalid port",
		"postgres://h/db?password=1`: hunter&pool_max_conns=many":  "pool_max_conns",
		"postgres://u:hunter@h/db?sslcert=/nonexistent&sslkey=/no": "unable to read sslkey",
		"postgres://u:hunter@h/db?service=prod":                    "service file",
		"postgres://u:hun/ter@h/db":                                "%2F",
		"postgres://u:12/hunter@h/db":                              "%2F",
		"postgres://u:hunter%zz@h/db":                              "%25",
		"postgres://u:hun ter@h/db":                                "cannot be read as a URL",
		"postgres://u:hunter":                                      "cannot be read as a URL",
		"postgres://u:12#hunter@h/db":                              "%23",
	} {
		err := pgtext.Check(address)
		if err == nil {
			if _, err = pgxpool.ParseConfig(address); err == nil {
				t.Errorf("%s is taken", address)
				continue
			}
			err = pgtext.Unquoted(err)
		}
		if text := err.Error(); !strings.Contains(text, want) || strings.Contains(text, "hun") || strings.Contains(text, "ter@") {
			t.Errorf("%s: %s, want %s", address, text, want)
		}
	}
	// None is refused that pgx reads.
	for _, address := range []string{"postgres://u:hun%40ter@h/db", "postgres:///db?host=/run/pg&application_name=a@b", "postgresql://h:1,g:2/db"} {
		if _, err := pgx.ParseConfig(address); err != nil || pgtext.Check(address) != nil || !pgtext.Is(address) {
			t.Errorf("%s: %v, %v", address, err, pgtext.Check(address))
		}
	}
}
