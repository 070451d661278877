package awsapi

import (
	"bufio"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	smithytime "github.com/aws/smithy-go/time"
)

// EC2's answers are read here, and not by the library: they are the longest that
// an operator meets, and the library goes through one twice, once to cut out what
// its decoder then reads, and looks at each member of a structure to find one.
// EC2's XML is simple: it has neither attributes, maps nor lists without a wrapper.

// ec2Reader reads tokens. It holds end tags against start tags, since the raw
// tokens of encoding/xml, which cost half as much, are not.
type ec2Reader struct {
	dec  *xml.Decoder
	open []string // names of the elements around
}

func (r *ec2Reader) next() (xml.Token, error) {
	token, err := r.dec.RawToken()
	switch t := token.(type) {
	case xml.StartElement:
		r.open = append(r.open, t.Name.Local)
	case xml.EndElement:
		last := len(r.open) - 1
		if last < 0 || r.open[last] != t.Name.Local {
			return nil, fmt.Errorf("unexpected </%s>", t.Name.Local)
		}
		r.open = r.open[:last]
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return token, err
}

// child goes to the next element within this one; false if it has ended.
func (r *ec2Reader) child() (name string, ok bool, err error) {
	for {
		token, err := r.next()
		if err != nil {
			return "", false, err
		}
		switch t := token.(type) {
		case xml.StartElement:
			return t.Name.Local, true, nil
		case xml.EndElement:
			return "", false, nil
		}
	}
}

// text is that of an element without others, to its end.
func (r *ec2Reader) text() (string, error) {
	text := ""
	for {
		token, err := r.next()
		if err != nil {
			return "", err
		}
		switch t := token.(type) {
		case xml.CharData:
			text += string(t) // nearly always one piece
		case xml.EndElement:
			return text, nil
		default:
			return "", fmt.Errorf("unexpected token %T", token)
		}
	}
}

// skip goes past the end of this element.
func (r *ec2Reader) skip() error {
	for around := len(r.open) - 1; len(r.open) > around; {
		if _, err := r.next(); err != nil {
			return err
		}
	}
	return nil
}

// deserializeEC2 reads the answer of an operation that was carried out.
func (w *wire) deserializeEC2(resp *http.Response) (map[string]any, error) {
	body := bufio.NewReader(resp.Body)
	if _, err := body.Peek(1); err == io.EOF {
		return map[string]any{}, nil
	}
	r := &ec2Reader{dec: xml.NewDecoder(body)}
	values := map[string]any{}
	for {
		token, err := r.next()
		if err != nil {
			return nil, err
		}
		if start, ok := token.(xml.StartElement); !ok || !strings.EqualFold(start.Name.Local, w.schema.ID().Name+"Response") {
			continue
		}
		if w.output != nil {
			v, err := r.value(w.output, 0)
			if err != nil {
				return nil, err
			}
			values, _ = v.(map[string]any)
		}
		_, err = io.Copy(io.Discard, body) // so that the connection serves again
		return values, err
	}
}

// member finds a member by the name of its element.
func (n *node) member(element string) *field {
	if f := n.wire[element]; f != nil {
		return f
	}
	for _, f := range n.order {
		if strings.EqualFold(f.schema.MemberName(), element) {
			return f
		}
	}
	return nil
}

// value reads what is in the element that has begun, to its end.
func (r *ec2Reader) value(n *node, depth int) (any, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("the answer is nested too deeply")
	}
	switch n.kind {
	case Structure:
		out := map[string]any{}
		for {
			name, more, err := r.child()
			if err != nil || !more {
				return out, err
			}
			f := n.member(name)
			if f == nil {
				if err := r.skip(); err != nil {
					return nil, err
				}
				continue
			}
			if out[f.name], err = r.value(f.node, depth+1); err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
		}
	case List:
		out := []any{}
		for {
			_, more, err := r.child()
			if err != nil || !more {
				return out, err
			}
			v, err := r.value(n.item.node, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, v)
		}
	case Map, Any:
		return nil, fmt.Errorf("a %s is nothing that EC2 answers", n.kind)
	}
	text, err := r.text()
	if err != nil {
		return nil, err
	}
	return scalar(n.kind, text)
}

// scalar reads a value as XML has it.
func scalar(kind Kind, text string) (any, error) {
	switch kind {
	case Int:
		return strconv.ParseInt(text, 10, 64)
	case Float:
		return strconv.ParseFloat(text, 64)
	case Bool:
		return strconv.ParseBool(text)
	case Timestamp:
		t, err := smithytime.ParseDateTime(text)
		if err != nil {
			return time.Time{}, err
		}
		return t, nil
	case Blob:
		b, err := base64.StdEncoding.DecodeString(text)
		return append([]byte{}, b...), err
	}
	return text, nil
}
