package simcloud

import "maps"

// made is what a client token made.
type made struct {
	identity string // of the input, tokens left out
	answer   any
}

// once makes what a token names: the first call makes it, later ones get what
// it made, and ones with other parameters are refused. scope tells apart tokens
// that do not meet, such as those for another zone. Without a token it makes.
func once[T any](k *call, member, scope string, mismatch string, do func() (T, error)) (T, error) {
	token := k.in.str(member)
	if token == "" {
		return do()
	}
	var none T
	if len(token) > 64 && k.service == "ec2" {
		return none, k.fail("InvalidParameterValue", "Invalid value for clientToken: at most 64 ASCII characters")
	}
	members := maps.Clone(map[string]any(k.in))
	delete(members, member)
	said := identity(k.place, k.service, k.operation, members)
	key := k.key(k.service + " " + scope + " " + token)
	if before := k.tokens[key]; before != nil {
		if before.identity != said {
			return none, k.fail(mismatch, "The request uses the same client token as a previous, but non-identical request.")
		}
		return before.answer.(T), nil
	}
	answer, err := do()
	if err == nil {
		k.tokens[key] = &made{said, answer}
	}
	return answer, err
}
