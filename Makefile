PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
STAMP := .venv/.installed

# Images: each is named after its lock file. jax-cpu and torch-cpu are the GPU images' definitions, built without CUDA.
IMAGES := cpu-mpi jax-gpu torch-gpu
LOCKS := $(IMAGES) jax-cpu torch-cpu
EXTRAS_cpu-mpi := emcee mpich nuts report fits
EXTRAS_jax-gpu := nuts smc gpu
EXTRAS_jax-cpu := nuts smc
EXTRAS_torch-gpu := snpe
EXTRAS_torch-cpu := snpe
# Folder or page with torch's CPU builds, for the lock and the wheels of torch-cpu.
TORCH_CPU ?=
APPTAINER ?= apptainer
# For instance: BUILD_ARGS='--build-arg BOOTSTRAP=localimage --build-arg FROM=/shared/rootfs'
BUILD_ARGS ?=

.PHONY: install demo test check format lint types clean images locks wheelhouse

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "chainsweep needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	test -d demo/gaussian_peak || $(BIN)/chainsweep init jobs/gaussian_peak/campaign.toml --out demo/gaussian_peak
	$(BIN)/chainsweep run demo/gaussian_peak

test: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

check: format lint types test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

images: $(IMAGES:%=image-%)

# The wheels of a wheelhouse made before are used instead of the net.
image-%: build/wheel/.made
	$(APPTAINER) build --force --notest $(if $(wildcard build/wheelhouse/$*),--bind $(CURDIR)/build/wheelhouse/$*:/mnt) --build-arg LOCK=$* --build-arg COMMIT=$(shell git rev-parse HEAD 2>/dev/null || echo unknown) $(BUILD_ARGS) build/$*.sif containers/$(subst -cpu,-gpu,$*).def
	$(APPTAINER) test --containall --no-home build/$*.sif
	@ls -l --block-size=MB build/$*.sif

build/wheel/.made: pyproject.toml $(shell find src slurm -type f -not -path '*/__pycache__/*')
	rm -rf build/wheel
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	touch $@

wheelhouse:
	test -f 'containers/locks/$(IMAGE).txt' || { echo 'make wheelhouse IMAGE=...: one of $(LOCKS)'; exit 2; }
	$(PYTHON) -m pip download --quiet --no-deps --require-hashes --python-version 3.11 --implementation cp --abi cp311 --abi abi3 --abi none $(foreach tag,28 27 26 24 17 12,--platform manylinux_2_$(tag)_x86_64) --platform manylinux2014_x86_64 --platform any $(if $(TORCH_CPU),--find-links $(TORCH_CPU)) --requirement containers/locks/$(IMAGE).txt --dest build/wheelhouse/$(IMAGE)

locks: $(STAMP) $(LOCKS:%=lock-%)

lock-%: $(STAMP)
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint constraints.txt $(if $(TORCH_CPU),$(if $(filter torch-cpu,$*),--find-links $(TORCH_CPU))) --custom-compile-command 'make locks' $(EXTRAS_$*:%=--extra %) pyproject.toml --output-file containers/locks/$*.txt

clean:
	rm -rf .venv demo build dist
