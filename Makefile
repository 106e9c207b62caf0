# make demo   install into .venv and show it all: a simulated drive through the real node, its topics, score and viewer
#             (BAG=drive for a recording of yours, WEIGHTS=net.safetensors for another network)
# make test   install and run every check and test
# make soak   hold the node under load, garbage and a dying driver for 10 minutes (SOAK_SECONDS)
# make bench  the CPU benchmark, and the live node in real time (BENCH_SCAN=file.bin to choose the scan)
# make bench-gpu  the GPU benchmark, on a machine with a CUDA build of torch (TORCH=torch)

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Pinned here, for the CPU setup of demo, tests and benchmarks, and nowhere else: setup.py takes any torch from 2.4 on.
TORCH ?= torch==2.13.0
SPVNAS_SHARED ?= ../shared
export SPVNAS_SHARED
# Every process of a test would compile the package's sources anew.
export PYTHONDONTWRITEBYTECODE :=
# Tests call colcon and the project's own commands by name.
export PATH := $(abspath $(BIN)):$(PATH)

# With a ROS distribution sourced, its packages serve; without one, ROS 2 comes from PyPI.
ifdef ROS_DISTRO
EXTRAS := simulate,view,train,test
VENV_FLAGS := --system-site-packages
else
EXTRAS := ros,simulate,view,train,test
endif

INSTALLED := $(VENV)/.installed
# vision_msgs and tf2_msgs, which PyPI has not: built once, again when their definitions or the ROS wheels change.
MESSAGES := $(VENV)/.messages
MESSAGE_SOURCES := $(wildcard $(addprefix spvnas_ros/ros/build_messages/,*.py definitions/*/msg/*.msg))

BENCH_SCAN ?= $(wildcard $(SPVNAS_SHARED)/golden/full_scan.bin)
SOAK_SECONDS ?= 600
# Of `unit`; `test` has them already.
KERNELS := kernels

.PHONY: install messages demo test lint kernels unit soak bench bench-gpu clean

install: $(INSTALLED)

$(INSTALLED): setup.py pyproject.toml
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	@# compat: with setuptools' other way a clone that is called spvnas_ros hides the package from the folder above it.
	$(BIN)/python -m pip install --quiet --editable ".[$(EXTRAS)]" --config-settings editable_mode=compat
	touch $@

messages: $(MESSAGES)

# Status 3: this machine cannot build them, as without a compiler. What needs them says so; the rest works.
$(MESSAGES): $(INSTALLED) $(MESSAGE_SOURCES)
	@$(BIN)/python -m spvnas_ros.ros.build_messages && touch $@ || { \
		[ $$? -eq 3 ] && echo "Going on without: what needs it, as the topic label_info, will be missing."; }

demo: $(MESSAGES)
	$(BIN)/python -m spvnas_ros.demo $(BAG) $(if $(WEIGHTS),--weights $(WEIGHTS)) --out runs/demo

# mypy has one core at a time: the kernels are compiled on another.
test:
	$(MAKE) --jobs=2 lint kernels
	$(MAKE) unit KERNELS=

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The CPU kernels of each precision, of frames and of training, compiled once: processes that start together would each compile all of them.
kernels: $(INSTALLED)
	$(BIN)/python test/helpers/compiled_kernels.py

unit: $(MESSAGES) $(KERNELS)
	$(BIN)/python -m pytest --numprocesses=3 --dist=loadfile --no-loadscope-reorder --durations=15

soak: $(MESSAGES)
	$(BIN)/python -m spvnas_ros.trials.soak --seconds $(SOAK_SECONDS)

bench: $(MESSAGES)
	$(BIN)/spvnas bench $(if $(BENCH_SCAN),--scan $(BENCH_SCAN)) --out runs/bench
	rm -rf runs/bench/simulated
	$(BIN)/spvnas simulate --scenes 4 --scans-per-scene 25 --interval 0.4 --out runs/bench/simulated
	$(BIN)/spvnas simulate --format bag --scenes 1 --scans-per-scene 100 --seed 7003 --out runs/bench/drive
	$(BIN)/python -m spvnas_ros.trials.real_time runs/bench/drive/bags/00 --out runs/bench/real_time

bench-gpu: $(INSTALLED)
	$(BIN)/python -m spvnas_ros.bench.gpu $(if $(BENCH_SCAN),--scan $(BENCH_SCAN)) --docs docs/benchmarks.md

clean:
	rm -rf $(VENV) runs build install log *.egg-info
