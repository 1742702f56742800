# make demo and make test each set everything up first; a second call sets nothing up again.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN = .venv/bin
READY = .venv/.ready

.PHONY: help setup demo test test-slow test-browser lab ui export notebooks docs docs-links lint bench bench-gpu bench-flow-env clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## make the virtual environment (done by every other target)

$(READY): settings.ini setup.py pyproject.toml
	@test -n "$(PYTHON)" || { echo "har_nb needs Python 3.11 or newer: install it, or name it with make PYTHON=/path/to/python"; exit 1; }
	@echo "Setting up .venv with $(PYTHON) (about 8 GB, a few minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --upgrade pip uv
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable '.[dev]' \
		|| $(BIN)/python -m pip install --editable '.[dev]'
	@touch $(READY)

demo: $(READY)  ## build the built-in set, run the motion embedding table on it, print the result
	@$(BIN)/har demo

test: $(READY)  ## everything that must hold, in minutes
	@$(BIN)/python -m pytest -m 'not slow' -n 2 --dist worksteal

test-slow: $(READY)  ## what takes longer, an hour or two
	@$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

test-browser: $(READY)  ## JupyterLab and the MLflow page in a real Chromium, where there is one (part of test-slow)
	@$(BIN)/python -m pytest -m slow tests/browser

lab: $(READY)  ## JupyterLab on the notebooks
	@$(BIN)/har lab

ui: $(READY)  ## the MLflow page on the runs
	@$(BIN)/har ui

export: $(READY)  ## notebooks -> har_nb/ and README.md
	@$(BIN)/nbdev-export && $(BIN)/python -c "from har_nb.tools.book import write_readme; write_readme()"

notebooks: $(READY)  ## run every notebook in place, keep outputs, clean metadata (NB=nbs/motion/00_mei.ipynb for one)
	@$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=1200 $(or $(NB),$(shell find nbs -name "*.ipynb" -not -path "*/.ipynb_checkpoints/*" | sort))
	@$(BIN)/nbdev-clean

docs: $(READY)  ## the notebooks as web pages in _docs/, every link inside them checked
	@$(BIN)/python -c "from har_nb.tools.web import write_docs; print('Open', write_docs())"

docs-links: $(READY)  ## ask every address outside of them whether it answers (needs the network)
	@$(BIN)/python -c "from har_nb.tools.web import outside_links; t = outside_links(); print(t.to_string(index=False)); raise SystemExit(bool((t.status == 'broken').any()))"

lint: $(READY)  ## ruff over notebooks and tests
	@$(BIN)/ruff check .

bench: $(READY)  ## write bench/results.md (PARTS=flow for a part of it)
	@$(BIN)/python bench/run.py $(PARTS)

bench-gpu: $(if $(WHEELS),,$(READY))  ## what needs a GPU, in eight minutes, into bench/results.md (WHEELS=folder where nothing can be fetched)
	@$(if $(WHEELS),$(PYTHON),$(BIN)/python) bench/gpu.py $(if $(WHEELS),--wheels $(WHEELS)) $(PARTS)

bench-flow-env:  ## OpenCV's and scikit-image's optical flow, which make bench compares with, in an environment of their own
	@test -x .venv-flow/bin/python || $(PYTHON) -m venv .venv-flow
	@.venv-flow/bin/python -m pip install --quiet opencv-contrib-python scikit-image numpy

clean:  ## remove the environment and caches; data/ and mlruns/ stay
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
