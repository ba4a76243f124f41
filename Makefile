# Two commands matter: `make demo` and `make test`. Both set everything up first.
.DEFAULT_GOAL := help
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip
TORCH_CPU := https://download.pytorch.org/whl/cpu
APT_PACKAGES := libegl1 libegl-mesa0 libgl1-mesa-dri libosmesa6 libgles2 libusb-1.0-0
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3,10) <= sys.version_info < (3,14))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help setup system demo test lint bench clean

help:
	@echo "make demo    set up, then run the dual system on the twin: one episode of each task"
	@echo "make test    set up, then run every check: ruff, mypy, import-linter, pytest"
	@echo "make bench   set up, then run the benchmarks (all but seams, which takes hours)"
	@echo "make clean   remove .venv and caches (recordings in runs/ stay)"

setup: system $(VENV)/.installed

# Off-screen rendering needs Mesa, the cameras' SDK needs libusb, venv needs ensurepip. Debian has them; what is missing
# is installed if we may.
system:
	@[ -n "$(PYTHON)" ] || { echo "Python 3.10 to 3.13 is needed; try: sudo apt-get install python3 python3-venv"; exit 1; }
	@need=""; \
	export PATH="$$PATH:/usr/sbin:/sbin"; \
	for library in libOSMesa 'libEGL\.so\.1' 'libusb-1\.0\.so\.0'; do \
		ldconfig -p | grep -q "$$library" || need="$(APT_PACKAGES)"; done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		need="$$need $$(basename $$($(PYTHON) -c 'import sys; print("python%d.%d" % sys.version_info[:2])'))-venv"; \
	[ -z "$$need" ] && exit 0; \
	if ! command -v apt-get >/dev/null; then echo "Please install the equivalents of: $$need"; exit 1; fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=""; elif sudo -n true 2>/dev/null; then sudo="sudo -n"; else \
		echo "Debian packages are missing. Run this once, then try again:"; \
		echo "    sudo apt-get update && sudo apt-get install -y $$need"; exit 1; fi; \
	echo "Installing Debian packages: $$need"; \
	$$sudo apt-get update -q >/dev/null && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$need >/dev/null

# PyPI's torch for Linux brings gigabytes of CUDA. Without an NVIDIA driver PyTorch's CPU build is taken first; where its
# index cannot be reached, whatever the second line finds will do.
$(VENV)/.installed: pyproject.toml constraints.txt | system
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time: torch is large)"
	@[ "$$(uname -s)" != Linux ] || command -v nvidia-smi >/dev/null || $(PIP) install --no-deps --retries 2 --timeout 10 \
		--index-url $(TORCH_CPU) $$(sed -n 's/^torch==[^ ]*/&/p' constraints.txt) >/dev/null 2>&1 || true
	@PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(PIP) install -q -e '.[sim,convert,teleop,learn,onnx,openvino,tensorrt,export,robot,rerun,ros,dev]'
	@touch $@

demo: setup
	@$(BIN)/syvla demo $(ARGS)

test: setup lint
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@mkdir -p runs
	@status=0; for name in transport link lockstep loop takeover demonstrator closed-loop cameras recorder disk expert planner \
		policy reaction; do \
		$(BIN)/syvla bench $$name --json runs/bench-$$name.json || status=1; done; exit $$status

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
