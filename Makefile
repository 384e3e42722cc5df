# make setup | demo | test | soak | lint | bench | bench-gpu | models | embedded
# Each makes .venv first where it is missing; all can be run again at any time.
# make bench RECORDS=records.jsonl TOKENIZER=directory: on other records, with another tokenizer

PYTHON ?= python3
BIN := .venv/bin
DATA = $(if $(RECORDS),--records $(RECORDS)) $(if $(TOKENIZER),--tokenizer $(TOKENIZER))

.PHONY: setup demo test soak lint bench bench-gpu models embedded

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "streamer needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing into .venv (a few minutes the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup
	@$(BIN)/streamer run

# four processes even on two cores: the tests mostly wait, for signals, disks and other processes
test: setup
	@$(BIN)/python -m pytest -n 4 --dist worksteal

soak: setup
	@$(BIN)/python -m pytest soak

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: setup
	@$(BIN)/python -m bench $(DATA)

bench-gpu: setup
	@$(BIN)/python -m bench $(DATA) --shape gpu --device cuda --bf16

# writes docs/models.md
models: setup
	@$(BIN)/python -m bench.models

embedded: setup
	@$(BIN)/python -m training.build
