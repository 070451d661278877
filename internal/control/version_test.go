package control

import "testing"

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		deployment, build string
		ok, versioned     bool
	}{
		{"", "", true, false},
		{"almanac", "1.4.0", true, true},
		{"almanac", "v0.0.0-20261126013000-e2cc147a1b2c+dirty", true, true},
		{"almanac", "", false, false},
		{"", "1.4.0", false, false},
		{"al.manac", "1", false, false},
		{"al:manac", "1", false, false},
		{"__almanac", "1", false, false},
		{"almanac", "(devel)", false, false},
		{"almanac", "unversioned", false, false},
		{"almanac", "__unversioned__", false, false},
	} {
		v, err := Options{Deployment: tt.deployment, BuildID: tt.build}.version()
		if (err == nil) != tt.ok || v.UseVersioning != tt.versioned {
			t.Errorf("%q %q: %+v, %v", tt.deployment, tt.build, v, err)
		}
	}
}
