package dial

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"go.temporal.io/sdk/client"
	"google.golang.org/grpc"
	"google.golang.org/grpc/resolver"
)

// Several makes a connection out of an address that is a list: a.example:7233,b.example:7233. Calls then go to all
// servers that answer, in turns, and a server that is gone is left out until it is back. Each server's certificate must be
// good for its own name, unless the options name one for all. An address that is no list is left as it is: a name of
// which DNS knows several servers, dns:///temporal.example:7233, needs none.
func Several(opts client.Options) (client.Options, error) {
	if !strings.Contains(opts.HostPort, ",") {
		return opts, nil
	}
	l, err := parse(opts)
	if err != nil {
		return opts, err
	}
	opts.HostPort = l.Scheme() + ":///" + l[0].Addr
	opts.ConnectionOptions.DialOptions = append(slices.Clone(opts.ConnectionOptions.DialOptions), grpc.WithResolvers(l))
	return opts, nil
}

func parse(opts client.Options) (list, error) {
	var l list
	oneName := opts.ConnectionOptions.TLS != nil && opts.ConnectionOptions.TLS.ServerName != ""
	for address := range strings.SplitSeq(opts.HostPort, ",") {
		address = strings.TrimSpace(address)
		host, port, err := net.SplitHostPort(address)
		if err != nil || host == "" || port == "" || strings.ContainsAny(address, " \t/") {
			return nil, fmt.Errorf("address %q in the list %q: want host:port", address, opts.HostPort)
		}
		a := resolver.Address{Addr: address, ServerName: host}
		if oneName {
			a.ServerName = ""
		}
		l = append(l, a)
	}
	return l, nil
}

// list is a resolver that knows its servers from the beginning.
type list []resolver.Address

func (list) Scheme() string { return "almanac" }

func (l list) Build(_ resolver.Target, cc resolver.ClientConn, _ resolver.BuildOptions) (resolver.Resolver, error) {
	return l, cc.UpdateState(resolver.State{Addresses: l})
}

func (list) ResolveNow(resolver.ResolveNowOptions) {}
func (list) Close()                                {}
