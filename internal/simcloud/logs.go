package simcloud

import (
	"strconv"
	"strings"
	"time"
)

var logsOperations = map[string]func(*call) (map[string]any, error){
	"CreateLogGroup": createLogGroup, "CreateLogStream": createLogStream, "PutLogEvents": putLogEvents,
	"DescribeLogStreams": describeLogStreams, "GetLogEvents": getLogEvents,
}

// logGroup is one of CloudWatch Logs.
type logGroup struct {
	*resource
	streams table[*logStream]
}

type logStream struct {
	name   string
	events []logEvent
}

type logEvent struct {
	message string
	at      time.Time
	visible time.Time // to those who read
}

// eventBytes is about what SSM's agent puts into one event: as many lines as fit.
const eventBytes = 200_000

func createLogGroup(k *call) (map[string]any, error) {
	name := k.in.str("logGroupName")
	if _, ok := k.logs.get(k.key(name)); ok {
		return nil, k.fail("ResourceAlreadyExistsException", "The specified log group already exists")
	}
	k.newLogGroup(name)
	return map[string]any{}, nil
}

func (k *call) newLogGroup(name string) *logGroup {
	g := &logGroup{resource: k.make("log-group", name, name, k.in.texts("tags"))}
	k.logs.put(k.key(name), g)
	return g
}

// write adds a text to a stream as SSM's agent does: in events of several lines, of
// which the last line has lost its end. Of nothing there is no stream.
func (g *logGroup) write(name, text string, at, visible time.Time) {
	if text == "" {
		return
	}
	s, ok := g.streams.get(name)
	if !ok {
		s = &logStream{name: name}
		g.streams.put(name, s)
	}
	for rest := text; rest != ""; {
		event := rest
		if len(rest) > eventBytes {
			event = rest[:eventBytes]
			if end := strings.LastIndexByte(event, '\n'); end >= 0 {
				event = event[:end+1]
			}
		}
		rest = rest[len(event):]
		s.events = append(s.events, logEvent{strings.TrimSuffix(event, "\n"), at, visible})
	}
}

func (k *call) logGroupNamed() (*logGroup, error) {
	g, ok := k.logs.get(k.key(k.in.str("logGroupName")))
	if !ok {
		return nil, k.fail("ResourceNotFoundException", "The specified log group does not exist.")
	}
	return g, nil
}

func createLogStream(k *call) (map[string]any, error) {
	g, err := k.logGroupNamed()
	if err != nil {
		return nil, err
	}
	name := k.in.str("logStreamName")
	if _, ok := g.streams.get(name); ok {
		return nil, k.fail("ResourceAlreadyExistsException", "The specified log stream already exists")
	}
	g.streams.put(name, &logStream{name: name})
	return map[string]any{}, nil
}

// putLogEvents takes what is in order; AWS also refuses what is too old or of the future.
func putLogEvents(k *call) (map[string]any, error) {
	g, err := k.logGroupNamed()
	if err != nil {
		return nil, err
	}
	s, ok := g.streams.get(k.in.str("logStreamName"))
	if !ok {
		return nil, k.fail("ResourceNotFoundException", "The specified log stream does not exist.")
	}
	last := int64(0)
	for _, e := range k.in.subs("logEvents") {
		if e.int("timestamp") < last {
			return nil, k.fail("InvalidParameterException", "Log events in a single PutLogEvents request must be in chronological order.")
		}
		last = e.int("timestamp")
		s.events = append(s.events, logEvent{e.str("message"), time.UnixMilli(last).UTC(), k.now})
	}
	return object("nextSequenceToken", strconv.Itoa(len(s.events))), nil
}

func describeLogStreams(k *call) (map[string]any, error) {
	if err := k.unsimulated("logGroupIdentifier", "orderBy", "descending"); err != nil {
		return nil, err
	}
	g, err := k.logGroupNamed()
	if err != nil {
		return nil, err
	}
	all := []any{}
	for _, s := range g.streams.all() {
		if strings.HasPrefix(s.name, k.in.str("logStreamNamePrefix")) {
			all = append(all, object("logStreamName", s.name))
		}
	}
	from, _ := strconv.Atoi(k.in.str("nextToken"))
	size := int(k.in.intOr("limit", 50))
	from = min(from, len(all))
	to, next := min(from+size, len(all)), ""
	if to < len(all) {
		next = strconv.Itoa(to)
	}
	return object("logStreams", all[from:to], "nextToken", next), nil
}

// getLogEvents answers at most 1 MiB. At the end the token stays the same.
func getLogEvents(k *call) (map[string]any, error) {
	if err := k.unsimulated("logGroupIdentifier", "startTime", "endTime", "unmask"); err != nil {
		return nil, err
	}
	if !k.in.bool("startFromHead") {
		return nil, k.fail("NotSimulated", "GetLogEvents without startFromHead is not simulated")
	}
	g, err := k.logGroupNamed()
	if err != nil {
		return nil, err
	}
	s, ok := g.streams.get(k.in.str("logStreamName"))
	if !ok {
		return nil, k.fail("ResourceNotFoundException", "The specified log stream does not exist.")
	}
	from, _ := strconv.Atoi(strings.TrimPrefix(k.in.str("nextToken"), "f/"))
	from = min(from, len(s.events))
	to, bytes := from, 0
	for to < len(s.events) && !s.events[to].visible.After(k.now) && (to == from || bytes+len(s.events[to].message) <= 1<<20) && to-from < int(k.in.intOr("limit", 10000)) {
		bytes += len(s.events[to].message)
		to++
	}
	events := list(s.events[from:to], func(e logEvent) map[string]any {
		return object("message", e.message, "timestamp", e.at.UnixMilli(), "ingestionTime", e.at.UnixMilli())
	})
	return object("events", events, "nextForwardToken", "f/"+strconv.Itoa(to), "nextBackwardToken", "b/"+strconv.Itoa(from)), nil
}
