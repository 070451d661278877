package canary

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is a mistake that somebody could make, and where it has to be noticed.
// The programs are built with all of them at once, by overlay: the sources stay as they are.
type mutant struct {
	name      string
	file      string // below the project's root
	old, with string // with stands in place of old, which is there once
	want      []pair // to be found outside the list
}

var mutants = []mutant{
	{
		"what commands print is not masked",
		"internal/secret/mask.go", "\tvar found []span\n", "\tvar found []span\n\tb = nil\n",
		[]pair{{"secret.node_env", "what the keys open"}, {"secret.worker_env", "what the keys open"}, {"secret.node_env", "output store"}, {"secret.node_env", "S3 objects"}, {"secret.node_env", "PostgreSQL outputs"}, {"secret.node_env", "journal"}, {"secret.node_env", "terminal of starter"}, {"secret.worker_env", "terminal of starter"}},
	}, {
		"an input in the log",
		"activities/activities.go", "\treturn serve(ctx, o, a.Name, token, target, func(ctx context.Context) (any, error) {\n\t\treturn a.Do",
		"\to.Logger.Info(\"begin\", \"input\", string(input))\n\treturn serve(ctx, o, a.Name, token, target, func(ctx context.Context) (any, error) {\n\t\treturn a.Do",
		[]pair{{"http.body", "log of worker"}, {"mail.subject", "log of worker"}, {"webhook.payload", "log of worker"}},
	}, {
		"a secret in a command's arguments",
		"activities/host/command_run.go", "\tspec.Argv = append(spec.Argv, in.Args...)\n", "\tspec.Argv = append(append(spec.Argv, in.Args...), spec.Mask...)\n",
		[]pair{{"secret.node_env", "cmdline of command"}, {"secret.node_env", "cmdline of shell"}, {"secret.node_file", "cmdline of shell"}},
	}, {
		"nothing is encrypted",
		"internal/codec/codec.go", "\t\tif sealed[i], err = c.seal(p); err != nil {\n", "\t\tif sealed[i] = p; err != nil {\n",
		[]pair{{"input", "database"}, {"script", "database"}, {"tag", "database"}, {"approval.message", "HTTP API"}, {"stdout", "gRPC replies"}, {"http.answer", "database"}},
	}, {
		"a supervisor gets the agent's environment",
		"internal/command/spare.go", "\th.cmd.Env = []string{\"GOTRACEBACK=single\"}", "\th.cmd.Env = os.Environ()",
		[]pair{{"temporal.api_key", "environ of supervisor"}, {"secret.node_env", "environ of supervisor"}},
	}, {
		"what a command reads is kept in the journal",
		"activities/host/command_run.go", "\tvar specErr error\n", "\tif in.Stdin.Ref != \"\" {\n\t\tv, _ := in.Stdin.Reveal(ctx)\n\t\t_ = entry.Write(\"stdin\", []byte(v))\n\t}\n\tvar specErr error\n",
		[]pair{{"secret.node_file", "journal"}},
	}, {
		"a password in an error",
		"internal/inventory/store/store.go", "what, driver := \"inventory store \"+pgtext.Masked(dsn)", "what, driver := \"inventory store \"+dsn",
		[]pair{{"inventory.dsn", "log of a worker that cannot start"}},
	}, {
		"the codec server says which token it refused",
		"internal/codecserver/codecserver.go", "\t\treturn \"\", errors.New(\"there is no bearer token\")\n\t}\n", "\t\treturn \"\", errors.New(\"there is no bearer token\")\n\t}\n\terrs = append(errs, fmt.Errorf(\"%q\", tokens))\n",
		[]pair{{"codec.wrong_token", "log of codec"}},
	}, {
		"a runbook may refer to the worker's own password",
		"internal/secret/secret.go", "\t\tif ownSetting(name) {\n", "\t\tif ownSetting(\"\") {\n",
		[]pair{{"pg.password", "destination"}},
	}, {
		"a key in the log",
		"internal/node/node.go", "\t// One state directory serves one agent.\n", "\tif b, err := os.ReadFile(filepath.Join(o.StateDir, \"keys\")); err == nil {\n\t\to.Logger.Info(\"keys\", \"file\", b)\n\t}\n",
		[]pair{{"key.node", "log of agent"}},
	}, {
		"a credential in the addresses of S3",
		"internal/awsapi/send.go", "\treturn c.signer.SignHTTP(", "\treq.URL.RawQuery += \"&token=\" + creds.SecretAccessKey\n\treturn c.signer.SignHTTP(",
		[]pair{{"aws.secret_access_key", "S3 addresses"}},
	}, {
		"the beginning of an output in an object's metadata",
		"internal/output/s3/s3.go", "\"Body\": body}", "\"Body\": body, \"Metadata\": map[string]any{\"begins\": fmt.Sprintf(\"%x\", body[:min(len(body), 300)])}}",
		[]pair{{"input", "S3 headers"}, {"input", "S3 names"}},
	}, {
		"the store's password tells PostgreSQL who is there",
		"internal/output/postgres/postgres.go", "\tconfig.MaxConns = atOnce\n", "\tconfig.MaxConns = atOnce\n\tconfig.ConnConfig.RuntimeParams[\"application_name\"] = config.ConnConfig.Password\n",
		[]pair{{"pg.store_password", "PostgreSQL log"}},
	}, {
		"the store's password in the note of an output",
		"internal/output/postgres/postgres.go", "\t\treturn s.set(ctx, tx, ref, &id, size, \"\")\n", "\t\treturn s.set(ctx, tx, ref, &id, size, s.db.Config().ConnConfig.Password)\n",
		[]pair{{"pg.store_password", "PostgreSQL outputs"}},
	}, {
		"the inventory keeps where it is",
		"internal/inventory/store/store.go", "\ts.db.SetMaxOpenConns(atOnce)\n", "\ts.db.SetMaxOpenConns(atOnce)\n\t_, _ = s.db.ExecContext(ctx, \"create table whereabouts as select '\"+dsn+\"'::text as dsn\")\n",
		[]pair{{"pg.store_password", "PostgreSQL inventory"}},
	}, {
		"settings are printed as they are",
		"internal/settings/settings.go", "\t\ts.Value = masked(f)\n", "\t\ts.Value = f.Value.String()\n",
		[]pair{{"inventory.dsn", "settings as printed"}, {"output.dsn", "settings as printed"}},
	}, {
		"the store's password in the worker's log",
		"internal/control/control.go", "\tcentral, closeCentral, err := openCentral(", "\to.Logger.Info(\"the output store\", \"at\", o.Central.Address)\n\tcentral, closeCentral, err := openCentral(",
		[]pair{{"pg.store_password", "log of worker"}},
	},
}

// overlay writes the changed sources, and the file that go build -overlay wants.
func overlay(t *testing.T, all []mutant) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	changed := map[string]string{} // by source file
	for _, m := range all {
		file := filepath.Join(root, m.file)
		if changed[file] == "" {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			changed[file] = string(b)
		}
		if n := strings.Count(changed[file], m.old); n != 1 {
			t.Fatalf("mutant %q: its place is %d times in %s: %q", m.name, n, m.file, m.old)
		}
		changed[file] = strings.Replace(changed[file], m.old, m.with, 1)
	}
	replace := map[string]string{}
	for file, text := range changed {
		to := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(file, root), "/", "_"))
		if err := os.WriteFile(to, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		replace[file] = to
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, inJSON(map[string]any{"Replace": replace}), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestPlantedBugsAreCaught runs programs that have these mistakes in them: each is
// found, in the place where it is made.
func TestPlantedBugsAreCaught(t *testing.T) {
	t.Parallel()
	w := newWorld(t, build(t, "-overlay", overlay(t, mutants)), true)
	s := w.settle()
	processes := w.startSampler(s)
	w.start()
	id := w.beginSuccess()
	w.approve()
	w.starter(0, "watch", id)
	w.starter(0, "show", id)
	w.starter(0, "logs", id)
	w.operate()
	w.decrypt()
	w.fetch(append(w.stores(), id))
	var found []sighting
	w.look(s, &found, map[string]int{})
	found = append(found, processes.end()...)
	seen, list := map[pair]bool{}, w.theList()
	for _, f := range found {
		seen[pair{f.kind, f.place}] = true
	}
	caught := 0
	for _, m := range mutants {
		missed := 0
		for _, p := range m.want {
			switch _, allowed := list[p]; {
			case !w.has(p):
			case allowed:
				missed++
				t.Errorf("%s: %s in %s is on the list: nothing would be noticed", m.name, p.kind, p.place)
			case !seen[p]:
				missed++
				t.Errorf("%s: %s is not found in %s", m.name, p.kind, p.place)
			}
		}
		if missed == 0 {
			caught++
		}
	}
	t.Logf("planted bugs: %d, caught %d", len(mutants), caught)
}
