package simcloud

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/json"
	"strings"
)

var kmsOperations = map[string]func(*call) (map[string]any, error){
	"CreateKey": createKey, "DisableKey": disableKey, "EnableKey": enableKey, "GenerateDataKey": generateDataKey, "Decrypt": decrypt,
}

// kmsKey seals for real, with a key from the seed: what is sealed under one
// context does not open under another. It keeps no secret.
type kmsKey struct {
	*resource
	arn      string
	disabled bool
}

// kmsKey finds a key by id or ARN that may be used.
func (k *call) kmsKey(name string) (*kmsKey, error) {
	id := name[strings.LastIndexByte(name, '/')+1:]
	if strings.HasPrefix(name, "alias/") || strings.Contains(name, ":alias/") {
		return nil, k.fail("NotSimulated", "aliases of keys are not simulated: %s", name)
	}
	key, ok := k.keys.get(id)
	if !ok || key.region != k.region {
		return nil, k.fail("NotFoundException", "Key '%s' does not exist", name)
	}
	if key.account != k.account && !strings.HasPrefix(name, "arn:") {
		return nil, k.fail("NotFoundException", "Key '%s' does not exist", name)
	}
	return key, nil
}

func createKey(k *call) (map[string]any, error) {
	tags := map[string]string{}
	for _, t := range k.in.subs("Tags") {
		tags[t.str("TagKey")] = t.str("TagValue")
	}
	id := k.uuid()
	key := &kmsKey{resource: k.make("key", id, k.in.str("Description"), tags), arn: "arn:aws:kms:" + k.region + ":" + k.account + ":key/" + id}
	k.keys.put(id, key)
	return object("KeyMetadata", object("KeyId", id, "Arn", key.arn, "AWSAccountId", k.account, "Enabled", true, "KeyState", "Enabled",
		"CreationDate", k.now, "KeyUsage", "ENCRYPT_DECRYPT", "KeySpec", "SYMMETRIC_DEFAULT")), nil
}

func disableKey(k *call) (map[string]any, error) { return k.turn(true) }

func enableKey(k *call) (map[string]any, error) { return k.turn(false) }

func (k *call) turn(off bool) (map[string]any, error) {
	key, err := k.kmsKey(k.in.str("KeyId"))
	if err != nil {
		return nil, err
	}
	key.disabled = off
	k.changed(key.resource, map[bool]string{true: "disabled", false: "enabled"}[off])
	return map[string]any{}, nil
}

// sealed is what a ciphertext says besides what it hides.
type sealed struct {
	Key   string
	Nonce []byte
	Text  []byte
}

func (k *call) aead(key *kmsKey) cipher.AEAD {
	block, err := aes.NewCipher(k.hash("key", key.id))
	if err != nil {
		panic(err) // the length is right
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return aead
}

// context is the encryption context as bytes that are always the same.
func (k *call) context() []byte {
	text, err := json.Marshal(k.in.texts("EncryptionContext"))
	if err != nil {
		panic(err) // a map of strings
	}
	return text
}

func generateDataKey(k *call) (map[string]any, error) {
	key, err := k.kmsKey(k.in.str("KeyId"))
	if err != nil {
		return nil, err
	}
	if key.disabled {
		return nil, k.fail("DisabledException", "%s is disabled.", key.arn)
	}
	n := map[string]int64{"AES_256": 32, "AES_128": 16}[k.in.str("KeySpec")]
	if given := k.in.int("NumberOfBytes"); (n == 0) == (given == 0) || given > 1024 || given < 0 {
		return nil, k.fail("ValidationException", "Please specify either number of bytes or key spec.")
	} else if n == 0 {
		n = given
	}
	var plain []byte
	for i := 0; int64(len(plain)) < n; i++ {
		plain = append(plain, k.hash("data key", k.identity, k.nth, i)...)
	}
	plain = plain[:n]
	nonce := k.hash("nonce", k.identity, k.nth)[:12]
	blob, err := json.Marshal(sealed{key.id, nonce, k.aead(key).Seal(nil, nonce, plain, k.context())})
	if err != nil {
		return nil, err
	}
	return object("KeyId", key.arn, "Plaintext", plain, "CiphertextBlob", blob), nil
}

func decrypt(k *call) (map[string]any, error) {
	var s sealed
	if err := json.Unmarshal(k.in.bytes("CiphertextBlob"), &s); err != nil || len(s.Nonce) != 12 {
		return nil, k.fail("InvalidCiphertextException", "The ciphertext is not one of this service")
	}
	key, ok := k.keys.get(s.Key)
	if !ok || key.place != k.place && !k.in.has("KeyId") {
		return nil, k.fail("AccessDeniedException", "The ciphertext refers to a customer master key that does not exist, does not exist in this region, or you are not allowed to access.")
	}
	if name := k.in.str("KeyId"); name != "" {
		named, err := k.kmsKey(name)
		if err != nil {
			return nil, err
		}
		if named != key {
			return nil, k.fail("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
		}
	}
	if key.disabled {
		return nil, k.fail("DisabledException", "%s is disabled.", key.arn)
	}
	plain, err := k.aead(key).Open(nil, s.Nonce, s.Text, k.context())
	if err != nil {
		return nil, k.fail("InvalidCiphertextException", "The ciphertext does not open under this encryption context")
	}
	return object("KeyId", key.arn, "Plaintext", plain, "EncryptionAlgorithm", "SYMMETRIC_DEFAULT"), nil
}
