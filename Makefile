# make demo    the main job on a sample, headless; results in demo-output/
# make test    the whole suite under Xvfb
# make lint    ruff and mypy
# make wheel   the wheel and the source distribution in dist/
#
# Settings: PYTHON=… (3.11 to 3.13), VENV=…, ARGS=… (for pytest), TORCH_INDEX_URL=… (where torch comes from).

VENV ?= .venv
DEMO ?= demo-output
ARGS ?=
BIN := $(VENV)/bin
SETUP := tools/environment.sh

.PHONY: demo test lint wheel clean
.DELETE_ON_ERROR:

demo: $(VENV)/.base
	$(BIN)/napari-deblur demo -o $(DEMO) --overwrite

test: $(VENV)/.dev
	$(SETUP) system
	xvfb-run -a -s "-screen 0 1600x1200x24" $(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) dist build demo-output

$(VENV)/.torch: tools/environment.sh
	$(SETUP) venv $(VENV)
	$(SETUP) torch $(VENV)
	@touch $@

$(VENV)/.base: pyproject.toml $(VENV)/.torch
	$(SETUP) package $(VENV)
	@touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.torch
	$(SETUP) package $(VENV) all,dev
	@touch $@ $(VENV)/.base
