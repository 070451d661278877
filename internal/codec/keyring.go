package codec

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"sync/atomic"
	"time"
)

// Keyring holds keys by id. New payloads are written with the last of them, and
// all of them are read. It is safe for concurrent use, and can be read anew while it is used.
type Keyring struct {
	from source
	now  atomic.Pointer[ring] // never nil
}

// ring is what a keyring holds between two readings. It does not change.
type ring struct {
	keys   map[string]*key
	write  *key
	stamp  string // of the file
	read   time.Time
	ages   bool // some key is one of KMS
	cipher cached
}

// key is one key of 256 bits.
type key struct {
	id     string
	node   string // of the node that it was derived for; empty: every key can be derived from it
	secret []byte
	until  time.Time // not read after; zero: for good
}

// Unwrapper decrypts a data key that a key management service has encrypted.
// about is what has to be said again of it as it was when it was made.
type Unwrapper func(ctx context.Context, kmsKey string, wrapped []byte, about map[string]string) ([]byte, error)

// About is what KMS is told of the data key of this id, and logs.
func About(id string) map[string]string { return map[string]string{"almanac": "payloads", "key": id} }

// source is where a keyring comes from.
type source struct {
	file   string
	text   string // if file is empty
	unwrap Unwrapper

	// whose says of a ring whether the program may have its keys; nil: it may.
	whose func(*ring) error
}

const (
	keySize     = 32
	mostFile    = 1 << 20
	mostKeys    = 1000
	unwrapped   = 5 * time.Minute // how long a data key of KMS is read with
	unwrapAgain = 4 * time.Minute
	lookAtFile  = 2 * time.Second
)

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,39}$`)

// NewKey returns a new key as a line of a key file. An empty id becomes one of the day and chance.
func NewKey(id string) (string, error) {
	secret := make([]byte, keySize)
	if _, err := rand.Read(secret); err != nil {
		return "", err
	}
	id, err := newID(id)
	if err != nil {
		return "", err
	}
	return id + " " + base64.StdEncoding.EncodeToString(secret), nil
}

// NewID completes the id of a new key: an empty one becomes one of the day and chance.
func NewID(id string) (string, error) { return newID(id) }

func newID(id string) (string, error) {
	if id == "" {
		id = "k" + time.Now().UTC().Format("20060102") + "-" + strings.ToLower(rand.Text()[:4])
	}
	if !idForm.MatchString(id) {
		return "", fmt.Errorf("the id of a key, %.60q: want letters, digits, '.', '_' and '-', at most 40", id)
	}
	return id, nil
}

// WrappedLine is the line of a key file for a data key that only KMS can decrypt.
func WrappedLine(id, kmsKey string, wrapped []byte) string {
	return id + " kms:" + base64.StdEncoding.EncodeToString(wrapped) + " " + kmsKey
}

// Read reads keys, each in a line or after a comma: id and the key in base64; id, key and
// node/ID for a node's; or id, kms:WRAPPED and KMS's key. Lines that begin with # say nothing.
func Read(ctx context.Context, text string, unwrap Unwrapper) (*Keyring, error) {
	return open(ctx, source{text: text, unwrap: unwrap})
}

// ReadFile reads the keys of a file, as Read does. See Watch.
func ReadFile(ctx context.Context, file string, unwrap Unwrapper) (*Keyring, error) {
	return open(ctx, source{file: file, unwrap: unwrap})
}

func open(ctx context.Context, from source) (*Keyring, error) {
	k := &Keyring{from: from}
	r, err := k.read(ctx)
	if err != nil {
		return nil, err
	}
	k.now.Store(r)
	return k, nil
}

// Reload reads the keys anew. On error the keyring stays as it is, except that
// of a file with several keys of KMS each is confirmed by itself.
func (k *Keyring) Reload(ctx context.Context) error {
	r, err := k.read(ctx)
	if r == nil {
		return err
	}
	k.now.Store(r)
	return err
}

// Watch reads the keys anew when their file changes and before those of KMS
// expire, until ctx ends. What goes wrong is logged, and tried again.
func (k *Keyring) Watch(ctx context.Context, logger *slog.Logger) {
	tick := time.NewTicker(lookAtFile)
	defer tick.Stop()
	said := ""
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		have := k.now.Load()
		stamp, err := k.from.stamp()
		if err == nil {
			if stamp == have.stamp && !(have.ages && now().Sub(have.read) > unwrapAgain) {
				continue
			}
			attempt, cancel := context.WithTimeout(ctx, 30*time.Second)
			err = k.Reload(attempt)
			cancel()
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			said = ""
			if r := k.now.Load(); r.stamp != have.stamp {
				logger.Info("encryption keys were read anew", "keys", len(r.keys), "writes", r.write.id)
			}
		case err.Error() != said: // once, not every two seconds
			said = err.Error()
			logger.Error("encryption keys cannot be read anew; those known before stay in use", "error", err)
		}
	}
}

// Writes is the id of the key that new payloads are written with.
func (k *Keyring) Writes() string { return k.now.Load().write.id }

// Node returns the lines of a node's key file: what a node needs to read and
// write its own payloads, in the order of this keyring's. Keys of KMS cannot be handed out for good and are an error.
func (k *Keyring) Node(node string) (string, error) {
	r := k.now.Load()
	var lines []string
	for _, key := range r.ordered() {
		if !key.until.IsZero() {
			return "", fmt.Errorf("key %s is kept by KMS: what is derived from it would outlive it on the node; give nodes a key of their own file", key.id)
		}
		secret, err := key.derive(node)
		if err != nil {
			return "", err
		}
		lines = append(lines, key.id+" "+base64.StdEncoding.EncodeToString(secret)+" node/"+node)
	}
	return strings.Join(lines, "\n") + "\n", nil
}

// belongs says whether the keys are of the kind that a program may have: a node's
// own if node is not empty, else those of the control side.
func (r *ring) belongs(node string) error {
	for _, key := range r.ordered() {
		switch {
		case node == "" && key.node != "":
			return fmt.Errorf("key %s is that of node %s, which reads that node's payloads only; worker and starter need the keys that it was derived from", key.id, key.node)
		case node != "" && key.node == "":
			return fmt.Errorf("key %s reads everything in the namespace, which a node must not: remove it here, and give the node its own (worker node-key %s)", key.id, node)
		case node != key.node:
			return fmt.Errorf("key %s is that of node %s, and this is node %s (worker node-key %s makes its own)", key.id, key.node, node, node)
		}
	}
	return nil
}

// ordered lists the keys, the one that writes last.
func (r *ring) ordered() []*key {
	var all []*key
	for _, k := range r.keys {
		if k != r.write {
			all = append(all, k)
		}
	}
	return append(all, r.write)
}

// writer is the key that new payloads are written with. It writes also when it
// may not be read with any more: the SDK falls back to plain text for a memo that cannot be encrypted.
func (k *Keyring) writer(node string) (string, cipher.AEAD, error) {
	r := k.now.Load()
	aead, err := r.cipher.get(r.write, node)
	return r.write.id, aead, err
}

func (k *Keyring) reader(id, node string) (cipher.AEAD, error) {
	r := k.now.Load()
	key := r.keys[id]
	if key == nil {
		return nil, fmt.Errorf("there is no key %.40q here: add it to the keys (it need not be the one that writes)", id)
	}
	if !key.until.IsZero() && now().After(key.until) {
		return nil, fmt.Errorf("key %s has not been confirmed by KMS for %s; is KMS out of reach, or its key disabled?", id, unwrapped)
	}
	return r.cipher.get(key, node)
}

// derive returns the key of a scope: of the control side's if node is empty.
func (k *key) derive(node string) ([]byte, error) {
	switch {
	case k.node != "" && k.node == node:
		return k.secret, nil
	case k.node != "":
		return nil, fmt.Errorf("key %s of node %s does not read what is %s", k.id, k.node, scopeName(node))
	case node == "":
		return hkdf.Key(sha256.New, k.secret, nil, "almanac/1 control "+k.id, keySize)
	}
	return hkdf.Key(sha256.New, k.secret, nil, "almanac/1 node/"+node+" "+k.id, keySize)
}

func (k *key) aead(node string) (cipher.AEAD, error) {
	secret, err := k.derive(node)
	if err != nil {
		return nil, err
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// stamp changes with the file.
func (s source) stamp() (string, error) {
	if s.file == "" {
		return "", nil
	}
	info, err := os.Stat(s.file)
	if err != nil {
		return "", fmt.Errorf("key file: %w", err)
	}
	return fmt.Sprint(info.Size(), info.ModTime().UnixNano(), info.Mode()), nil
}

func (k *Keyring) read(ctx context.Context) (*ring, error) {
	at := now() // a data key's time begins before KMS is asked
	stamp, err := k.from.stamp()
	if err != nil {
		return nil, err
	}
	text, where := k.from.text, EnvKeys
	if k.from.file != "" {
		where = k.from.file
		info, err := os.Stat(where)
		if err != nil {
			return nil, fmt.Errorf("key file: %w", err)
		}
		if info.Mode().Perm()&0o027 != 0 {
			return nil, fmt.Errorf("key file %s: others can read or change it (mode %04o); chmod 600 it", where, info.Mode().Perm())
		}
		if info.Size() > mostFile {
			return nil, fmt.Errorf("key file %s: %d bytes are no key file", where, info.Size())
		}
		b, err := os.ReadFile(where)
		if err != nil {
			return nil, fmt.Errorf("key file: %w", err)
		}
		text = string(b)
	}
	r := &ring{keys: map[string]*key{}, stamp: stamp, read: at}
	var unconfirmed error
	lines := strings.Split(text, "\n")
	if k.from.file == "" {
		lines = strings.FieldsFunc(text, func(c rune) bool { return c == '\n' || c == ',' })
	}
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		key, err := readKey(ctx, line, k.from.unwrap)
		fresh := err == nil
		if have := k.now.Load(); errors.Is(err, errKMS) && have != nil && have.keys[key.id] != nil && !have.keys[key.id].until.IsZero() {
			// One key that KMS does not confirm must not end the others' time.
			unconfirmed, key, err = errors.Join(unconfirmed, err), have.keys[key.id], nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", where, i+1, err) // never the line: it is the key
		}
		if r.keys[key.id] != nil {
			return nil, fmt.Errorf("%s:%d: there are two keys %s", where, i+1, key.id)
		}
		if len(r.keys) == mostKeys {
			return nil, fmt.Errorf("%s: more than %d keys", where, mostKeys)
		}
		if !key.until.IsZero() {
			r.ages = true
			if fresh {
				key.until = at.Add(unwrapped)
			}
		}
		r.keys[key.id], r.write = key, key
	}
	if r.write == nil {
		return nil, fmt.Errorf("%s: there is no key in it; `worker key new` makes one", where)
	}
	if k.from.whose != nil {
		if err := k.from.whose(r); err != nil {
			return nil, fmt.Errorf("%s: %w", where, err)
		}
	}
	if unconfirmed != nil {
		r.read = at.Add(15*time.Second - unwrapAgain) // ask again soon
	}
	return r, unconfirmed
}

// errKMS is wrapped if KMS does not decrypt a data key. The key returned beside it has its id.
var errKMS = errors.New("KMS")

var errForm = errors.New(`want "id key", as worker key new prints it`)

func readKey(ctx context.Context, line string, unwrap Unwrapper) (*key, error) {
	f := strings.Fields(line)
	if len(f) < 2 || len(f) > 3 {
		return nil, errForm
	}
	k := &key{id: f[0]}
	if !idForm.MatchString(k.id) {
		return nil, errForm
	}
	if text, ok := strings.CutPrefix(f[1], "kms:"); ok {
		wrapped, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(f) != 3 {
			return nil, fmt.Errorf("key %s: want the data key that KMS encrypted, in base64, and the key of KMS, as worker key new --kms prints it", k.id)
		}
		if unwrap == nil {
			return nil, fmt.Errorf("key %s is kept by KMS, which this program does not call", k.id)
		}
		if k.secret, err = unwrap(ctx, f[2], wrapped, About(k.id)); err != nil {
			return k, fmt.Errorf("key %s: %w: %w", k.id, errKMS, err)
		}
		k.until = now()
	} else {
		var err error
		if k.secret, err = base64.StdEncoding.DecodeString(f[1]); err != nil {
			return nil, fmt.Errorf("key %s is not base64", k.id)
		}
		if len(f) == 3 {
			if k.node = nodeIn(f[2], "node/"); k.node == "" {
				return nil, fmt.Errorf("key %s: what follows a key is node/ID, whose it is", k.id)
			}
		}
	}
	if len(k.secret) != keySize {
		return nil, fmt.Errorf("key %s has %d bytes, and needs %d", k.id, len(k.secret), keySize)
	}
	return k, nil
}
