# setup: .venv with everything | demo: the main job on the built-in corpus | test: all checks | bench: benchmarks
# interop: exports and imports in transformers 4.57, llama.cpp and lm-evaluation-harness, too (about 2 minutes, and
#   once 15 more, in which llama.cpp is built)
# docs: the outputs and pictures that pages show, anew | chaos: harm runs in every way that they survive, and report
PYTHON ?= python3
PIP_ARGS ?=
CHAOS_MINUTES ?=
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: setup demo test bench chaos interop docs clean

setup: $(VENV)/.ready

# A torch that is already in .venv stays: people choose their own build first.
$(VENV)/.ready: pyproject.toml constraints.txt Makefile
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "llamita needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install $(PIP_ARGS) torch==$(TORCH)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/pip install $(PIP_ARGS) -c $(VENV)/constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/llamita demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -n auto

bench: setup
	$(BIN)/python benchmarks/all.py

chaos: setup
	$(BIN)/python -m tests.chaos $(if $(CHAOS_MINUTES),--minutes $(CHAOS_MINUTES))

# Beside the transformers of .venv, which `test` runs the same tests with.
OLD := $(VENV)/transformers-4.57
# What `setup` doesn't install: make interop LLAMA_CPP=FOLDER LM_EVAL=VENV takes what is elsewhere. The latter is a venv
# beside .venv that sees its packages, for lm-eval wants other versions of some.
LLAMA_CPP := $(VENV)/llama-cpp
LM_EVAL := $(VENV)/lm-eval
FOREIGN := tests/interop/test_llama_cpp.py tests/interop/test_lm_eval.py
interop: setup
	test -f $(OLD)/.ready || $(BIN)/pip install $(PIP_ARGS) --no-deps --upgrade --target $(OLD) \
		transformers==4.57.6 huggingface-hub==0.36.2 tokenizers==0.22.2
	touch $(OLD)/.ready
	test -f $(LLAMA_CPP)/llama_cpp/__init__.py || $(BIN)/pip install $(PIP_ARGS) --no-deps --upgrade \
		--target $(LLAMA_CPP) llama-cpp-python==0.3.36 diskcache==5.6.3
	test -x $(LM_EVAL)/bin/lm_eval || { $(BIN)/python -m venv $(LM_EVAL) && \
		$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
			> $$(echo $(LM_EVAL)/lib/python*/site-packages)/llamita.pth && \
		$(LM_EVAL)/bin/pip install $(PIP_ARGS) 'lm-eval[hf]==0.4.13'; }
	LLAMITA_NO_SKIPS=1 PYTHONPATH=$(OLD) $(BIN)/pytest -n auto tests/interop $(FOREIGN:%=--ignore=%)
	LLAMITA_NO_SKIPS=1 PYTHONPATH=$(LLAMA_CPP) $(LM_EVAL)/bin/python -m pytest -n auto $(FOREIGN)

docs: setup
	test -f runs/demo/report.json || $(BIN)/llamita demo
	$(BIN)/python docs/refresh.py docs/embeddings.md
	cp runs/demo/embeddings.png docs/embeddings-map.png
	cp runs/demo/loss.png docs/demo-loss.png

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
