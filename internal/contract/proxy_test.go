package contract

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// kind is what the proxy does to a call.
type kind string

const (
	passOn      kind = ""
	dropRequest kind = "lost request" // it never arrives; the connection breaks
	loseReply   kind = "lost reply"   // it is carried out; the connection breaks
	delay       kind = "delay"        // it arrives later
	throttle    kind = "throttled"    // the service's own error for it
	fail500     kind = "error 500"    // of the service, and no effect
)

// fault is a line of a script: what becomes of some calls. The first line that
// applies to a call decides.
type fault struct {
	kind               kind
	service, operation string // "" is any; a REST operation is its HTTP method
	reads              bool   // also calls that only read; else they pass
	from, times        int    // the first that meets it, from 1; how many: 0 is 1, -1 all that follow
	wait               time.Duration
}

// chance is a script by lot: shares from 0 to 1. What becomes of a call depends
// on the seed and on which of the calls of its operation it is; not on those of
// others, nor on ids, which a server makes up anew each time.
type chance struct {
	seed                                             uint64
	dropRequest, loseReply, delay, throttle, fail500 float64
	wait                                             time.Duration // of delay, at most
}

// arrival is a call as the proxy sees it.
type arrival struct {
	service, operation, protocol string
	met                          kind
}

var reading = regexp.MustCompile(`^(Describe|List|Get|Head|BatchGet|AssumeRole|GET$|HEAD$)`)

func (a arrival) writes() bool { return !reading.MatchString(a.operation) }

// script says what becomes of calls, and remembers them.
type script struct {
	mu      sync.Mutex
	faults  []fault
	chance  chance
	matched []int
	came    map[string]int
	log     []arrival
}

// set begins another script; what came before is forgotten.
func (s *script) set(faults ...fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults, s.matched, s.log, s.chance, s.came = faults, make([]int, len(faults)), nil, chance{}, nil
}

// setChance begins a script by lot.
func (s *script) setChance(c chance) {
	s.set()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chance = c
}

// arrivals are the calls that came so far, with what became of them.
func (s *script) arrivals() []arrival {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// meets decides what becomes of a call.
func (s *script) meets(a arrival) fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	met := fault{}
	for i, f := range s.faults {
		if f.service != "" && f.service != a.service || f.operation != "" && f.operation != a.operation || !f.reads && !a.writes() {
			continue
		}
		s.matched[i]++
		n, from, times := s.matched[i], max(f.from, 1), f.times
		if times == 0 {
			times = 1
		}
		if met.kind == passOn && n >= from && (times < 0 || n < from+times) {
			met = f
		}
	}
	if met.kind == passOn {
		met = s.drawn(a)
	}
	a.met = met.kind
	s.log = append(s.log, a)
	return met
}

// drawn draws the lot of a call.
func (s *script) drawn(a arrival) fault {
	if s.chance == (chance{}) {
		return fault{}
	}
	called := a.service + " " + a.operation
	if s.came == nil {
		s.came = map[string]int{}
	}
	s.came[called]++
	h := sha256.Sum256(fmt.Appendf(nil, "%d %s %d", s.chance.seed, called, s.came[called]))
	share := func(at int) float64 { return float64(binary.BigEndian.Uint64(h[at:])>>11) / (1 << 53) }
	left := share(0)
	for _, of := range []struct {
		kind  kind
		share float64
	}{
		{dropRequest, s.chance.dropRequest}, {loseReply, s.chance.loseReply}, {delay, s.chance.delay},
		{throttle, s.chance.throttle}, {fail500, s.chance.fail500},
	} {
		if left -= of.share; left < 0 {
			return fault{kind: of.kind, wait: time.Duration(share(8) * float64(s.chance.wait))}
		}
	}
	return fault{}
}

// proxy stands between our client and a server of AWS's protocols.
type proxy struct {
	script
	address string
	reverse *httputil.ReverseProxy
}

// newProxy makes a proxy of a host; it ends with the test.
func newProxy(t testing.TB, host string) *proxy {
	p := &proxy{}
	p.reverse = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: host})
			r.Out.Host = r.In.Host // it is signed
		},
		Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() == nil {
				t.Errorf("proxy: %s %s: %v", r.Method, r.URL, err)
			}
			panic(http.ErrAbortHandler)
		},
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.address = strings.TrimPrefix(server.URL, "http://")
	return p
}

// ServeHTTP does with a call what the script says.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // who called has gone
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	a := arrivalOf(r, body)
	met := p.meets(a)
	switch met.kind {
	case dropRequest:
		panic(http.ErrAbortHandler) // net/http's way to break a connection
	case loseReply:
		p.reverse.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	case throttle:
		a.refuse(w, true)
		return
	case fail500:
		a.refuse(w, false)
		return
	case delay:
		select {
		case <-time.After(met.wait):
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
	p.reverse.ServeHTTP(w, r)
}

var credential = regexp.MustCompile(`Credential=[^/]+/\d+/[^/]*/([^/]+)/aws4_request`)

// arrivalOf finds out what is called, and how: the service is in the signature.
func arrivalOf(r *http.Request, body []byte) arrival {
	a := arrival{operation: r.Method, protocol: "rest-json"}
	if m := credential.FindStringSubmatch(r.Header.Get("Authorization")); m != nil {
		a.service = m[1]
	}
	target := r.Header.Get("X-Amz-Target")
	switch {
	case r.Header.Get("Smithy-Protocol") == "rpc-v2-cbor":
		a.protocol = "cbor"
		a.operation = r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	case target != "":
		a.protocol = "json"
		a.operation = target[strings.LastIndexByte(target, '.')+1:]
	case strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded"):
		a.protocol = "query"
		if form, err := url.ParseQuery(string(body)); err == nil {
			a.operation = form.Get("Action")
		}
		if a.service == "ec2" {
			a.protocol = "ec2"
		}
	case a.service == "s3":
		a.protocol = "rest-xml"
	}
	return a
}

// refuse answers in the protocol of the call as its service does when it
// throttles, or when it fails within.
func (a arrival) refuse(w http.ResponseWriter, throttled bool) {
	say := func(status int, kind, format string, code, message string) {
		w.Header().Set("Content-Type", kind)
		w.Header().Set("X-Amzn-Requestid", "00000000-0000-4000-8000-000000000000")
		w.WriteHeader(status)
		fmt.Fprintf(w, format, code, message)
	}
	pick := func(status int, code, failed string) (int, string, string) {
		if throttled {
			return status, code, "Rate exceeded"
		}
		return http.StatusInternalServerError, failed, "An internal error has occurred"
	}
	switch a.protocol {
	case "ec2":
		status, code, message := pick(http.StatusServiceUnavailable, "RequestLimitExceeded", "InternalError")
		say(status, "text/xml", "<Response><Errors><Error><Code>%s</Code><Message>%s</Message></Error></Errors><RequestID>0</RequestID></Response>", code, message)
	case "query":
		status, code, message := pick(http.StatusBadRequest, "Throttling", "InternalFailure")
		say(status, "text/xml", "<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>0</RequestId></ErrorResponse>", code, message)
	case "rest-xml":
		status, code, message := pick(http.StatusServiceUnavailable, "SlowDown", "InternalError")
		say(status, "application/xml", "<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
	case "json":
		status, code, message := pick(http.StatusBadRequest, "ThrottlingException", "InternalServerError")
		say(status, "application/x-amz-json-1.1", `{"__type":"%s","message":"%s"}`, code, message)
	case "rest-json":
		status, code, message := pick(http.StatusTooManyRequests, "TooManyRequestsException", "ServiceException")
		w.Header().Set("X-Amzn-Errortype", code)
		say(status, "application/json", `{"Code":"%s","message":"%s"}`, code, message)
	default:
		http.Error(w, "the proxy cannot refuse in "+a.protocol, http.StatusInternalServerError)
	}
}
