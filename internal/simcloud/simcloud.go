// Package simcloud is a simulated AWS in one process, behind the caller that the
// real one stands behind.
//
// It gives a Cloud that takes the calls of the services that operations runbooks
// use and does what AWS does where emulators do not: tokens name what they made,
// names are taken, states take time, what was just made is not seen everywhere
// yet, and requests are throttled. It keeps a ledger of every call and of what it
// made, changed and removed. It promises that all chance comes from the seed and
// from what is called, not from the order in which concurrent calls arrive, and
// that it is safe for concurrent use. It refuses to know who calls, and to guess:
// an operation that it does not simulate is the error NotSimulated.
package simcloud

import (
	"context"
	"sync"
	"time"

	"github.com/almanac-run/almanac/internal/awsapi"
)

// Options are the world that New makes. The zero value is a cloud in which
// everything happens at once and nothing goes wrong. They are not changed after
// New. Shell, Functions and Machines may call the cloud, and may be called at the
// same time; the other functions are called one at a time and must not call it.
type Options struct {
	Seed    uint64
	Clock   func() time.Time // nil is time.Now; else time is virtual, see Shell
	Account string           // of callers that assume no role; empty is 123456789012
	Region  string           // of calls that name none; empty is us-east-1

	Delays Delays  // how long what AWS does takes; see RealDelays
	Limits Limits  // what AWS grants; see RealLimits
	Faults []Fault // what goes wrong, for calls one names
	Chance Chance  // what goes wrong, at random

	// Shell runs a command on an instance; nil is Simulated. With a virtual clock
	// it runs within the first call after the command's start, whatever that is, and
	// the command lasts CommandResult.Duration. With the real clock it runs in the
	// background and lasts as long as it takes.
	Shell func(context.Context, Command) CommandResult
	// Agent says how the SSM agent of an instance behaves; nil is the zero Agent.
	// It is asked once for each instance, as it is made.
	Agent func(Instance) Agent
	// HostManagement lets agents register on instances without a profile.
	HostManagement bool

	// Patches says which patches Patch Manager knows of for an instance, as they are
	// before it does anything; nil makes some up. It is asked once for each instance.
	Patches func(Instance) []Patch

	// Fails says why what is being made will fail in the end; "" is that it will
	// not. Asked of images, snapshots, instances and stacks, and again of a stack
	// that is updated.
	Fails     func(Resource) string
	Stack     func(Stack) map[string]string // outputs of a stack; nil is none
	Functions map[string]Function           // of Lambda, by name
	Machines  map[string]Machine            // of Step Functions, by name

	Tags     TagNames
	PageSize int                                              // of lists where the call sets none; 0 is 1000
	Sleep    func(ctx context.Context, d time.Duration) error // waits out Fault.Wait; nil is real time
}

// TagNames are the names of the tags by which those who make resources mark them
// in the call that makes them.
type TagNames struct {
	Execution, Step, Token string // empty are almanac:execution, almanac:step, almanac:token
}

// Function is what a Lambda function does. An error is one of the function.
type Function func(ctx context.Context, payload []byte) ([]byte, error)

// Cloud is a simulated AWS. It is an awsapi.Caller.
type Cloud struct {
	Options
	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu        sync.Mutex
	met       map[string]int // how often a call of this identity came, for the faults
	ran       map[string]int // how often it was carried out, for the ids
	matched   map[string]int // how often a fault matched
	buckets   map[string]*bucket
	tokens    map[string]*made
	ledger    []Entry
	worlds    map[place]bool
	resources table[*resource]
	state
}

// state is what the services keep.
type state struct {
	network
	instances table[*instance]
	volumes   table[*volume]
	images    table[*image]
	snapshots table[*snapshot]
	templates table[*template]
	commands  table[*command]
	patched   map[string]*patchState // by instance
	inventory table[*inventoryType]  // by instance and type
	logs      table[*logGroup]

	parameters table[*parameter]
	secrets    table[*secret]
	buckets3   table[*s3Bucket]
	groups     table[*group]
	refreshes  table[*refresh]
	stacks     table[*stack]
	topics     table[*topic]
	queues     table[*queue]
	machines   table[*machine]
	executions table[*execution]
	findings   table[*finding]
	keys       table[*kmsKey]
}

// place is where a resource is. Nothing is seen from another place, but for
// images and snapshots that are shared.
type place struct{ account, region string }

// New returns a cloud.
func New(o Options) *Cloud {
	if o.Account == "" {
		o.Account = "123456789012"
	}
	if o.Region == "" {
		o.Region = "us-east-1"
	}
	if o.Tags == (TagNames{}) {
		o.Tags = TagNames{"almanac:execution", "almanac:step", "almanac:token"}
	}
	if o.PageSize == 0 {
		o.PageSize = 1000
	}
	if o.Shell == nil {
		o.Shell = func(_ context.Context, c Command) CommandResult { return Simulated(c) }
	}
	c := &Cloud{
		Options: o,
		met:     map[string]int{}, ran: map[string]int{}, matched: map[string]int{},
		buckets: map[string]*bucket{}, tokens: map[string]*made{}, worlds: map[place]bool{},
	}
	c.patched = map[string]*patchState{}
	c.ctx, c.stop = context.WithCancel(context.Background())
	return c
}

// Close ends the commands that run in the background.
func (c *Cloud) Close() { c.stop() }

// Given returns a caller for setting up: its calls meet no fault, no throttling
// and no delay, are not in the ledger, and what they make was there before.
func (c *Cloud) Given() awsapi.Caller { return given{c} }

type given struct{ cloud *Cloud }

func (g given) Call(ctx context.Context, in awsapi.Scope, service, operation string, members map[string]any) (map[string]any, error) {
	return g.cloud.call(ctx, in, service, operation, members, true)
}

// Call makes one call. It implements awsapi.Caller.
func (c *Cloud) Call(ctx context.Context, in awsapi.Scope, service, operation string, members map[string]any) (map[string]any, error) {
	return c.call(ctx, in, service, operation, members, false)
}

// operations are all that is simulated.
var operations = map[string]map[string]func(*call) (map[string]any, error){
	"autoscaling": autoscalingOperations, "cloudformation": cloudformationOperations, "ec2": ec2Operations,
	"kms": kmsOperations, "lambda": lambdaOperations, "logs": logsOperations, "resourcegroupstaggingapi": taggingOperations, "s3": s3Operations, "secretsmanager": secretsmanagerOperations,
	"securityhub": securityhubOperations, "sns": snsOperations, "sqs": sqsOperations, "ssm": ssmOperations,
	"stepfunctions": stepfunctionsOperations, "sts": stsOperations,
}

// call is one call while it is made.
type call struct {
	*Cloud
	place
	ctx                context.Context
	role               string
	service, operation string
	in                 input
	now                time.Time
	identity           string // what is called, where and with which input
	nth                int    // which of the calls of this identity that were carried out it is
	given              bool
	ids                int // how many it has made
	effects            []Effect
}

func (c *Cloud) call(ctx context.Context, in awsapi.Scope, service, operation string, members map[string]any, given bool) (map[string]any, error) {
	k := &call{Cloud: c, ctx: ctx, service: service, operation: operation, given: given, role: in.Role}
	k.in, _ = plain(members).(map[string]any)
	if err := k.find(in); err != nil {
		return nil, err
	}
	k.identity = identity(k.place, service, operation, k.in)
	run, ok := operations[service][operation]
	if !ok {
		return nil, k.end(Fault{}, k.fail("NotSimulated", "%s %s is not simulated; give an answer to it", service, operation))
	}

	meets := c.meets(k)
	if err := meets.wait(k); err != nil {
		return nil, k.end(meets, err)
	}

	c.mu.Lock()
	defer c.mu.Unlock()
	k.now = c.now()
	c.settle(k.now)
	c.ran[k.identity]++
	k.nth = c.ran[k.identity]
	c.world(k.place)
	out, err := k.carryOut(run, meets)
	if err == nil {
		err = meets.loses(k)
	}
	k.record(meets, err)
	if err != nil {
		return nil, err
	}
	out, _ = plain(out).(map[string]any)
	return out, nil
}

// carryOut refuses the call if there is a reason, in AWS's order, or runs it.
func (k *call) carryOut(run func(*call) (map[string]any, error), meets Fault) (map[string]any, error) {
	if err := meets.refuses(k); err != nil {
		return nil, err
	}
	if err := k.throttled(); err != nil {
		return nil, err
	}
	if err := k.check(); err != nil {
		return nil, err
	}
	if k.in.bool("DryRun") && (k.service == "ec2" || k.service == "kms") {
		return nil, k.fail(dryRunCode[k.service], "Request would have succeeded, but DryRun flag is set.")
	}
	return run(k)
}

var dryRunCode = map[string]string{"ec2": "DryRunOperation", "kms": "DryRunOperationException"}

// end records a call that ends before it reached anything.
func (k *call) end(meets Fault, err error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.now = k.Cloud.now()
	k.record(meets, err)
	return err
}

func (c *Cloud) now() time.Time {
	if c.Clock != nil {
		return c.Clock()
	}
	return time.Now()
}

// settle lets happen what should have happened by now without a call. The lock
// may be let go of in the meantime.
func (c *Cloud) settle(now time.Time) {
	for _, r := range c.refreshes.all() {
		c.proceed(r, now)
	}
	for _, g := range c.groups.all() {
		c.keepUp(g, now)
	}
	for _, cmd := range c.commands.all() {
		cmd.losesNodes(now)
		if c.Clock != nil && !cmd.isOver() {
			c.advance(cmd, now)
		}
	}
}

// byItself runs what AWS does without a call, and records it if it did anything.
func (c *Cloud) byItself(service string, p place, id string, at time.Time, do func(*call)) {
	c.ran[id]++
	k := &call{Cloud: c, ctx: c.ctx, place: p, service: service, now: at, identity: id, nth: c.ran[id]}
	do(k)
	if len(k.effects) > 0 {
		k.record(Fault{}, nil)
	}
}

// unlocked runs what is not ours, and may take long or call this cloud.
func (c *Cloud) unlocked(f func()) {
	c.mu.Unlock()
	defer c.mu.Lock()
	f()
}
