package main

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
)

// authorization prints what the authorizer's table test finds: for each method of the server and each role, whether
// the answer is the one that testdata/table.txt says. It needs the sources: run the command in the module's directory.
func (b *bench) authorization(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-run", "^TestTable$", "./authorizer").CombinedOutput()
	found := regexp.MustCompile(`RPC × role cells wrong: (\d+) of (\d+)`).FindSubmatch(out)
	if found == nil {
		return fmt.Errorf("no figure from the table test: %v\n%s", err, out)
	}
	wrong, err := strconv.Atoi(string(found[1]))
	if err != nil {
		return err
	}
	b.row("RPC × role cells wrong, of "+string(found[2]), string(found[1]), "", float64(wrong), "0", wrong == 0)
	return nil
}
