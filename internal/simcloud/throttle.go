package simcloud

import "time"

// Limits are what AWS grants an account in a region. The zero value grants all.
type Limits struct {
	// Requests are the buckets of calls, by "ec2 RunInstances" or, for all of a
	// service's operations that have none of their own, "ec2". Each operation of
	// such a bucket has its own.
	Requests map[string]Rate
	// Resources is the second bucket of RunInstances: each instance takes one.
	Resources Rate
	// Instances is how many may exist; terminated ones count until they are no
	// longer described.
	Instances int
	// NoCapacity says that there is none of an instance type in a zone; nil is
	// that there always is.
	NoCapacity func(zone, instanceType string) bool
}

// Rate is a bucket: so many at once, so many more each second.
type Rate struct{ Burst, PerSecond float64 }

// RealLimits are AWS's defaults as far as they are known.
func RealLimits() Limits {
	return Limits{
		Requests: map[string]Rate{
			"ec2":                    {100, 20},
			"ec2 RunInstances":       {5, 2},
			"ec2 StartInstances":     {5, 2},
			"ec2 StopInstances":      {5, 2},
			"ec2 TerminateInstances": {100, 5},
			"ec2 CreateImage":        {100, 5},
			"ssm":                    {40, 40},
			"ssm SendCommand":        {10, 5},
			"autoscaling":            {50, 10},
			"cloudformation":         {20, 5},
			"secretsmanager":         {50, 50},
			"stepfunctions":          {100, 25},
		},
		Resources: Rate{1000, 2},
	}
}

type bucket struct {
	left float64
	at   time.Time
}

// throttled takes one from the bucket of the call's operation.
func (k *call) throttled() error {
	rate, ok := k.Limits.Requests[k.service+" "+k.operation]
	if !ok {
		rate = k.Limits.Requests[k.service]
	}
	if !k.take(k.service+" "+k.operation, rate, 1) {
		return k.fail(servicesRules[k.service].throttled, "Request limit exceeded.")
	}
	return nil
}

// take takes n from a bucket, or nothing if there is too little.
func (k *call) take(name string, rate Rate, n float64) bool {
	if k.given || rate == (Rate{}) {
		return true
	}
	b := k.buckets[k.key(name)]
	if b == nil {
		b = &bucket{rate.Burst, k.now}
		k.buckets[k.key(name)] = b
	}
	b.left = min(rate.Burst, b.left+k.now.Sub(b.at).Seconds()*rate.PerSecond)
	b.at = k.now
	if b.left < n {
		return false
	}
	b.left -= n
	return true
}
