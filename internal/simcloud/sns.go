package simcloud

import "strings"

var snsOperations = map[string]func(*call) (map[string]any, error){"CreateTopic": createTopic, "Publish": publish}

type topic struct {
	*resource
	arn     string
	deduped map[string]string // message ids by deduplication id and minute window
}

func createTopic(k *call) (map[string]any, error) {
	name := k.in.str("Name")
	arn := "arn:aws:sns:" + k.region + ":" + k.account + ":" + name
	if _, ok := k.topics.get(arn); !ok {
		k.topics.put(arn, &topic{resource: k.make("topic", name, name, k.in.tags("Tags")), arn: arn, deduped: map[string]string{}})
	}
	return object("TopicArn", arn), nil
}

func publish(k *call) (map[string]any, error) {
	if err := k.unsimulated("PhoneNumber"); err != nil {
		return nil, err
	}
	arn := or(k.in.str("TopicArn"), k.in.str("TargetArn"))
	if arn == "" {
		return nil, k.fail("InvalidParameter", "Invalid parameter: TopicArn or TargetArn Reason: no value for required parameter")
	}
	t, ok := k.topics.get(arn)
	if !ok {
		return nil, k.fail("NotFound", "Topic does not exist")
	}
	if t.region != k.region {
		return nil, k.fail("InvalidParameter", "Invalid parameter: TopicArn")
	}
	if len(k.in.str("Message")) > 256*1024 {
		return nil, k.fail("InvalidParameter", "Invalid parameter: Message too long")
	}
	if strings.HasSuffix(t.name, ".fifo") && k.in.str("MessageGroupId") == "" {
		return nil, k.fail("InvalidParameter", "Invalid parameter: The MessageGroupId parameter is required for FIFO topics")
	}
	id, again := k.dedupe(t.deduped)
	if !again {
		k.effects = append(k.effects, Effect{Change: "made", Kind: "message", ID: id, What: "to " + t.name})
	}
	return object("MessageId", id), nil
}
