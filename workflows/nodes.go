package workflows

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/almanac-run/almanac/action"
	"github.com/almanac-run/almanac/internal/registry"
	"github.com/almanac-run/almanac/lang/expr"
	"github.com/almanac-run/almanac/lang/program"
)

// Activities that the interpreter itself calls: the control worker's list of
// nodes, and a node's description of itself.
const (
	ActionNodes    = "almanac.nodes"
	ActionDescribe = "host.node.describe"
)

// NodesQuery is the input of ActionNodes.
type NodesQuery struct {
	After string   `json:"after,omitempty" jsonschema:"go on behind this id"`
	IDs   []string `json:"ids,omitempty" jsonschema:"only these; those that nobody knows are looked for in AWS"`
}

// NodesPage is a part of the nodes, small enough for history: ten thousand are about 300 KB.
type NodesPage struct {
	Packed string   `json:"packed,omitempty" jsonschema:"base64 of gzip of a JSON list of Candidate"`
	Next   string   `json:"next,omitempty" jsonschema:"after of the next page; empty: there is none"`
	Nodes  []string `json:"nodes,omitempty" jsonschema:"what workers before the registry answered: ids of nodes whose agents are there"`
}

// Candidate is a node that may become a target.
type Candidate struct {
	Facts  map[string]any `json:"facts"`            // what conditions see
	Absent string         `json:"absent,omitempty"` // why it is no target now
	Target *action.Target `json:"target,omitempty"` // how the control worker reaches it; nil: it has an agent of its own
}

// mostCandidates are in one page: under a megabyte, unless their tags are novels.
const mostCandidates = 10_000

// PackNodes makes the page behind the id after of nodes that are sorted by id.
func PackNodes(nodes []registry.Listed, after string) (NodesPage, error) {
	page := NodesPage{}
	candidates := []Candidate{}
	for i := range nodes {
		n := &nodes[i]
		if n.ID <= after {
			continue
		}
		if len(candidates) == mostCandidates {
			page.Next = nodes[i-1].ID
			break
		}
		c := Candidate{Facts: n.Facts(), Absent: n.Absent()}
		if n.Reach == registry.ReachSSM {
			c.Target = &action.Target{ID: n.ID, Platform: n.Platform, Region: n.Region, Account: n.Account, Role: n.Role}
		}
		candidates = append(candidates, c)
	}
	raw, err := json.Marshal(candidates)
	if err != nil {
		return page, err
	}
	packed, err := pack(raw)
	page.Packed = base64.StdEncoding.EncodeToString(packed)
	return page, err
}

func (p NodesPage) candidates() (list []Candidate, err error) {
	packed, err := base64.StdEncoding.DecodeString(p.Packed)
	if err != nil {
		return nil, err
	}
	raw, err := unpack(packed)
	if err != nil {
		return nil, err
	}
	return list, json.Unmarshal(raw, &list)
}

func (r *run) nodesOptions(path string) workflow.ActivityOptions {
	return workflow.ActivityOptions{
		StartToCloseTimeout: 30 * time.Second,
		HeartbeatTimeout:    heartbeat,
		RetryPolicy:         usual.policy(),
		Summary:             "nodes for " + path,
	}
}

// registered asks for the nodes that there are.
func (r *run) registered(ctx workflow.Context, sc *scope, path string, s *program.Step) ([]Candidate, error) {
	all, err := r.candidates(ctx, sc, path, s, NodesQuery{})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Candidate) int { return compareIDs(a.Facts, b.Facts) })
	return all, nil
}

func compareIDs(a, b map[string]any) int {
	x, _ := a["id"].(string)
	y, _ := b["id"].(string)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func (r *run) candidates(ctx workflow.Context, sc *scope, path string, s *program.Step, q NodesQuery) ([]Candidate, error) {
	all := []Candidate{}
	for id := path + ".nodes"; ; id += "+" {
		input, err := json.Marshal(q)
		if err != nil {
			return nil, err
		}
		var page NodesPage
		if err := r.activity(ctx, r.nodesOptions(path), ActionNodes, id, r.token(id), json.RawMessage(input)).get(ctx, &page); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			f := sc.fail(action.Unavailable, s.Pos, "")
			f.fromActivity(err)
			f.Message = "cannot list the nodes: " + f.Message
			return nil, f
		}
		if page.Packed == "" {
			return r.describe(ctx, path, page.Nodes)
		}
		candidates, err := page.candidates()
		if err != nil {
			return nil, sc.fail(action.Internal, s.Pos, "the list of nodes: %v", err)
		}
		all = append(all, candidates...)
		if q.After = page.Next; q.After == "" {
			return all, nil
		}
	}
}

// describe asks each node for its description, as executions did that began
// before there was a registry. One that does not answer is no target.
func (r *run) describe(ctx workflow.Context, path string, ids []string) ([]Candidate, error) {
	slices.Sort(ids)
	described := make([]map[string]any, len(ids))
	fanout(ctx, 50, sequence(len(ids)), func(ctx workflow.Context, i int) {
		node := ids[i]
		o := r.nodesOptions(path)
		o.TaskQueue, o.ScheduleToStartTimeout = NodeQueue(node), nodeAnswersIn
		o.RetryPolicy = &temporal.RetryPolicy{MaximumAttempts: 1}
		o.Summary = node
		id := path + ".describe@" + node
		var raw json.RawMessage
		if r.activity(ctx, o, ActionDescribe, id, r.token(id), json.RawMessage("{}")).get(ctx, &raw) != nil {
			return
		}
		if v, err := expr.FromJSON(raw, program.Type{Kind: program.Object}); err == nil {
			described[i], _ = v.(map[string]any)
		}
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	all := []Candidate{}
	for _, facts := range described {
		if facts == nil {
			continue
		}
		known := (&registry.Node{Reach: registry.ReachAgent}).Facts()
		maps.Copy(known, facts)
		all = append(all, Candidate{Facts: known})
	}
	return all, nil
}

// ofAWS is the form of ids of instances and of hybrid nodes: what has such an
// id may be reached by our own agent or by Systems Manager's.
var ofAWS = regexp.MustCompile(`^m?i-[0-9a-f]{8,17}$`)

// OfAWS tells whether a node's id is that of an instance (i-…) or of a hybrid node (mi-…).
func OfAWS(node string) bool { return ofAWS.MatchString(node) }

// place finds out how nodes that were given by id are reached, where their ids leave it open.
func (r *run) place(ctx workflow.Context, sc *scope, path string, s *program.Step, nodes []string) error {
	open := []string{}
	for _, n := range nodes {
		if OfAWS(n) && r.state.Remote[n] == nil {
			open = append(open, n)
		}
	}
	if len(open) == 0 || workflow.GetVersion(ctx, "reach", workflow.DefaultVersion, 1) == workflow.DefaultVersion {
		return nil
	}
	for part := range slices.Chunk(open, 500) {
		found, err := r.candidates(ctx, sc, path, s, NodesQuery{IDs: part})
		if err != nil {
			return err
		}
		for _, c := range found {
			if id, _ := c.Facts["id"].(string); c.Target != nil {
				r.reach(id, c.Target)
			}
		}
	}
	return nil
}

// reach remembers how the control worker reaches a node.
func (r *run) reach(id string, target *action.Target) {
	if target == nil {
		return
	}
	if r.state.Remote == nil {
		r.state.Remote = map[string]*action.Target{}
	}
	r.state.Remote[id] = target
}

// at makes an activity run on a node, or for it on the control worker, and
// returns its arguments. A node's own agent has to fetch its work in time.
func at(o *workflow.ActivityOptions, node string, remote *action.Target, within time.Duration, args ...any) []any {
	switch {
	case remote != nil:
		return append(args, remote)
	case node != "":
		o.TaskQueue, o.ScheduleToStartTimeout = NodeQueue(node), within
	}
	return args
}
