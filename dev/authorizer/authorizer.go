// Package authorizer says who may do what at a Temporal server that runs Almanac.
//
// It gives New, an authorizer and a claim mapper for go.temporal.io/server. It promises that a caller is who a
// certificate or a signed token says and nobody else, that each role may call the methods that rules.go lists for it
// and no other, a method that is new included, and that an agent gets and reports the work of its own node only.
// It refuses to look into payloads, which may be encrypted: what an execution does with its input is the interpreter's to check.
package authorizer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/server/common/authorization"
	"go.temporal.io/server/common/config"
	"go.temporal.io/server/temporal"
	"google.golang.org/protobuf/proto"
)

// Options of an authorizer. Certificates count always, as the server verifies them; tokens if Tokens is given.
type Options struct {
	Namespace    string   // where everybody but an admin has rights; required
	ControlQueue []string // task queues of control workers; empty: almanac
	TrustDomain  string   // of the spiffe:// names in certificates; empty: almanac
	Tokens       *Tokens  // nil: no token is good

	// SealKey ties tasks to the agent that they were given to, at least 32 bytes. All servers of a cluster need the same,
	// and a server that starts again needs the one it had: else agents cannot report what they have done. Empty: a random one.
	SealKey []byte

	// Denied is told of each refusal; nil: nobody is. It must not block.
	Denied func(who, method, why string)
}

// Authorizer decides about every call of a server's frontend.
type Authorizer struct {
	o    Options
	keys *keys // nil without tokens
}

var (
	_ authorization.Authorizer  = (*Authorizer)(nil)
	_ authorization.ClaimMapper = (*Authorizer)(nil)
)

// Dynamic is the dynamic configuration that goes with an authorizer: refusals say why, and events in a history say who
// caused them, which the server knows and clients cannot forge.
var Dynamic = map[string]any{
	"frontend.exposeAuthorizerErrors":     true,
	"frontend.enablePrincipalPropagation": true,
}

// New checks the options and reads the keys of tokens.
func New(o Options) (*Authorizer, error) {
	if o.Namespace == "" {
		return nil, errors.New("authorizer: Namespace is required")
	}
	if len(o.ControlQueue) == 0 {
		o.ControlQueue = []string{"almanac"}
	}
	if o.TrustDomain == "" {
		o.TrustDomain = "almanac"
	}
	switch {
	case len(o.SealKey) == 0:
		o.SealKey = make([]byte, 32)
		if _, err := rand.Read(o.SealKey); err != nil {
			return nil, fmt.Errorf("authorizer: %w", err)
		}
	case len(o.SealKey) < 32:
		return nil, fmt.Errorf("authorizer: the seal key has %d bytes, want 32 or more", len(o.SealKey))
	}
	a := &Authorizer{o: o}
	if o.Tokens != nil {
		var err error
		if a.keys, err = o.Tokens.open(); err != nil {
			return nil, fmt.Errorf("authorizer: %w", err)
		}
	}
	return a, nil
}

// ServerOptions make a server ask the authorizer. Its own parts must call an internal-frontend service, which asks
// nobody, and which only they may reach: by TLS between the nodes of the cluster.
func (a *Authorizer) ServerOptions() []temporal.ServerOption {
	return []temporal.ServerOption{
		temporal.WithAuthorizer(a),
		temporal.WithClaimMapper(func(*config.Config) authorization.ClaimMapper { return a }),
		temporal.WithChainedFrontendGrpcInterceptors(a.seal),
	}
}

// TakesTokens tells whether callers may come with a token in place of a certificate.
func (a *Authorizer) TakesTokens() bool { return a.keys != nil }

// GetClaims finds out who calls. A token decides if there is one; the certificate then only opened the connection.
// Who cannot be known is nobody, with a reason: the answer to the call must not tell more than that.
func (a *Authorizer) GetClaims(info *authorization.AuthInfo) (*authorization.Claims, error) {
	var who Identity
	var err error
	kind := "mtls"
	switch cert := authorization.PeerCert(info.TLSConnection); {
	case info.AuthToken != "":
		kind = "jwt"
		who, err = a.fromToken(info.AuthToken)
	case cert != nil:
		who, err = fromCertificate(cert, a.o.TrustDomain)
	default:
		err = errNobody
	}
	if err != nil {
		return &authorization.Claims{Extensions: nobody{err}}, nil
	}
	return &authorization.Claims{Subject: who.String(), AuthType: kind, Extensions: who}, nil
}

// nobody is a caller whose certificate or token is not good.
type nobody struct{ why error }

var errNobody = errors.New("no client certificate and no token: connect with one (TEMPORAL_TLS_CLIENT_CERT_PATH, TEMPORAL_API_KEY)")

// Authorize decides about one call. A refusal is an error that says who may not do what, and why.
func (a *Authorizer) Authorize(_ context.Context, claims *authorization.Claims, target *authorization.CallTarget) (authorization.Result, error) {
	who, err := known(claims)
	switch {
	case err == nil && who.Role == server:
		return authorization.Result{Decision: authorization.DecisionAllow, Principal: &commonpb.Principal{Type: claims.AuthType, Name: claims.Subject}}, nil
	case err == nil:
		err = a.decide(who, target)
	}
	if err != nil {
		if a.o.Denied != nil {
			name := "nobody"
			if who.Role != "" {
				name = who.String()
			}
			a.o.Denied(name, target.APIName, err.Error())
		}
		denied := &serviceerror.PermissionDenied{Message: err.Error()}
		if target.Request == nil {
			return authorization.Result{Decision: authorization.DecisionDeny}, denied.Status().Err() // of a stream the server passes errors on as they are
		}
		return authorization.Result{Decision: authorization.DecisionDeny}, denied
	}
	return authorization.Result{
		Decision:  authorization.DecisionAllow,
		Principal: &commonpb.Principal{Type: claims.AuthType, Name: claims.Subject},
	}, nil
}

// known is who the claims speak of.
func known(claims *authorization.Claims) (Identity, error) {
	if claims == nil {
		return Identity{}, errNobody
	}
	switch x := claims.Extensions.(type) {
	case Identity:
		return x, nil
	case nobody:
		return Identity{}, x.why
	}
	// The server's own claim mapper, on the internal frontend. Ours never gives this type.
	if claims.AuthType == authorization.InternalPrincipalType && claims.System&authorization.RoleAdmin != 0 {
		return Identity{Role: server, Name: claims.Subject}, nil
	}
	return Identity{}, errNobody
}

// decide applies the rule that a role has for a method. Without one the answer is no.
func (a *Authorizer) decide(who Identity, target *authorization.CallTarget) error {
	method := short(target.APIName)
	r, ok := rules[who.Role][method]
	if !ok {
		return fmt.Errorf("%s may not call %s: it is not on the list of the role %s", who, method, who.Role)
	}
	if who.Role != Admin {
		// For a command of a worker the target is another namespace than the request that brings it.
		n, ok := target.Request.(interface{ GetNamespace() string })
		if ok && n.GetNamespace() != a.o.Namespace || (ok || target.Namespace != "") && target.Namespace != a.o.Namespace {
			return fmt.Errorf("%s may not call %s in namespace %q: it has rights in %s only", who, method, target.Namespace, a.o.Namespace)
		}
	}
	if r == nil {
		return nil
	}
	req, ok := target.Request.(proto.Message)
	if !ok {
		return fmt.Errorf("%s may not call %s without a request that can be checked", who, method)
	}
	if err := r(caller{Identity: who, o: &a.o}, req); err != nil {
		return fmt.Errorf("%s may not call %s: %w", who, method, err)
	}
	return nil
}

// short is a method without the package of its service: WorkflowService/GetSystemInfo. One of another package keeps it.
func short(full string) string {
	for _, prefix := range []string{"/temporal.api.workflowservice.v1.", "/temporal.api.operatorservice.v1.", "/temporal.server.api.adminservice.v1.", "/grpc.health.v1."} {
		if s, ok := strings.CutPrefix(full, prefix); ok {
			return s
		}
	}
	return full
}

// A Role is what somebody is to Almanac.
type Role string

// The roles that a certificate or a token may name.
const (
	Agent    Role = "agent"    // of one node, by whose id it goes
	Worker   Role = "worker"   // a control worker
	Operator Role = "operator" // who runs runbooks, and answers them
	Viewer   Role = "viewer"   // who only looks
	Admin    Role = "admin"    // who keeps the server

	server Role = "server" // the server's own parts; nobody can be named so
)

// Roles are all of them, the least first.
var Roles = []Role{Viewer, Agent, Operator, Worker, Admin}

// Identity is who calls, as role/name.
type Identity struct {
	Role Role
	Name string
}

func (i Identity) String() string { return string(i.Role) + "/" + i.Name }

// Names of people are often addresses; ids of nodes become part of task queues and of queries.
var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._@+:|-]{0,127}$`)
	nodeForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

func identity(role, name string) (Identity, error) {
	form := nameForm
	switch {
	case !slices.Contains(Roles, Role(role)):
		return Identity{}, fmt.Errorf("%q is no role; there are agent, worker, operator, viewer and admin", role)
	case Role(role) == Agent:
		form = nodeForm
	}
	if !form.MatchString(name) {
		return Identity{}, fmt.Errorf("%q is no name for a role %s", name, role)
	}
	return Identity{Role(role), name}, nil
}
