# What a developer types. `make demo` shows Almanac at work; `make dev` keeps it running.
# Needs Go, make and a POSIX shell. CONTRIBUTING.md explains the habits behind the targets.

GO      ?= go
BIN     := bin

STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
CHECKS        := inherit,ST1000,ST1020,ST1021,ST1022
WORKFLOWCHECK := go.temporal.io/sdk/contrib/tools/workflowcheck@v0.6.0

# A Temporal server that is there already, running or as a command, need not be built into almanac-dev.
EXTERNAL := $(shell if [ -n "$$TEMPORAL_ADDRESS" ] || command -v temporal >/dev/null 2>&1; then echo yes; fi)
ifeq ($(EXTERNAL),yes)
DEV      := $(BIN)/almanac-dev-external
DEVTAGS  := -tags external
else
DEV      := $(BIN)/almanac-dev
DEVTAGS  :=
endif

.PHONY: help demo dev build almanac-dev test contract lint update bench bench-aws fuzz rehearse crash clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: build almanac-dev ## run the tour: watch it, see it approved, look at it in the Web UI
	@$(DEV) --demo --starter $(BIN)/starter

dev: build almanac-dev ## Temporal, its Web UI, a worker and three nodes, until Ctrl-C
	@$(DEV) --starter $(BIN)/starter

build: ## the programs, into bin/
	@mkdir -p $(BIN)
	$(GO) build -ldflags '-s -w' -o $(BIN)/ ./starter ./worker ./agent

# The first build of the server compiles about a thousand packages. A dot every ten seconds shows that it goes on.
almanac-dev:
	@mkdir -p $(BIN)
	@if [ -x $(DEV) ] || [ -n "$(DEVTAGS)" ]; then \
		cd dev && $(GO) build $(DEVTAGS) -o ../$(DEV) .; \
	else \
		echo "Building a Temporal server and its Web UI into $(DEV): some minutes the first time, seconds after."; \
		echo "(With the temporal command on PATH, or TEMPORAL_ADDRESS set, none is built.)"; \
		( while sleep 10 >/dev/null 2>&1; do printf .; done ) & dots=$$!; \
		trap 'kill $$dots 2>/dev/null' EXIT INT TERM; \
		( cd dev && $(GO) build -o ../$(DEV) . ); code=$$?; \
		kill $$dots 2>/dev/null; trap - EXIT INT TERM; echo; exit $$code; \
	fi

# -count=1: the go command does not see that files outside the module changed.
test: ## all tests, of all modules
	$(GO) test ./...
	cd internal/composecheck && $(GO) test -count=1 ./...
	cd dev && $(GO) test ./...

# In the package's own directory go test shows what a test prints, which is the table.
contract: ## our client, actions and simulated cloud against moto, through a proxy that breaks things
	cd internal/contract && ALMANAC_CONTRACT=1 $(GO) test -count=1

lint: ## gofmt, go vet, staticcheck and workflowcheck, of both modules
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then echo "not gofmt-clean:"; echo "$$files"; exit 1; fi
	$(GO) vet ./...
	cd dev && $(GO) vet ./... && $(GO) vet -tags external ./... && $(GO) vet -tags mutants ./e2e/crash
	cd internal/composecheck && $(GO) vet ./...
	cd internal/awsbench && $(GO) vet . ./ours
	$(GO) run $(STATICCHECK) -checks $(CHECKS) ./...
	cd dev && $(GO) run $(STATICCHECK) -checks $(CHECKS) ./...
	cd internal/awsbench && $(GO) run $(STATICCHECK) -checks $(CHECKS) . ./ours
	$(GO) run $(WORKFLOWCHECK) -config workflows/workflowcheck.config.yaml ./workflows/...

update: ## rewrite every expected file from what the code does now; then read the diff
	UPDATE=1 $(GO) test ./...

bench: ## ratios: a runbook against the same workflow written by hand, a condition against bare CEL; what our caller of AWS can call
	$(GO) test -run '^$$' -bench Condition ./lang/expr
	cd internal/awsbench && $(GO) run .
	cd dev && $(GO) run ./bench

bench-aws: ## our caller of AWS against its generated clients, whose build takes minutes and 3 GB of memory
	cd internal/awsbench && $(GO) run . -generated

# Go fuzzes one function at a time.
FUZZTIME ?= 30s
fuzz: ## every fuzz test for FUZZTIME (30s) each
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r file; do \
		dir=$$(dirname "$$file"); \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$dir $$name"; \
			( cd "$$dir" && $(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) . ) || exit 1; \
		done; \
	done

rehearse: build ## let every step of every shipped runbook fail in memory: what is left behind?
	@for name in $$(cd runbooks && ls */*.test.yaml); do name=$${name%.test.yaml}; \
		$(BIN)/starter rehearse "$$name" > $(BIN)/rehearsal.txt || { cat $(BIN)/rehearsal.txt; exit 1; }; \
		printf '%-24s %s\n' "$$name" "$$(tail -n 1 $(BIN)/rehearsal.txt)"; \
	done

# What was tried and found is printed in the end; docs/crash.md explains it.
crash: ## kill workers, agents and servers at every point: nothing may be lost, done twice or left behind
	cd dev/e2e/crash && ALMANAC_CRASH=all $(GO) test -tags mutants -count 1 -timeout 3h
	cd dev && ALMANAC_CRASH=all ALMANAC_LONG=1 $(GO) test -run 'Killed|Loops' -count 1 -timeout 90m -v ./e2e

clean: ## remove what was built; the state in .almanac stays
	rm -rf $(BIN)
