# Everything needs only Go, make and git: `make help` says what there is.

# The same builds everywhere, with or without a C compiler.
export CGO_ENABLED := 0
# A go.work of the user's is not ours.
export GOWORK := off

# Modules with tests of their own; dev/tools only names versions.
MODULES := . dev dev/temporal examples/pipelines

PIPELINES ?= examples/weather/pipelines
FUZZTIME ?= 30s
SCHEDULES ?= 10000

.DEFAULT_GOAL := help

##@ Use

.PHONY: help
help: ## Say what each target does
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: .penstock/bin/penstock-demo ## Watch real files start real pipelines, once each; ends by itself [ARGS=-keep]
	@exec .penstock/bin/penstock-demo $(ARGS)

.PHONY: dev
dev: .penstock/bin/penstock-dev ## Run everything here: make dev [PIPELINES=dir] [WORKERS=serverless] [STATE=dir] [ARGS="-push ..."]
	@exec .penstock/bin/penstock-dev -pipelines "$(PIPELINES)" $(if $(WORKERS),-workers "$(WORKERS)") $(if $(STATE),-state "$(STATE)") $(ARGS)

# Not `go run`: it does not pass every signal on.
.PHONY: .penstock/bin/penstock-dev .penstock/bin/penstock-demo .penstock/bin/penstock-chaos
.penstock/bin/penstock-dev .penstock/bin/penstock-demo .penstock/bin/penstock-chaos:
	@mkdir -p .penstock/bin
	@test -x $@ || echo "building   $(@F): the first time takes about two minutes"
	@cd dev && go build -o ../$@ ./cmd/$(patsubst penstock-chaos,chaos,$(patsubst penstock-demo,demo,$(@F)))

.PHONY: build
build: ## Build the CLI into .penstock/bin/penstock
	@mkdir -p .penstock/bin
	go build -o .penstock/bin/penstock ./cmd/penstock

.PHONY: image
image: ## Build the worker's container image without Docker
	scripts/build-image

.PHONY: image-check
image-check: ## Build the image, and start and stop the worker from it
	scripts/build-image --check

##@ Check

.PHONY: test
test: check-generated lint test-unit simulate test-e2e chaos-short ## Run every check but test-terraform: what CI runs

.PHONY: test-unit
test-unit: ## Test every package of every module, without the local stack
	@for module in $(MODULES); do \
		echo "test $$module"; \
		(cd $$module && go test $$(go list ./... | grep -v -e '/dev/e2e' -e '/dev/stack')) || exit 1; \
	done

.PHONY: test-e2e
test-e2e: ## Test the whole on the local stack: a real Temporal server, real Beam pipelines
	cd dev && go test -timeout 30m ./stack/... ./e2e/...

.PHONY: chaos
chaos: .penstock/bin/penstock-chaos ## Kill, starve and lie to all of it, and check [SCENARIO=a,b] [SIZE=full] [SEED=n] [ARGS=-v]
	@exec .penstock/bin/penstock-chaos $(if $(SCENARIO),-scenario "$(SCENARIO)") $(if $(SIZE),-size $(SIZE)) $(if $(SEED),-seed $(SEED)) $(ARGS)

.PHONY: chaos-short
chaos-short: .penstock/bin/penstock-chaos ## The same in little, for every commit: a minute or two
	@exec .penstock/bin/penstock-chaos -size short $(if $(SEED),-seed $(SEED)) $(ARGS)

.PHONY: soak
soak: .penstock/bin/penstock-chaos ## Put load and random trouble on it for DURATION (2h), and watch its memory [SEED=n]
	@exec .penstock/bin/penstock-chaos -soak $(or $(DURATION),2h) $(if $(SEED),-seed $(SEED)) $(ARGS)

.PHONY: chaos-mutants
chaos-mutants: .penstock/bin/penstock-chaos ## Take one mechanism out at a time, and see a scenario notice [MUTANT="a b"]
	@exec .penstock/bin/penstock-chaos -mutants $(if $(SEED),-seed $(SEED)) $(ARGS) $(MUTANT)

.PHONY: simulate
simulate: ## Run random SCHEDULES (10000) of the workflows, or the one of a SEED with its trace
	go test ./worker -count=1 -v -timeout 20m -run '^TestSchedules$$' $(if $(SEED),-seed $(SEED),-schedules $(SCHEDULES))

.PHONY: test-terraform
test-terraform: ## Validate, test and plan terraform/, and hold the plans to the policies
	scripts/test-terraform

.PHONY: lint
lint: ## Lint every module, and the workflows for what would not replay
	scripts/lint

.PHONY: check-generated
check-generated: ## Check that generated files are up to date
	scripts/check-generated

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME (30s)
	scripts/fuzz $(FUZZTIME)

.PHONY: bench
bench: ## Measure the hot paths
	go test -run '^$$' -bench . -benchmem ./...
	cd dev && go test -run '^$$' -bench . -benchmem ./...

##@ Tidy

.PHONY: generate
generate: ## Bring generated files up to date
	go generate ./...

.PHONY: clean
clean: ## Remove what was built, and the state of the local stack
	rm -rf .penstock
