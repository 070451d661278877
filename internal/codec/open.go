package codec

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
)

// The variables by which programs find their keys, and the file they look at without one.
const (
	EnvKeys     = "ALMANAC_KEYS"
	EnvFile     = "ALMANAC_KEY_FILE"
	EnvInsecure = "ALMANAC_INSECURE"
	EnvRefuse   = "ALMANAC_REFUSE_PLAIN"
	DefaultFile = ".almanac/keys"
)

// envPlainMemo is the SDK's flag (SDKFlagMemoUserDCEncode) whose value 0 takes memos past the codec. The SDK reads it
// before any code of ours runs, so that it can only be refused.
const envPlainMemo = "TEMPORAL_SDK_FLAG_7"

// Settings say where a program has its keys from: the flag's file, ALMANAC_KEYS,
// the file of ALMANAC_KEY_FILE, else DefaultFile, the first of these that there is.
type Settings struct {
	Options
	File        string // of the flag; empty: the environment
	DefaultFile string // empty: DefaultFile
	Insecure    bool   // of the flag: encrypt nothing
	Node        string // of an agent: the node's id
	Unwrap      Unwrapper
	Logger      *slog.Logger // nil: nothing is said
	NoWatch     bool         // of a program that ends soon
}

// ErrNoKey is returned by Open if there is no key.
var ErrNoKey = errors.New("no encryption key")

// Open finds the keys and returns the codec; nil if encryption was declined. The
// keys are read anew when their file changes, until ctx ends.
func Open(ctx context.Context, s Settings) (*Codec, error) {
	keys, err := OpenKeys(ctx, s)
	if err != nil || keys == nil {
		return nil, err
	}
	s.RefusePlain = s.RefusePlain || os.Getenv(EnvRefuse) == "1"
	if s.Node != "" {
		return NewNode(keys, s.Node, s.Options), nil
	}
	return New(keys, s.Options), nil
}

// OpenKeys is Open, for the keys alone.
func OpenKeys(ctx context.Context, s Settings) (*Keyring, error) {
	logger := s.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	text, file := os.Getenv(EnvKeys), os.Getenv(EnvFile)
	given := s.File != "" || text != "" || file != ""
	if s.Insecure || os.Getenv(EnvInsecure) == "1" {
		if given {
			return nil, fmt.Errorf("keys are given, and --insecure (%s=1) says to encrypt nothing: leave one out", EnvInsecure)
		}
		logger.Warn("payloads are NOT encrypted: whoever reads the database or the server reads all inputs and outputs")
		return nil, nil
	}
	if os.Getenv(envPlainMemo) == "0" {
		return nil, fmt.Errorf("%s=0 makes the Temporal SDK write memos (what a node is) without encryption: unset it, or give --insecure in place of keys", envPlainMemo)
	}
	from := source{unwrap: s.Unwrap, whose: func(r *ring) error { return r.belongs(s.Node) }}
	switch usual := cmp.Or(s.DefaultFile, DefaultFile); {
	case s.File == "" && text != "":
		from.text = text
	case given:
		from.file = cmp.Or(s.File, file)
	default:
		from.file = usual
		if _, err := os.Stat(usual); errors.Is(err, os.ErrNotExist) {
			return nil, s.noKey(usual)
		}
	}
	keys, err := open(ctx, from)
	if err != nil {
		return nil, err
	}
	if !s.NoWatch {
		go keys.Watch(ctx, logger)
	}
	return keys, nil
}

func (s Settings) noKey(usual string) error {
	if s.Node != "" {
		return fmt.Errorf("%w: payloads are encrypted, and there is no %s. Where the worker's keys are,\n"+
			"  worker node-key %s\nprints what belongs into that file (or name it with --key-file, or %s); --insecure encrypts nothing",
			ErrNoKey, usual, s.Node, EnvFile)
	}
	return fmt.Errorf("%w: payloads are encrypted, and there is no %s. If there are workers already, use their key:\n"+
		"name its file with --key-file or %s (make dev keeps it in %s of the folder that it was started in).\n"+
		"If not, make one, once, for all workers and starters; --insecure encrypts nothing:\n"+
		"  mkdir -p %s && (umask 077; worker key new > %s)",
		ErrNoKey, usual, EnvFile, DefaultFile, filepath.Dir(usual), usual)
}

// MakeFile makes a key file with a new key if there is none.
func MakeFile(file string) error {
	line, err := NewKey("")
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("make a key file: %w", err)
	}
	_, err = f.WriteString(line + "\n")
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("make a key file: %w", err), os.Remove(file))
	}
	return nil
}
