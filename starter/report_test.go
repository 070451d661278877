package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	common "go.temporal.io/api/common/v1"
	enums "go.temporal.io/api/enums/v1"
	failure "go.temporal.io/api/failure/v1"
	history "go.temporal.io/api/history/v1"
	taskqueue "go.temporal.io/api/taskqueue/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/almanac-run/almanac/workflows"
)

var began = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// recorded is a history that a test writes line by line.
type recorded struct {
	timeline
	id int64
}

func (r *recorded) event(second int, set func(*history.HistoryEvent)) int64 {
	r.id++
	e := &history.HistoryEvent{EventId: r.id, EventTime: timestamppb.New(began.Add(time.Duration(second) * time.Second))}
	set(e)
	r.add(e)
	return r.id
}

func (r *recorded) scheduled(second int, action, id, queue string) int64 {
	return r.event(second, func(e *history.HistoryEvent) {
		e.EventType = enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED
		e.Attributes = &history.HistoryEvent_ActivityTaskScheduledEventAttributes{ActivityTaskScheduledEventAttributes: &history.ActivityTaskScheduledEventAttributes{
			ActivityId: id, ActivityType: &common.ActivityType{Name: action}, TaskQueue: &taskqueue.TaskQueue{Name: queue}}}
	})
}

func (r *recorded) started(second int, scheduled int64, attempt int32) {
	r.event(second, func(e *history.HistoryEvent) {
		e.EventType = enums.EVENT_TYPE_ACTIVITY_TASK_STARTED
		e.Attributes = &history.HistoryEvent_ActivityTaskStartedEventAttributes{ActivityTaskStartedEventAttributes: &history.ActivityTaskStartedEventAttributes{ScheduledEventId: scheduled, Attempt: attempt}}
	})
}

func (r *recorded) ended(second int, scheduled int64, how string) {
	r.event(second, func(e *history.HistoryEvent) {
		switch how {
		case "succeeded":
			e.EventType = enums.EVENT_TYPE_ACTIVITY_TASK_COMPLETED
			e.Attributes = &history.HistoryEvent_ActivityTaskCompletedEventAttributes{ActivityTaskCompletedEventAttributes: &history.ActivityTaskCompletedEventAttributes{ScheduledEventId: scheduled}}
		case "unreached":
			e.EventType = enums.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT
			e.Attributes = &history.HistoryEvent_ActivityTaskTimedOutEventAttributes{ActivityTaskTimedOutEventAttributes: &history.ActivityTaskTimedOutEventAttributes{ScheduledEventId: scheduled,
				Failure: &failure.Failure{FailureInfo: &failure.Failure_TimeoutFailureInfo{TimeoutFailureInfo: &failure.TimeoutFailureInfo{TimeoutType: enums.TIMEOUT_TYPE_SCHEDULE_TO_START}}}}}
		default:
			e.EventType = enums.EVENT_TYPE_ACTIVITY_TASK_FAILED
			e.Attributes = &history.HistoryEvent_ActivityTaskFailedEventAttributes{ActivityTaskFailedEventAttributes: &history.ActivityTaskFailedEventAttributes{ScheduledEventId: scheduled,
				Failure: &failure.Failure{Message: how}}}
		}
	})
}

// What ran where, as the page shows it, from the events of two runs.
func TestTimeline(t *testing.T) {
	r := &recorded{timeline: timeline{byID: map[int64]*piece{}}}
	r.scheduled(0, workflows.ActionNodes, "nodes.patch", "almanac")
	a := r.scheduled(1, "host.command.run", "patch@web-1", "node/web-1")
	b := r.scheduled(1, "host.command.run", "patch@web@2", "node/web@2") // a node may be called so
	x := r.scheduled(1, "host.command.run", "patch@web#7", "node/web#7") // or so
	c := r.scheduled(1, "host.command.run", "patch@i-1", "almanac")      // by Systems Manager
	r.started(2, a, 1)
	r.ended(5, a, "succeeded")
	r.started(3, b, 3)
	r.ended(6, b, "exit code 2\nand more")
	r.ended(4, x, "succeeded")
	r.ended(11, c, "unreached")
	r.byID, r.id = map[int64]*piece{}, 0 // continued as new: its events are numbered anew
	b = r.scheduled(20, "host.command.run", "patch@web@2#2", "node/web@2")
	r.started(21, b, 1)
	r.ended(25, b, "succeeded")
	d := r.scheduled(26, "aws.ec2.copy_image", "copies[3].copy", "almanac")
	r.started(26, d, 1)
	r.ended(30, d, "succeeded")
	r.scheduled(31, "compensate:host.command.run", "undo.patch@web-1.abcdef", "node/web-1")
	r.scheduled(32, "http.get", "check", "almanac")

	at := func(s int) *time.Time { t := began.Add(time.Duration(s) * time.Second); return &t }
	v := workflows.View{Steps: []workflows.StepView{
		{Path: "patch", State: "failed", StartedAt: at(1), EndedAt: at(25), Done: 2, Total: 3, Recap: &workflows.Recap{Unreached: 1}},
		{Path: "patch@i-1", Depth: 1, Target: "i-1", State: "failed", StartedAt: at(1), EndedAt: at(11)},
		{Path: "copies", State: "succeeded", StartedAt: at(26), EndedAt: at(30)},
		{Path: "check", State: "running", StartedAt: at(32)},
		{Path: "patch", Phase: "rollback", Target: "web-1", State: "rolled_back", StartedAt: at(31), EndedAt: at(33)},
		{Path: "patch", Phase: "rollback", Target: "web@2", State: "not_rolled_back", StartedAt: at(30), EndedAt: at(34), Message: "no"},
		{Path: "patch", Phase: "rollback", Target: "i-1", State: "rolled_back", StartedAt: at(31), EndedAt: at(32)},
	}}
	var lines []string
	second := func(t time.Time) string {
		if t.IsZero() {
			return "-"
		}
		return fmt.Sprint(int(t.Sub(began).Seconds()))
	}
	for _, s := range stepsOf(&server{}, v, r.all, time.Time{}) {
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s%s %s %s-%s %s", s.Phase, s.Path, s.State, second(s.Start), second(s.End), s.Counts)))
		for _, w := range s.Works {
			lines = append(lines, strings.TrimSpace(fmt.Sprintf("  %s %s %s-%s %d %s", w.Name, w.State, second(w.Start), second(w.End), w.Attempts, w.Message)))
		}
	}
	const want = `patch failed 1-25 2 of 3, 1 unreached
i-1 unreached 1-11 1 nobody took the work
web#7 succeeded 1-4 1
web@2 succeeded 1-25 4
web-1 succeeded 2-5 1
copies succeeded 26-30
[3].copy succeeded 26-30 1
check running 32--
rollbackpatch not_rolled_back 30-34 3 targets
web@2 not_rolled_back 30-34 0 no
i-1 rolled_back 31-32 0
web-1 rolled_back 31-33 0`
	if got := strings.Join(lines, "\n"); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	// Of an execution that was terminated, nothing runs any more.
	for _, s := range stepsOf(&server{}, v, []*piece{{path: "patch", node: "web-1"}}, *at(40)) {
		for _, w := range s.Works {
			if s.Phase == "" && (w.State != workflows.StateCancelled || !w.End.Equal(*at(40))) {
				t.Errorf("%+v", w)
			}
		}
	}
}

func TestTimelineIsBounded(t *testing.T) {
	r := &recorded{timeline: timeline{byID: map[int64]*piece{}}}
	for i := range mostReported + 7 {
		id := r.scheduled(0, "host.command.run", fmt.Sprintf("all@n%d", i), fmt.Sprintf("node/n%d", i))
		r.ended(1, id, "succeeded")
	}
	if len(r.all) != mostReported || r.more != 7 {
		t.Errorf("%d pieces, %d more", len(r.all), r.more)
	}
}
