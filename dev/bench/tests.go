package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// What some tests find is a figure, too. They need the sources: run the command in the module's directory.

// authorization prints what the authorizer's table test finds: for each method of the server and each role, whether
// the answer is the one that testdata/table.txt says.
func (b *bench) authorization(ctx context.Context) error {
	found, err := figures(ctx, ".", "./authorizer", "TestTable", `RPC × role cells wrong: (\d+) of (\d+)`)
	if err != nil {
		return err
	}
	b.row("RPC × role cells wrong, of "+found[1], found[0], "", number(found[0]), "= 0", found[0] == "0")
	return nil
}

// canaries prints where the words were found that were planted as secrets.
func (b *bench) canaries(ctx context.Context) error {
	found, err := figures(ctx, ".", "./e2e/canary", "Trace", `canaries: (\d+) planted, \d+ hits on the list, (\d+) outside`)
	if err != nil {
		return err
	}
	b.row("canaries outside the list, of "+found[0], found[1], "", number(found[1]), "= 0", found[1] == "0")
	return nil
}

// corpus prints how many recorded histories today's workflows replay, and how long that takes.
func (b *bench) corpus(ctx context.Context) error {
	found, err := figures(ctx, "..", "./workflows", "TestReplay$", `(\d+) histories replayed in (\S+)`)
	if err != nil {
		return err
	}
	took, err := time.ParseDuration(found[1])
	if err != nil {
		return err
	}
	n := number(found[0])
	b.row("recorded histories replayed", found[0], found[1], n, ">= 40, < 30s", n >= 40 && took < 30*time.Second)
	return nil
}

// figures runs a test of a package of the module in dir, and returns what the groups of the pattern match in its output.
func figures(ctx context.Context, dir, pkg, test, pattern string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", test, pkg)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	found := regexp.MustCompile(pattern).FindSubmatch(out)
	if err != nil || found == nil {
		return nil, fmt.Errorf("%s of %s: %v\n%s", test, pkg, err, out)
	}
	var texts []string
	for _, group := range found[1:] {
		texts = append(texts, string(group))
	}
	return texts, nil
}

// number reads digits that a pattern has matched.
func number(digits string) float64 {
	n, _ := strconv.ParseFloat(digits, 64)
	return n
}
