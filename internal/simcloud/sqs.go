package simcloud

import (
	"crypto/md5"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"time"
)

var sqsOperations = map[string]func(*call) (map[string]any, error){
	"CreateQueue": createQueue, "GetQueueUrl": getQueueURL, "SendMessage": sendMessage, "ReceiveMessage": receiveMessage, "DeleteMessage": deleteMessage,
}

type queue struct {
	*resource
	url      string
	messages []*message
	deduped  map[string]string
}

type message struct {
	id, body string
	from     time.Time // not received before
	received int
}

// dedupeWindow is how long a FIFO topic or queue knows a deduplication id.
const dedupeWindow = 5 * time.Minute

// dedupe returns the id of the message, and whether it is that of an earlier one.
func (k *call) dedupe(known map[string]string) (string, bool) {
	token := k.in.str("MessageDeduplicationId")
	if token == "" {
		return k.uuid(), false
	}
	if before, ok := known[token]; ok {
		at, id, _ := strings.Cut(before, " ")
		if n, err := strconv.ParseInt(at, 10, 64); err == nil && k.now.Sub(time.Unix(0, n)) < dedupeWindow {
			return id, true
		}
	}
	id := k.uuid()
	known[token] = strconv.FormatInt(k.now.UnixNano(), 10) + " " + id
	return id, false
}

func createQueue(k *call) (map[string]any, error) {
	name := k.in.str("QueueName")
	url := "https://sqs." + k.region + ".amazonaws.com/" + k.account + "/" + name
	if _, ok := k.queues.get(url); !ok {
		k.queues.put(url, &queue{resource: k.make("queue", name, name, k.in.texts("tags")), url: url, deduped: map[string]string{}})
	}
	return object("QueueUrl", url), nil
}

func (k *call) queue() (*queue, error) {
	q, ok := k.queues.get(k.in.str("QueueUrl"))
	if !ok || q.place != k.place {
		return nil, k.fail("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
	}
	return q, nil
}

func getQueueURL(k *call) (map[string]any, error) {
	for _, q := range k.queues.all() {
		if q.place == k.place && q.name == k.in.str("QueueName") {
			return object("QueueUrl", q.url), nil
		}
	}
	return nil, k.fail("AWS.SimpleQueueService.NonExistentQueue", "The specified queue does not exist.")
}

func sendMessage(k *call) (map[string]any, error) {
	q, err := k.queue()
	if err != nil {
		return nil, err
	}
	body := k.in.str("MessageBody")
	if strings.HasSuffix(q.name, ".fifo") && k.in.str("MessageGroupId") == "" {
		return nil, k.fail("MissingParameter", "The request must contain the parameter MessageGroupId.")
	}
	id, again := k.dedupe(q.deduped)
	if !again {
		q.messages = append(q.messages, &message{id: id, body: body, from: k.now.Add(time.Duration(k.in.int("DelaySeconds")) * time.Second)})
		k.effects = append(k.effects, Effect{Change: "made", Kind: "message", ID: id, What: "to " + q.name})
	}
	return object("MessageId", id, "MD5OfMessageBody", md5Of(body)), nil
}

func md5Of(text string) string {
	sum := md5.Sum([]byte(text))
	return hex.EncodeToString(sum[:])
}

// receiveMessage never waits: WaitTimeSeconds is not simulated.
func receiveMessage(k *call) (map[string]any, error) {
	q, err := k.queue()
	if err != nil {
		return nil, err
	}
	var got []any
	for _, m := range q.messages {
		if int64(len(got)) < k.in.intOr("MaxNumberOfMessages", 1) && !k.now.Before(m.from) {
			m.received++
			m.from = k.now.Add(time.Duration(k.in.intOr("VisibilityTimeout", 30)) * time.Second)
			got = append(got, object("MessageId", m.id, "ReceiptHandle", m.id+"/"+strconv.Itoa(m.received), "Body", m.body, "MD5OfBody", md5Of(m.body)))
		}
	}
	return object("Messages", got), nil
}

func deleteMessage(k *call) (map[string]any, error) {
	q, err := k.queue()
	if err != nil {
		return nil, err
	}
	id, _, ok := strings.Cut(k.in.str("ReceiptHandle"), "/")
	if !ok {
		return nil, k.fail("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
	}
	if at := slices.IndexFunc(q.messages, func(m *message) bool { return m.id == id }); at >= 0 {
		q.messages = slices.Delete(q.messages, at, at+1)
		k.effects = append(k.effects, Effect{Change: "removed", Kind: "message", ID: id})
	}
	return map[string]any{}, nil
}
