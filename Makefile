# Everything runs from one virtual environment in .venv; `make` lists the targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo demo-short labels-demo test test-models test-slow lint format typecheck ui clean
.PHONY: lock install-hashed sbom licences audit coverage scenes labels train scores report publish-run metrics-diff
.PHONY: docs stack deploy stack-stop
.PHONY: bench generated test-formats test-label-studio test-turn faults soak mutation

# A working Python 3.11 or newer; a name on the PATH alone may be a version manager's stub.
ifndef PYTHON
PYTHON := $(shell for name in python3.11 python3; do \
	$$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$name && break; done)
endif

INSTALL := .ci/install .venv/bin/python -c constraints.txt -e

# Stages that DVC starts find `fmbseg` here.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# No telemetry, and no look at the model hub: the default preset needs none.
export DO_NOT_TRACK := 1
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export HF_HUB_OFFLINE := 1
# What is imported is compiled once and not by every stage; `install` leaves it to the first import.
unexport PYTHONDONTWRITEBYTECODE
# Threads that wait must not spin: on a busy machine that costs many times the work itself.
export OMP_WAIT_POLICY := PASSIVE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/.installed  ## create .venv with everything the other targets need

.venv/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@# pip finds out at the end, after pages of names; torch and its CUDA libraries are most of it.
	@test -x .venv/bin/python || test "$$(df -Pm . | awk 'NR == 2 {print $$4}')" -ge 8000 \
	|| { echo "8 GB of free disk are needed for .venv: make room, then run make again" >&2; exit 2; }
	test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	$(INSTALL) '.[pipeline,dev,scenes,onnx,video,notebook]'
	@touch $@

# Stages at once: one seldom keeps two cores at work, and with the tiny models each takes 1.5 GB.
LANES ?= 2
demo: install  ## run the whole pipeline on synthetic scenes and print the result table
	@# Scores of a run that git brought are measured here too, whatever they were made from.
	python -m fmbseg.pipeline.repro --lanes $(LANES) --force-downstream
	fmbseg table
	@echo
	@echo "the report, with pictures: data/report/index.html"
	@echo "figures: data/figures    label maps: data/pseudo/label    the trained head: data/align"
	@echo "runs: make ui            what changed: dvc metrics diff, fmbseg compare"

demo-short: install  ## the same with few scenes, in a scratch copy of the last commit
	.ci/demo-short

scenes: install  ## draw the scenes (the verbs from here on: what is out of date of what they need)
	python -m fmbseg.pipeline.repro --lanes $(LANES) scenes

labels: install  ## stage 1: detect, query, masks, label
	python -m fmbseg.pipeline.repro --lanes $(LANES) label

train: install  ## stage 2: the alignment head
	python -m fmbseg.pipeline.repro --lanes $(LANES) align

scores: install  ## score the head on every benchmark
	python -m fmbseg.pipeline.repro --lanes $(LANES) evaluate
	fmbseg table

report: install  ## plots, figures and the page of all results
	python -m fmbseg.pipeline.repro --lanes $(LANES) report

publish-run: install  ## push the outs and stage dvc.lock and metrics/, for `git commit`
	python -m fmbseg.pipeline.publish

BASE ?= main
metrics-diff: install  ## print how scores differ from those of BASE (main), in Markdown, for a merge request
	@table=$$(dvc metrics diff --md --precision 2 $(BASE)); \
	awk -v base=$(BASE) 'NR < 3 {head = head $$0 ORS} /\| (miou|boundary_iou) +\|/ {rows = rows $$0 ORS} \
		END {if (rows) printf "%s%s", head, rows; else print "no score differs from " base}' <<< "$$table"

labels-demo: install  ## label twelve scenes, and write them for COCO's readers and Label Studio
	fmbseg data scenes --layout folder --images 10 --out data/labels-demo/scenes
	fmbseg label data/labels-demo/scenes/images --vocabulary data/labels-demo/scenes/classes.txt \
		--preset tiny --out data/labels-demo/labels --export coco,label-studio

# A test has one thread, so two at a time take half as long; each process needs 2 GB. `make test JOBS=0`: one.
JOBS ?= 2
test: install  ## run the tests but the slow ones (ARGS is handed to pytest)
	pytest -m 'not slow' -n $(JOBS) --dist loadfile $(ARGS)

coverage: install  ## run the same tests and say which lines and branches they leave out (fails below 90 %)
	rm -rf build/coverage
	mkdir -p build/coverage
	coverage run -m pytest -m 'not slow' -n $(JOBS) --dist loadfile $(ARGS)
	coverage combine --quiet
	coverage report

test-models: install  ## hold the shipped models to the figures they must reach
	pytest -m slow tests/quality/test_shipped_models.py $(ARGS)

test-formats: install  ## open every export by the library that is to read it
	.venv/bin/python -m pip install --quiet --no-deps -r tests/export/readers.txt
	pytest tests/export $(ARGS)

test-label-studio: install  ## send labels through a real Label Studio and back
	test -x .label-studio/bin/python || "$(PYTHON)" -m venv .label-studio
	.label-studio/bin/python -m pip install --quiet -r tests/corrections/label-studio.txt
	LABEL_STUDIO=.label-studio/bin/label-studio pytest tests/corrections/test_label_studio.py $(ARGS)

test-slow: .venv/.installed-slow  ## run the slow tests: whole pipelines, servers, clusters
	pytest -m slow $(ARGS)

test-turn: .venv/.installed-slow  ## run the slow tests whose turn it is: each landing has others
	@# A server that a busy machine keeps waiting may fail a test: what fails is run once more, and named.
	pytest tests -m slow --turn auto -n $(JOBS) --dist loadfile --no-loadscope-reorder -rfEs $(ARGS) \
		|| pytest tests -m slow --turn auto --last-failed --last-failed-no-failures none $(ARGS)

faults: install  ## kills, races, limits, flipped bytes, hostile inputs: figures in build/faults
	python -m tests.faults $(ARGS)

soak: install  ## stage 1 to labels and predictions in one process, memory and handles watched
	python -m tests.faults.soak $(ARGS)

mutation: install  ## change losses, metrics and the like one place at a time: tests must notice
	python -m tests.mutation $(ARGS)

.venv/.installed-slow: .venv/.installed
	$(INSTALL) '.[pipeline,dev,scenes,onnx,video,notebook,scale,search,server,checks,docs]'
	@touch $@

lint: install  ## check style, formatting, and which room imports which
	ruff check .
	ruff format --check .
	lint-imports

format: install  ## format the code and correct what can be corrected safely
	ruff check --fix .
	ruff format .

typecheck: install  ## check types (mypy, strict)
	mypy

bench: install  ## hold what is claimed of speed and memory against the alternatives (ARGS: claims)
	python -m benchmarks $(ARGS)

generated: install  ## write dvc.yaml, libraries.yaml and prefect.yaml anew from the stage table
	python -m fmbseg.pipeline.dvc
	python -m flows.deployments

ui: install  ## show the tracked runs on http://127.0.0.1:5000 (FMBSEG_MLFLOW_PORT)
	python -m flows.stack ui

stack: install  ## start Prefect, MLflow and a worker here (FMBSEG_PREFECT_PORT, FMBSEG_MLFLOW_PORT)
	python -m flows.stack start

deploy: install  ## register fmbseg/full, fmbseg/pseudo-labels, fmbseg/train, fmbseg/evaluate
	python -m flows.stack deploy

stack-stop: install  ## stop what `make stack` started
	python -m flows.stack stop

docs: .venv/.installed-docs  ## build the documentation into build/site
	python -m mkdocs build --quiet

.venv/.installed-docs: .venv/.installed
	$(INSTALL) '.[pipeline,dev,scenes,docs]'
	@touch $@

clean:  ## remove shards, encodings and tool caches; results, runs and .venv stay
	rm -rf .fmbseg build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find fmbseg flows pretraining tests -name __pycache__ -type d -prune -exec rm -rf {} +

lock: .venv/.installed-slow  ## write the installed versions into constraints.txt, with hashes into requirements.lock
	sed -n '/^#/p' constraints.txt > constraints.new
	pip freeze --all --exclude-editable --exclude fmbseg --exclude pip --exclude wheel --exclude uv \
		| LC_ALL=C sort -f >> constraints.new
	mv constraints.new constraints.txt
	.venv/bin/python -m pip install --quiet uv
	sed -n '/^#/p' requirements.lock > requirements.new
	uv pip compile pyproject.toml --extra pipeline --extra dev --extra scenes --python-version 3.11 \
		-c constraints.txt --generate-hashes --no-annotate --no-header --quiet >> requirements.new
	mv requirements.new requirements.lock
	@touch .venv/.installed

install-hashed:  ## create .venv from files with the sha256 of requirements.lock alone
	test -x .venv/bin/python || "$(PYTHON)" -m venv .venv
	.venv/bin/python -m pip install --no-compile --require-hashes --no-deps -r requirements.lock
	.venv/bin/python -m pip install --no-compile --no-deps --no-build-isolation --editable .
	@touch .venv/.installed

# Tools of their own: what they find must not include them.
AUDIT := .venv-audit/bin
.venv-audit/.installed:
	test -x $(AUDIT)/python || "$(PYTHON)" -m venv .venv-audit
	$(AUDIT)/python -m pip install --quiet cyclonedx-bom pip-audit pip-licenses
	@touch $@

sbom: install .venv-audit/.installed  ## list what is installed, in CycloneDX's form: build/sbom.json
	mkdir -p build
	$(AUDIT)/cyclonedx-py environment .venv/bin/python --output-format JSON --output-file build/sbom.json

licences: install .venv-audit/.installed  ## list the licences of what is installed: build/licences.md
	mkdir -p build
	$(AUDIT)/pip-licenses --python=.venv/bin/python --format=markdown --order=license > build/licences.md

audit: .venv-audit/.installed  ## ask for known weaknesses of the pinned versions (needs a network)
	$(AUDIT)/pip-audit --requirement requirements.lock --require-hashes --disable-pip
