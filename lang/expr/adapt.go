package expr

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"
	"cel.dev/cel-go/interpreter"
)

// adapter turns Go values into CEL's, lazily: a map or list is wrapped, and its
// elements are converted when they are read.
type adapter struct{}

func (a adapter) NativeToValue(v any) ref.Val {
	switch v := v.(type) {
	case nil:
		return types.NullValue
	case ref.Val:
		return v
	case bool:
		return types.Bool(v)
	case int64:
		return types.Int(v)
	case float64:
		return types.Double(v)
	case string:
		return types.String(v)
	case time.Duration:
		return types.Duration{Duration: v}
	case time.Time:
		return types.Timestamp{Time: v}
	case map[string]any:
		return sortedMap{Mapper: types.NewStringInterfaceMap(a, v), raw: v}
	case []any:
		return types.NewList(a, v)
	}
	return types.DefaultTypeAdapter.NativeToValue(v)
}

// sortedMap is a map that is walked by sorted key: CEL's own is walked in the
// order of a Go map, which differs at every evaluation.
type sortedMap struct {
	traits.Mapper
	raw    map[string]any // what it wraps; nil if an expression made it
	made   map[ref.Val]ref.Val
	weight int // of a made one
}

// Iterator walks the sorted keys.
func (m sortedMap) Iterator() traits.Iterator {
	var keys []ref.Val
	if m.raw != nil {
		for _, k := range sortedKeys(m.raw) {
			keys = append(keys, types.String(k))
		}
	} else {
		keys = m.keys()
	}
	return types.NewRefValList(adapter{}, keys).Iterator()
}

// keys returns the keys of a made map: false, true, numbers, then strings.
func (m sortedMap) keys() []ref.Val {
	keys := make([]ref.Val, 0, len(m.made))
	for k := range m.made {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b ref.Val) int {
		if order, ok := a.(traits.Comparer).Compare(b).(types.Int); ok {
			return int(order)
		}
		return keyRank(a) - keyRank(b)
	})
	return keys
}

// keyRank orders keys of different types.
func keyRank(k ref.Val) int {
	switch k.(type) {
	case types.Bool:
		return 0
	case types.String:
		return 2
	}
	return 1
}

// weighedList is a list that an expression made, with the number of values in
// it. Values share their parts, so a short expression can make a list that is
// small in memory and endless to walk; the weight is what keeps that from
// happening.
type weighedList struct {
	traits.Lister
	weight int
}

var errTooLarge = fmt.Errorf("the expression makes a list or map of more than %d values", maxWeight)

// ownLiterals has list and map literals make weighed lists and sorted maps, and
// makes those of constants once.
func ownLiterals(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	c, ok := i.(interpreter.InterpretableConstructor)
	if !ok {
		return i, nil
	}
	own := literal{c}
	vals := c.InitVals()
	for _, v := range vals {
		if _, ok := v.(interpreter.InterpretableConst); !ok {
			return own, nil
		}
	}
	if v := own.Eval(interpreter.EmptyActivation()); len(vals) > 0 && !types.IsError(v) {
		return interpreter.NewConstValue(c.ID(), v), nil
	}
	return own, nil
}

type literal struct {
	interpreter.InterpretableConstructor
}

func (l literal) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	return made(l.InterpretableConstructor.Exec(frame))
}

func (l literal) Eval(vars interpreter.Activation) ref.Val {
	return made(l.InterpretableConstructor.Eval(vars))
}

func made(v ref.Val) ref.Val {
	switch raw := v.Value().(type) {
	case []ref.Val:
		return madeList(adapter{}, raw)
	case map[ref.Val]ref.Val:
		return madeMap(adapter{}, raw)
	}
	return v
}

func madeList(a adapter, elems []ref.Val) ref.Val {
	w := 1
	for _, e := range elems {
		if w += weigh(e, maxWeight-w); w > maxWeight {
			return types.WrapErr(errTooLarge)
		}
	}
	return weighedList{types.NewRefValList(a, elems), w}
}

func madeMap(a adapter, m map[ref.Val]ref.Val) ref.Val {
	w := 1
	for _, e := range m {
		if w += 1 + weigh(e, maxWeight-w); w > maxWeight {
			return types.WrapErr(errTooLarge)
		}
	}
	return sortedMap{Mapper: types.NewRefValMap(a, m), made: m, weight: w}
}

// weigh counts the values in v, itself and those nested. It stops, with a
// number above most, as soon as there are more than that.
func weigh(v ref.Val, most int) int {
	switch v := v.(type) {
	case sortedMap:
		if v.raw == nil {
			return v.weight
		}
		return weighRaw(v.raw, most)
	case weighedList:
		return v.weight
	case traits.Lister:
		if raw, ok := v.Value().([]any); ok {
			return weighRaw(raw, most)
		}
		w := 1
		for i, n := types.Int(0), v.Size().(types.Int); i < n && w <= most; i++ {
			w += weigh(v.Get(i), most-w)
		}
		return w
	case *types.Optional:
		if v.HasValue() {
			return 1 + weigh(v.GetValue(), most-1)
		}
	}
	return 1
}

func weighRaw(v any, most int) int {
	w := 1
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if w += weighRaw(e, most-w); w > most {
				return w
			}
		}
	case map[string]any:
		for _, e := range v {
			if w += 1 + weighRaw(e, most-w); w > most {
				return w
			}
		}
	}
	return w
}

// maxResult bounds a list or map that an expression makes: bytes of its strings
// and values together. History takes no more than 2 MB of anything.
const maxResult = 4 << 20

// native converts a result to Go values. What was wrapped comes back as it was.
func native(v ref.Val) (any, error) {
	room := maxResult
	return toNative(v, &room)
}

var errResult = fmt.Errorf("the result is larger than %d MiB", maxResult>>20)

func toNative(v ref.Val, room *int) (any, error) {
	if *room -= 8; *room < 0 {
		return nil, errResult
	}
	switch v := v.(type) {
	case types.Null:
		return nil, nil
	case types.Bool:
		return bool(v), nil
	case types.Int:
		return int64(v), nil
	case types.Double:
		return float64(v), nil
	case types.String:
		*room -= len(v)
		return string(v), nil
	case types.Duration:
		return v.Duration, nil
	case types.Timestamp:
		return v.Time.UTC(), nil
	case sortedMap:
		if v.raw != nil {
			*room -= bytesIn(v.raw, *room)
			return v.raw, nil
		}
		out := make(map[string]any, len(v.made))
		for _, k := range v.keys() {
			name, ok := k.(types.String)
			if !ok {
				return nil, fmt.Errorf("the keys of a map are strings, not %s", k.Type().TypeName())
			}
			var err error
			*room -= len(name)
			if out[string(name)], err = toNative(v.made[k], room); err != nil {
				return nil, err
			}
		}
		return out, nil
	case traits.Lister:
		if raw, ok := v.Value().([]any); ok {
			*room -= bytesIn(raw, *room)
			return raw, nil
		}
		n := v.Size().(types.Int)
		out := make([]any, 0, n)
		for i := types.Int(0); i < n; i++ {
			e, err := toNative(v.Get(i), room)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	case *types.Optional:
		return nil, errors.New("the value may be absent: add .orValue(…)")
	case *types.Err:
		return nil, v
	}
	return nil, fmt.Errorf("a %s is no value of the language", v.Type().TypeName())
}

// bytesIn is about how many bytes v holds, or more than most.
func bytesIn(v any, most int) int {
	n := 8
	switch v := v.(type) {
	case string:
		n += len(v)
	case []any:
		for _, e := range v {
			if n += bytesIn(e, most-n); n > most {
				return n
			}
		}
	case map[string]any:
		for k, e := range v {
			if n += len(k) + bytesIn(e, most-n); n > most {
				return n
			}
		}
	}
	return n
}
