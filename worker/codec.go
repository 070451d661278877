package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/almanac-run/almanac/internal/awsapi"
	"github.com/almanac-run/almanac/internal/awssecret"
	"github.com/almanac-run/almanac/internal/codec"
	"github.com/almanac-run/almanac/internal/codecserver"
	"github.com/almanac-run/almanac/internal/dial"
	"github.com/almanac-run/almanac/internal/node"
)

// keyFlags say where the keys are.
type keyFlags struct {
	file     string
	insecure bool
}

func (k *keyFlags) add(f *pflag.FlagSet) {
	f.StringVar(&k.file, "key-file", "", "keys that payloads are encrypted with (default ALMANAC_KEYS, ALMANAC_KEY_FILE, "+codec.DefaultFile+")")
}

func (k *keyFlags) addInsecure(f *pflag.FlagSet) {
	f.BoolVar(&k.insecure, "insecure", false, "encrypt nothing: whoever reads the server's database reads all inputs and outputs (ALMANAC_INSECURE=1)")
}

func (k *keyFlags) settings(namespace string, logger *slog.Logger) codec.Settings {
	return codec.Settings{
		Options: codec.Options{Namespace: namespace}, File: k.file, Insecure: k.insecure, Logger: logger, Unwrap: unwrap,
	}
}

// unwrap asks KMS. Who has no key there needs nothing of AWS.
func unwrap(ctx context.Context, kmsKey string, wrapped []byte, about map[string]string) ([]byte, error) {
	aws, err := awsapi.New(ctx, awsapi.Options{Session: "almanac-keys"})
	if err != nil {
		return nil, err
	}
	return awssecret.Unwrapper(aws)(ctx, kmsKey, wrapped, about)
}

func keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make keys", Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	var id, kms string
	create := &cobra.Command{
		Use:   "new",
		Short: "Print a new key, as a line of a key file",
		Long: `Print a new key, as a line of a key file. The last line of the file is the key that new payloads are written with;
all lines are read. docs/encryption.md says how to change to a new key while executions run.`,
		Example: "umask 077; worker key new > .almanac/keys\nworker key new --kms arn:aws:kms:eu-central-1:123456789012:key/… >> keys",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kms == "" {
				line, err := codec.NewKey(id)
				if err == nil {
					fmt.Fprintln(cmd.OutOrStdout(), line)
				}
				return err
			}
			id, err := codec.NewID(id)
			if err != nil {
				return err
			}
			aws, err := awsapi.New(cmd.Context(), awsapi.Options{Session: "almanac-keys"})
			if err != nil {
				return err
			}
			made, err := awssecret.KeysOf(aws, kms).Make(cmd.Context(), codec.About(id))
			if err != nil {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), codec.WrappedLine(id, kms, made.Wrapped))
			return nil
		},
	}
	create.Flags().StringVar(&id, "id", "", "id of the key (default of the day and chance)")
	create.Flags().StringVar(&kms, "kms", "", "key of AWS KMS under which the key is kept: the line is of no use without it")
	cmd.AddCommand(create)
	return cmd
}

func nodeKeyCommand() *cobra.Command {
	var keys keyFlags
	cmd := &cobra.Command{
		Use:   "node-key ID",
		Short: "Print the keys of one node, for its agent",
		Long: `Print the keys of one node, for its agent: into the file "keys" of the agent's state directory. They read and write that
node's payloads and no others. They are derived from the keys here, a line for each, so that the command can be repeated.`,
		Example: "worker node-key web-1 | ssh web-1 'umask 077; cat > /var/lib/almanac/keys'",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := node.CheckID(args[0]); err != nil {
				return err
			}
			s := keys.settings("", nil)
			s.NoWatch = true
			ring, err := codec.OpenKeys(cmd.Context(), s)
			if err != nil {
				return err
			}
			if ring == nil {
				return errors.New("nothing is encrypted (" + codec.EnvInsecure + "=1), so that a node needs no key")
			}
			lines, err := ring.Node(args[0])
			if err == nil {
				fmt.Fprint(cmd.OutOrStdout(), lines)
			}
			return err
		},
	}
	keys.add(cmd.Flags())
	return cmd
}

func codecCommand(logger *slog.Logger) *cobra.Command {
	var keys keyFlags
	var listen, tokens, issuer, audience, cert, certKey string
	var origins []string
	cmd := &cobra.Command{
		Use:   "codec",
		Short: "Decrypt payloads for Temporal's Web UI",
		Long: `Serve /decode, which Temporal's Web UI calls in the browser of who looks at an execution, until SIGTERM or Ctrl-C.
Who asks has to be known by a bearer token: one of a file, or one that an OpenID provider issued. Each request is
logged: who, the namespace and how many payloads. It encrypts nothing, and reads the namespace of TEMPORAL_NAMESPACE only.`,
		Example: "worker codec --listen 127.0.0.1:8081 --origin https://temporal.example.com --oidc-issuer https://login.example.com --oidc-audience almanac",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (cert == "") != (certKey == "") {
				return errors.New("--tls-cert and --tls-key belong together")
			}
			o := codecserver.Options{Origins: origins, Logger: logger}
			if tokens != "" {
				info, err := os.Stat(tokens)
				if err != nil {
					return fmt.Errorf("--tokens: %w", err)
				}
				if info.Mode().Perm()&0o027 != 0 {
					return fmt.Errorf("--tokens: others can read or change %s; chmod 600 it", tokens)
				}
				text, err := os.ReadFile(tokens)
				if err != nil {
					return fmt.Errorf("--tokens: %w", err)
				}
				who, err := codecserver.Tokens(string(text))
				if err != nil {
					return fmt.Errorf("--tokens: %s: %w", tokens, err)
				}
				o.Who = append(o.Who, who)
			}
			if issuer != "" {
				who, err := codecserver.OIDC(cmd.Context(), issuer, audience)
				if err != nil {
					return err
				}
				o.Who = append(o.Who, who)
			}
			if len(o.Who) == 0 {
				return errors.New("who may read? Name a file of tokens (--tokens), or an OpenID provider (--oidc-issuer, --oidc-audience)")
			}
			opts, err := dial.Options("codec server", logger) // for the namespace; it needs no connection
			if err != nil {
				return err
			}
			c, err := codec.Open(cmd.Context(), keys.settings(opts.Namespace, logger))
			if err != nil {
				return err
			}
			if c == nil {
				return errors.New("nothing is encrypted (" + codec.EnvInsecure + "=1), so that there is nothing to decrypt")
			}
			o.Codec = c
			h, err := codecserver.Handler(o)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			if at, ok := l.Addr().(*net.TCPAddr); ok && cert == "" && !at.IP.IsLoopback() {
				logger.Warn("codec server without TLS beyond this machine: tokens and payloads can be read on the way unless a proxy before it speaks TLS", "address", listen)
			}
			logger.Info("codec server is ready", "address", l.Addr().String(), "namespace", c.Namespace())
			return codecserver.Serve(cmd.Context(), l, h, cert, certKey)
		},
	}
	f := cmd.Flags()
	keys.add(f)
	f.StringVar(&listen, "listen", "127.0.0.1:8081", "address to serve at")
	f.StringVar(&tokens, "tokens", "", "file with a name and a bearer token in each line")
	f.StringVar(&issuer, "oidc-issuer", "", "OpenID provider whose tokens are taken, as https://…")
	f.StringVar(&audience, "oidc-audience", "", "audience that such a token must be for")
	f.StringArrayVar(&origins, "origin", nil, "address of the Web UI, as https://…; may be repeated. Pages of other origins are refused")
	f.StringVar(&cert, "tls-cert", "", "certificate, PEM")
	f.StringVar(&certKey, "tls-key", "", "its private key, PEM")
	return cmd
}
