# The two commands that matter: `make run` and `make test`. `make help` lists the others.
# Needs python3 (3.11 to 3.13), make and gcc; everything else is set up in .venv/.

PYTHON ?= python3
HOST ?= 127.0.0.1
HTTP_PORT ?= 8080
GRPC_PORT ?= 8081
TRITON_HTTP_PORT ?=
TRITON_GRPC_PORT ?= 8001
TRITON_METRICS_PORT ?= 8002
MODEL_REPOSITORY ?= model_repository

# ONNX Runtime reports its use to Microsoft by default.
export ORT_DISABLE_TELEMETRY := 1
# uv does not compile: a Python that may not write compiled files would compile at every start.
unexport PYTHONDONTWRITEBYTECODE

UV := .venv/uv/bin/uv
SERVE := .venv/serve
EXPORT := .venv/export
DEV := .venv/dev
BENCH := .venv/bench
PEERS := .venv/peers
CLIENTS := .venv/clients
EXAMPLES := .venv/examples
GPU := .venv/gpu
# OpenVINO, 180 MB, is installed only if a model needs it.
OPENVINO := $(if $(shell grep -ls '"runtime": "openvino"' "$(MODEL_REPOSITORY)"/*.manifest.json),.openvino)
SERVE_READY := $(SERVE)/.ready $(addprefix $(SERVE)/,$(OPENVINO))
BENCH_READY := $(BENCH)/.ready $(addprefix $(BENCH)/,$(OPENVINO))
SOURCES := openclip_api gateway server export client examples benchmarks gpu_check robustness deploy tests
PROTO := openclip_api/v1/clip.proto
OPENAPI := openclip_api/openapi.json
# In NVIDIA's images 24.10, 24.12, 25.06, 26.06, 26.07 and 26.08, and the newest tested one.
ONNXRUNTIMES := 1.19.2 1.20.1 1.22.1 1.24.4 1.27.0 1.28.0 1.31.1

protoc = PATH="$(CURDIR)/$(DEV)/bin:$$PATH" $(DEV)/bin/python -m grpc_tools.protoc -I. \
	--python_out=$(1) --mypy_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=$(1) $(PROTO)

# The variables of `make run` and `make exported` as options of `python -m export`.
comma := ,
WANTED = "$(MODEL)" --pretrained "$(PRETRAINED)" --precision "$(PRECISION)" --repository "$(MODEL_REPOSITORY)"
MEASURED = --repository "$(MODEL_REPOSITORY)" $(if $(MODEL),--model $(MODEL)) $(ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run exported serve-ready test test-fast test-clients test-examples test-compose check format proto openapi client-wheel lock export ladder bench bench-compare bench-peers \
	bench-open bench-budget bench-report tune robustness gpu-inputs gpu-check onnxruntimes demo-model setup clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  Variables of run: HOST HTTP_PORT GRPC_PORT TRITON_HTTP_PORT TRITON_GRPC_PORT"
	@echo "  TRITON_METRICS_PORT MODEL_REPOSITORY (without TRITON_HTTP_PORT, Triton serves no HTTP)"
	@echo "  and MODEL PRETRAINED PRECISION, as for exported: a model to export if it is missing;"
	@echo "  MODELS: models to pull first, such as hf://org/name,s3://bucket/name;"
	@echo "  TORCH_INDEX: an index with PyTorch for CPUs, for an export environment of 2 GB, not 6"
	@echo "  of export, ladder, bench, bench-compare, bench-peers, bench-open, bench-budget, tune,"
	@echo "  robustness, gpu-inputs, gpu-check: MODEL ARGS MODEL_REPOSITORY; of test, bench-report: ARGS; of all: PYTHON"

run: $(SERVE_READY) ## Serve the models of MODEL_REPOSITORY without a GPU; first export MODEL=name PRETRAINED=tag if missing, and pull MODELS=address,address
	$(if $(MODELS),@$(SERVE)/bin/python -m export pull --repository "$(MODEL_REPOSITORY)" \
		$(foreach source,$(subst $(comma), ,$(MODELS)),"$(source)"))
	$(if $(MODEL),@$(MAKE) --no-print-directory exported)
	$(if $(MODEL)$(MODELS),@$(MAKE) --no-print-directory serve-ready)
	@exec $(SERVE)/bin/python -m deploy.stack --host $(HOST) --http-port $(HTTP_PORT) \
		--grpc-port $(GRPC_PORT) --triton-http-port "$(TRITON_HTTP_PORT)" \
		--triton-grpc-port $(TRITON_GRPC_PORT) --triton-metrics-port $(TRITON_METRICS_PORT) \
		--model-repository "$(MODEL_REPOSITORY)" \
		$(if $(MODEL),--model "$(MODEL)" --pretrained "$(PRETRAINED)" --precision "$(PRECISION)")

exported: $(SERVE)/.ready ## Export MODEL with PRETRAINED=tag-or-file PRECISION=fp32,int8, unless it is published
	@$(SERVE)/bin/python -m export $(WANTED) --published > /dev/null || { \
		case "$(PRETRAINED)" in */*) test -f "$(PRETRAINED)" || { \
			echo "error: PRETRAINED=$(PRETRAINED): no such file" >&2; exit 1; };; esac; \
		case ",$(PRECISION),$(if $(findstring tensorrt,$(ARGS)),,alone)" in *,fp8,*alone) \
			echo 'error: PRECISION=fp8 needs a GPU that has FP8, and ARGS="--runtime tensorrt"' >&2; exit 1;; esac; \
		$(MAKE) --no-print-directory $(EXPORT)/.ready && $(EXPORT)/bin/python -m export $(WANTED) $(ARGS); }

serve-ready: $(SERVE_READY)
	@:

test: $(DEV)/.ready ## Run every test, against the real Triton
	$(DEV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder --durations 40 $(ARGS)

test-fast: $(DEV)/.ready ## Run the tests of the service and its client that need no export and share one Triton, about two minutes
	$(DEV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder -m "not slow" $(ARGS)

test-clients: $(DEV)/.ready $(CLIENTS)/.ready ## Run the tests with third-party clients: cohere, infinity_client, LiteLLM and more
	$(DEV)/bin/python -m pytest tests/other_clients $(ARGS)

test-examples: $(DEV)/.ready $(EXAMPLES)/.ready ## Run the tests of examples/ with their packages: LanceDB, autofaiss, LlamaIndex and more
	$(DEV)/bin/python -m pytest tests/examples $(ARGS)

check: $(DEV)/.ready ## Check format, lint, types, import contracts, API schemas, Dockerfile, YAML, Helm chart, workflows and Kubernetes files
	$(DEV)/bin/ruff format --check $(SOURCES)
	$(DEV)/bin/ruff check $(SOURCES)
	$(DEV)/bin/mypy
	$(DEV)/bin/mypy --python-version 3.10 --package openclip_triton # the oldest that the client runs on
	PYTHONPATH=client $(DEV)/bin/lint-imports
	@rm -rf .proto && mkdir .proto && $(call protoc,.proto)
	diff -r -x '*.py[co]' -x __pycache__ -x __init__.py -x clip.proto .proto/$(dir $(PROTO)) $(dir $(PROTO))
	@rm -rf .proto
	$(DEV)/bin/python -m tests.gateway.openapi_document | diff $(OPENAPI) -
	$(DEV)/bin/hadolint Dockerfile
	$(DEV)/bin/yamllint --strict .
	$(DEV)/bin/python -m tests.deploy.helm
	$(DEV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(DEV)/bin/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	$(DEV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/feature.yml
	$(DEV)/bin/check-jsonschema --quiet --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml

test-compose: $(DEV)/.ready ## Build the images, serve with them, kill Triton, clean up; skips without Docker
	$(DEV)/bin/python -m tests.deploy.compose

format: $(DEV)/.ready ## Format the code and apply lint's automatic fixes
	$(DEV)/bin/ruff format $(SOURCES)
	$(DEV)/bin/ruff check --fix $(SOURCES)

proto: $(DEV)/.ready ## Regenerate the code of the gRPC API from its proto
	$(call protoc,.)

openapi: $(DEV)/.ready ## Regenerate the OpenAPI document of the REST API from its code
	$(DEV)/bin/python -m tests.gateway.openapi_document > $(OPENAPI)

client-wheel: .venv/build/.ready ## Build the wheel of the Python client into client/dist/
	cd client && ../.venv/build/bin/hatchling build --clean --target wheel

lock: $(UV) ## Regenerate requirements/*.txt from the ranges in pyproject.toml
	UV=$(UV) requirements/lock.sh

export: $(EXPORT)/.ready ## Export MODEL=name with ARGS="--pretrained ..." into MODEL_REPOSITORY
	$(EXPORT)/bin/python -m export $(MODEL) --repository "$(MODEL_REPOSITORY)" $(ARGS)

ladder: $(EXPORT)/.ready ## Export MODEL in every precision, serve each variant, and print one table
	$(EXPORT)/bin/python -m benchmarks.ladder --model $(MODEL) --repository "$(MODEL_REPOSITORY)" $(ARGS)

bench: $(BENCH_READY) ## Load MODEL with Locust at 1, 8, 32 and 128 users: CSV, HTML and a table
	$(BENCH)/bin/python -m benchmarks.load $(MEASURED)

bench-compare: $(BENCH_READY) ## Compare MODEL with the ceilings of this machine, about 15 minutes
	$(BENCH)/bin/python -m benchmarks.compare $(MEASURED)

bench-peers: $(BENCH_READY) $(PEERS)/.ready ## Compare MODEL with plain PyTorch, and with infinity for a ViT-B-32, about 40 minutes
	$(BENCH)/bin/python -m benchmarks.peers --peers-python $(PEERS)/bin/python $(MEASURED)

bench-open: $(BENCH_READY) ## Plot the latency of MODEL against offered load, with the knee
	$(BENCH)/bin/python -m benchmarks.openloop $(MEASURED)

bench-budget: $(BENCH_READY) ## Show the gateway's CPU time per request and stage, with encoders that do no work
	$(BENCH)/bin/python -m benchmarks.stage_budget $(MEASURED)

bench-report: $(BENCH)/.ready ## Draw the plots and write the tables of all finished benchmarks
	$(BENCH)/bin/python -m benchmarks.report $(ARGS)

tune: $(BENCH_READY) ## Try instances, threads, queue delays and batch sizes on this machine
	$(BENCH)/bin/python -m benchmarks.tune $(MEASURED)

robustness: $(BENCH_READY) ## Show how noise, faulty preprocessing, changed texts and single pixels move the vectors of MODEL=id,id
	PYTHONPATH=client $(BENCH)/bin/python -m robustness $(MEASURED)

gpu-inputs: $(EXPORT)/.ready ## Write the files of MODEL for gpu-check, with ARGS="--pretrained ...", into reports/gpu-inputs
	$(EXPORT)/bin/python -m export $(MODEL) --gpu-inputs reports/gpu-inputs $(ARGS)

gpu-check: $(GPU)/.ready ## Check parity, speed, plans and the service on a GPU machine; needs no network
	$(GPU)/bin/python -m gpu_check $(MEASURED)

onnxruntimes: $(UV) ## Compare MODEL_REPOSITORY with its golden vectors in ONNX Runtime 1.19 to 1.31; Python 3.11 or 3.12
	@failed=; for version in $(ONNXRUNTIMES); do \
		$(UV) run --quiet --no-project --isolated --python $(PYTHON) --with "onnxruntime==$$version" --with numpy --with pydantic \
			python -m export.publish.onnxruntimes --repository "$(MODEL_REPOSITORY)" || failed=1; \
	done; test -z "$$failed"

demo-model: $(EXPORT)/.ready ## Retrain the demo model, and export it
	OMP_WAIT_POLICY=PASSIVE $(EXPORT)/bin/python -m export.demo train # spinning threads stall on a busy machine
	$(EXPORT)/bin/python -m export.demo samples
	$(EXPORT)/bin/python -m export export/demo/demo.json \
		--pretrained export/demo/checkpoint.safetensors --id demo --compact \
		--max-batch 32 --evaluate drawn --license apache-2.0

setup: $(SERVE)/.ready $(EXPORT)/.ready $(DEV)/.ready $(BENCH)/.ready ## Set up all environments except those of bench-peers, test-clients, test-examples and gpu-check

clean: ## Remove the environments and caches
	rm -rf .venv client/dist .proto .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find $(SOURCES) -name __pycache__ -type d -exec rm -rf {} +

$(UV): requirements/uv.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else \
		f"Python 3.11 to 3.13 is needed; {sys.executable} is {v.major}.{v.minor}. Set PYTHON=...")'
	$(PYTHON) -m venv .venv/uv
	.venv/uv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes \
		--requirement requirements/uv.txt
	@touch $@

ifneq ($(TORCH_INDEX),)
# torch and torchvision from one index: builds for CUDA and for CPUs do not work together.
$(EXPORT)/.ready: requirements/export.txt requirements/cpu.awk $(UV)
	@echo "Setting up $(@D): with PyTorch from $(TORCH_INDEX), about 2 GB on disk"
	@$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	@awk -f requirements/cpu.awk $< > $(@D)/requirements.txt
	@VIRTUAL_ENV=$(CURDIR)/$(@D) $(UV) pip sync --quiet --require-hashes $(@D)/requirements.txt
	@VIRTUAL_ENV=$(CURDIR)/$(@D) UV_INDEX= UV_EXTRA_INDEX_URL= UV_FIND_LINKS= \
		$(UV) pip install --quiet --no-deps --default-index "$(TORCH_INDEX)" \
		$$(awk '/^torch(vision)?==/ {print $$1}' $<)
	@touch $@
endif

.venv/%/.ready: requirements/%.txt $(UV)
	@echo "Setting up $(@D)$(if $(filter $(EXPORT) $(DEV),$(@D)),: PyTorch and more take about 6 GB on disk)"
	@$(UV) venv --quiet --clear --python $(PYTHON) $(@D)
	@VIRTUAL_ENV=$(CURDIR)/$(@D) $(UV) pip sync --quiet --require-hashes $<
	@touch $@

.venv/%/.openvino: requirements/openvino.txt .venv/%/.ready
	@VIRTUAL_ENV=$(CURDIR)/$(@D) $(UV) pip install --quiet --require-hashes --no-deps --requirement $<
	@touch $@
