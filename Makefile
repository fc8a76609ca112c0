# make demo   the whole way on a tiny model, from nothing but Python and make
# make test   all tests that this machine can run
# make docs   the documentation as a site, in build/docs
# make cuda   tests of the GPU half: the real PyCUDA and the real kernels, on the processor
# make gpu-check  tests and times the kernels on a GPU that is really there
# make bench  what a prediction costs here, beside PyTorch and ONNX Runtime and OpenVINO alone: docs/benchmarks.md
# make bench-all  the same of every system
# make check  format, lint, types, import contracts, docs, tests: what gates a change

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= 2
# PyAudio is built where the system package portaudio19-dev is; without it, tests of microphones are skipped.
MIC := $(if $(wildcard /usr/include/portaudio.h),$(shell echo ,)mic)
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-code test-live cuda cuda-in-any-order cuda-within-bounds host-cuda gpu-check check format lint types contracts docs device jetson-check results soak scaling systems bench bench-all stress voice weights check-slow clean

help:
	@sed -n 's/^# //p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing edge-mer with its workbench into $(VENV)"
	$(BIN)/python $(PIP_INSTALL) -e '.[export,calibrate]'
	@touch $@

$(VENV)/dev.stamp: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing edge-mer with its workbench and its tests into $(VENV)"
	$(BIN)/python $(PIP_INSTALL) -e '.[export,calibrate,dev$(MIC)]'
	@touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp
	$(BIN)/edge-mer demo --out demo

test: test-code test-live

test-code: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS) -m 'not slow and not live' --durations 40 --durations-min 2
	@$(BIN)/python tests/helpers/system_packages.py

# Devices, or what stands for them, in real time: they mostly wait, and want what they wait for in time.
test-live: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -q -raR -n 3 --dist worksteal -m 'live and not slow' --durations 10 --durations-min 2 tests/e2e tests/unit/sources tests/unit/sinks tests/unit/runtime tests/docs

check: $(VENV)/dev.stamp lint types contracts docs test device cuda

format: $(VENV)/dev.stamp
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Against PyCUDA and the vendor's own bindings of the oldest TensorRT in the field; callers against the newest too.
types: $(VENV)/dev.stamp host-cuda
	@$(BIN)/python tests/helpers/tensorrt_bindings.py
	@$(BIN)/python tests/helpers/pycuda_bindings.py
	MYPYPATH=build/pycuda/typings:build/tensorrt/10.3.0/typings $(BIN)/mypy
	MYPYPATH=build/pycuda/typings:build/tensorrt/11.4.0/typings $(BIN)/mypy -p edge_mer

contracts: $(VENV)/dev.stamp
	$(BIN)/lint-imports --no-cache

# The whole project is Sphinx's source, so that links between README, docs and records are plain paths.
docs: $(VENV)/dev.stamp
	$(BIN)/sphinx-build -n -W --keep-going -q -c docs -d build/docs-cache . build/docs
	@echo "The documentation is build/docs/index.html"

# The half that runs on the device, on the Pythons of JetPack 6 and 7, where they are found; each runs its share.
device: $(VENV)/dev.stamp
	$(BIN)/python tests/helpers/device_pythons.py

# A CUDA driver of the host, and PyCUDA from its sources, into build/host-cuda; needs g++ and Python's headers.
host-cuda: $(BIN)/python
	$(BIN)/python tests/host_cuda/build.py

# With NICE="nice -n 19" these give way to tests that go by the clock.
cuda: cuda-in-any-order cuda-within-bounds

cuda-in-any-order: host-cuda $(VENV)/dev.stamp
	$(NICE) $(BIN)/python tests/host_cuda/run.py $(BIN)/python -m pytest -q -n $(JOBS) tests/cuda tests/tensorrt

cuda-within-bounds: host-cuda $(VENV)/dev.stamp
	$(NICE) $(BIN)/python tests/host_cuda/run.py --asan $(BIN)/python -m pytest -q tests/cuda

# The same tests on a GPU that is really there, under compute-sanitizer too, and how fast the kernels are: a table, and
# benchmarks/results. Needs a CUDA toolkit and this Python's PyTorch; docs/gpu-check.md
gpu-check:
	$(PYTHON) benchmarks/gpu/install.py
	.venv-gpu/bin/python -m benchmarks.gpu

# docs/jetson-check.md anew: numbers on an emulated aarch64 against x86-64, and wheels for JetPack's Pythons
jetson-check: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.jetson

# docs/results.md anew, from the weights that come along
results: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/results.py

# docs/soak.md anew: live sessions for half an hour and for simulated days, while sensors break; then the daemon, with a
# hundred changes of bundle and a hundred kills; an hour
soak: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.soak

# docs/scaling.md anew: what a bed and a corpus cost here, and the arithmetic for many, of the systems whose bundles
# bench-all left; on a machine that does nothing else; less than 15 minutes
scaling: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.scaling

# docs/systems.md anew: four published systems and one of our own at full size; an hour
systems: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/systems.py

# docs/benchmarks.md anew: what a prediction costs here, in PyTorch, and as one ONNX of the whole model; on a machine
# that does nothing else; 20 minutes the first time, of which half is bundles, which are kept in build/bench
bench: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.speed

# the same of the other systems too; hours
bench-all: $(VENV)/dev.stamp
	$(BIN)/python -m benchmarks.speed jmt jmt-pain jmt-tiny jca rjcma group

# docs/stress-e4.md and its weights anew, from a copy of the Stress-Predict data set: make stress DATA=folder
stress: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/stress_e4.py $(DATA) --weights

# docs/voice-emodb.md and its weights anew, from a copy of EmoDB's recordings: make voice DATA=folder
voice: $(VENV)/dev.stamp
	$(BIN)/python benchmarks/voice_emodb.py $(DATA) --weights

# The weights that come along anew, of models that learn from simulated people: the same command as a user's own training
weights: $(VENV)/dev.stamp
	rm -rf build/train
	$(BIN)/edge-mer train jmt-tiny --out build/train/jmt-tiny
	$(BIN)/edge-mer train pain-tiny --out build/train/pain-tiny
	cp build/train/jmt-tiny/model.safetensors export/edge_mer_export/weights/jmt-tiny.safetensors
	cp build/train/pain-tiny/model.safetensors export/edge_mer_export/weights/pain-tiny.safetensors

check-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow
	$(BIN)/python tests/helpers/device_pythons.py --whole

clean:
	rm -rf $(VENV) .venv-device-* .venv-gpu demo build
