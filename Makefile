PYTHON ?= python3
BIN := .venv/bin
JOBS ?= 2
STAMP := .venv/.installed
# A file's tests stay together, for they share what they made; what each took is in build/.
PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -rs --durations=10 --junitxml=build/tests-$@.xml

# Images: each is named after its lock file. jax-cpu and torch-cpu are the GPU images' definitions, built without CUDA.
IMAGES := cpu-mpi jax-gpu torch-gpu
CPU_IMAGES := cpu-mpi jax-cpu torch-cpu
LOCKS := $(IMAGES) jax-cpu torch-cpu
EXTRAS_cpu-mpi := emcee mpich nuts report fits
EXTRAS_jax-gpu := nuts smc gpu
EXTRAS_jax-cpu := nuts smc
EXTRAS_torch-gpu := snpe
EXTRAS_torch-cpu := snpe
# Folder or page with torch's CPU builds: pip takes one in place of the default wheel and its gigabytes of CUDA; also for
# the lock and the wheels of torch-cpu.
TORCH_CPU ?=
FIND_TORCH = $(if $(TORCH_CPU),--find-links $(TORCH_CPU) $(if $(findstring ://,$(TORCH_CPU)),--extra-index-url $(TORCH_CPU)))
APPTAINER ?= sh containers/apptainer.sh
# A folder with a root file system to build on, where no registry is reachable; "make build/rootfs" makes one.
BASE ?=
DEBIAN_MIRROR ?= $(shell apt-get indextargets --format '$$(SITE)' 'Created-By: Packages' 2>/dev/null | grep -m1 '/debian/*$$')
# Wheels that any Linux of the last years takes.
MANYLINUX := --platform any --platform manylinux2014_x86_64 $(foreach tag,$(shell seq 5 28),--platform manylinux_2_$(tag)_x86_64)
# Python of the machine that the wheels of gpu-bundle are for; what has no wheel on the registry; the most it may weigh.
BUNDLE_PYTHON ?= 3.12
BUNDLE_BUILT := nflows
BUNDLE_LIMIT_MB := 50
SQUASHFS ?= -comp zstd -Xcompression-level 9

.PHONY: install demo test test-rest test-all mutants check format lint types settings clean images cpu-images test-images locks wheelhouse gpu-bundle gpu-check bench-start bench-nuts bench-nuts-growth bench-emcee bench-snpe bench-truth bench-truth-quick bench-ess bench-planted-modes bench-easy

# Images are made by a chain of rules, and Make would remove them as intermediate files.
.SECONDARY:

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "chainsweep needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(FIND_TORCH) --constraint constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	test -d demo/gaussian_peak || $(BIN)/chainsweep init jobs/gaussian_peak/campaign.toml --out demo/gaussian_peak
	$(BIN)/chainsweep run demo/gaussian_peak

settings: $(STAMP)
	$(BIN)/python docs/make_settings.py

# The quick tests, chosen in tests/selection.py; all others; all.
test: $(STAMP)
	$(PYTEST) -m quick

test-rest: $(STAMP)
	$(PYTEST) -m 'not quick'

test-all: $(STAMP)
	$(PYTEST)
	$(MAKE) bench-truth-quick

# Planted faults, one after the other: do the tests see at least nine in ten? WORD="nuts emcee" chooses by file.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants --jobs $(JOBS) $(WORD)

# Seconds to a first posterior and to the report, cold and warm, compared with plain scripts; GAMMA=FOLDER adds measured photopeaks.
GAMMA ?=
bench-start: $(STAMP)
	$(BIN)/python benchmarks/start.py $(if $(GAMMA),--gamma $(GAMMA))

# Whole campaigns on posteriors with exact answers, beside plain NumPyro and emcee: nothing wrong may be `converged`. An hour.
bench-truth: $(STAMP)
	$(BIN)/python -m benchmarks.truth.run --plain

# Some of them, a data set each, in 5 minutes on two cores; part of test-all.
bench-truth-quick: $(STAMP)
	$(BIN)/python -m benchmarks.truth.run --quick --out build/bench-truth-quick.json

# Effective draws as published compared with the true number, over 1,000 posteriors; a table, build/bench-ess.json and .png.
bench-ess: $(STAMP)
	$(BIN)/python -m benchmarks.ess --searches

# Modes of known mass, planted far from the chains: which of them the mode check sees; a table, build/planted-modes.json.
bench-planted-modes: $(STAMP)
	$(BIN)/python -m benchmarks.planted_modes

# Easy posteriors of five families, 256 data sets each, beside vmapped NumPyro; a table, build/bench-easy.json.
bench-easy: $(STAMP)
	$(BIN)/python -m benchmarks.easy

# NUTS over many data sets compared with the usual ways; a table, and build/bench-nuts.json.
bench-nuts: $(STAMP)
	$(BIN)/python benchmarks/nuts.py

# How its cost grows with data sets, points and parameters.
bench-nuts-growth: $(STAMP)
	$(BIN)/python benchmarks/nuts_growth.py

# emcee over many data sets compared with the usual ways; over MPI ranks and costs of a likelihood; over numbers of data sets.
bench-emcee: $(STAMP)
	$(BIN)/python benchmarks/ensembles.py
	$(BIN)/python benchmarks/ensembles.py --ranks 1 2 4 8
	$(BIN)/python benchmarks/ensembles.py --growth

# SNPE: 20 minutes of training on two cores, then inference, its growth, and sbi's own ways.
bench-snpe: $(STAMP)
	$(BIN)/python benchmarks/snpe.py train
	$(BIN)/python benchmarks/snpe.py infer
	$(BIN)/python benchmarks/snpe.py grow
	$(BIN)/python benchmarks/snpe.py single
	$(BIN)/python benchmarks/snpe.py loop

# What this machine's GPU does: right, fast, resumed. Writes to build/gpu-check/.
gpu-check: $(STAMP)
	$(BIN)/python benchmarks/gpu_check.py

# The wheels that benchmarks/gpu_check.sh installs on a machine that has JAX, NumPyro and torch, and no network.
gpu-bundle: $(STAMP)
	rm -rf build/gpu-bundle.new
	grep -v '^$(BUNDLE_BUILT)==' benchmarks/gpu_bundle.txt | \
	  $(BIN)/python -m pip download --quiet --no-deps --only-binary=:all: --python-version $(BUNDLE_PYTHON) \
	  --implementation cp $(MANYLINUX) --requirement /dev/stdin --dest build/gpu-bundle.new
	grep '^$(BUNDLE_BUILT)==' benchmarks/gpu_bundle.txt | \
	  $(BIN)/python -m pip wheel --quiet --no-deps --requirement /dev/stdin --wheel-dir build/gpu-bundle.new
	ls build/gpu-bundle.new | grep -q '^$(BUNDLE_BUILT)-.*-none-any.whl$$'
	@bytes=$$(cat build/gpu-bundle.new/*.whl | wc -c); \
	  echo "build/gpu-bundle: $$(ls build/gpu-bundle.new | wc -l) wheels for Python $(BUNDLE_PYTHON), $$((bytes / 1000)) kB"; \
	  test $$bytes -le $(BUNDLE_LIMIT_MB)000000 || { echo "that is over $(BUNDLE_LIMIT_MB) MB" >&2; exit 1; }
	rm -rf build/gpu-bundle
	mv build/gpu-bundle.new build/gpu-bundle

# What to run before a commit.
check: format lint types test

format: $(STAMP)
	$(BIN)/ruff format --check .

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

images: $(IMAGES:%=image-%)

# What a machine without a GPU can build and run: for tests.
cpu-images: $(CPU_IMAGES:%=image-%)

# The same from a root file system and wheels that lie here, as on a machine that no registry reaches.
test-images: build/rootfs $(CPU_IMAGES:%=build/wheelhouse/%)
	$(MAKE) -j $(JOBS) cpu-images BASE=build/rootfs SQUASHFS='-comp zstd -Xcompression-level 1'

image-%: build/%.sif
	@ls -l --block-size=MB $<

# The wheels of a wheelhouse made before are used instead of the net.
build/%.sif: containers/locks/%.txt containers/install.sh containers/selftest.py build/wheel/.made $(wildcard containers/*.def)
	$(APPTAINER) build --force --notest --mksquashfs-args '$(SQUASHFS)' \
	  $(if $(wildcard build/wheelhouse/$*),--bind $(CURDIR)/build/wheelhouse/$*:/mnt) \
	  $(if $(BASE),--build-arg BOOTSTRAP=localimage --build-arg FROM=$(BASE)) \
	  --build-arg LOCK=$* --build-arg COMMIT=$(shell git rev-parse HEAD 2>/dev/null || echo unknown) \
	  $@.new containers/$(subst -cpu,-gpu,$*).def
	$(APPTAINER) test --containall --no-home $@.new
	mv $@.new $@

build/wheel/.made: $(STAMP) $(shell find src slurm -type f -not -path '*/__pycache__/*')
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	touch $@

build/rootfs:
	mkdir -p build
	rm -rf $@.new
	debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm $@.new $(DEBIAN_MIRROR)
	rm -rf $@.new/dev/* $@.new/var/cache/apt/* $@.new/var/lib/apt/lists/*
	mv $@.new $@

wheelhouse: build/wheelhouse/$(or $(IMAGE),IMAGE_IS_MISSING)

build/wheelhouse/%: containers/locks/%.txt $(STAMP)
	rm -rf $@ $@.new
	$(BIN)/python -m pip download --quiet --no-deps --require-hashes --python-version 3.11 --implementation cp \
	  --abi cp311 --abi abi3 --abi none $(MANYLINUX) \
	  $(if $(TORCH_CPU),--find-links $(TORCH_CPU)) --requirement $< --dest $@.new
	mv $@.new $@

locks: $(STAMP) $(LOCKS:%=lock-%)

lock-%: $(STAMP)
	$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --no-annotate --custom-compile-command 'make locks' \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_28 --constraint constraints.txt \
	  $(if $(TORCH_CPU),$(if $(filter torch-cpu,$*),--find-links $(TORCH_CPU))) \
	  $(EXTRAS_$*:%=--extra %) pyproject.toml --output-file containers/locks/$*.txt

clean:
	rm -rf .venv demo build dist
