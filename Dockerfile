# Images of the service. Targets: gateway, triton-cpu, load, export, triton-gpu, export-gpu.
# Bases are pinned by version; docs/deployment.md explains how to pin them by digest as well.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.10-py3

FROM ${PYTHON_IMAGE} AS python
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    ORT_DISABLE_TELEMETRY=1
WORKDIR /app

FROM python AS venv
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/venv

FROM venv AS gateway-venv
COPY requirements/gateway.txt requirements/
# Without dependencies here and below: each list is complete, and omits packages that are never imported.
RUN pip install --require-hashes --no-deps --no-compile -r requirements/gateway.txt \
    && pip uninstall --yes setuptools pip

FROM python AS gateway
COPY --from=gateway-venv /opt/venv /opt/venv
COPY deploy/gateway/ deploy/gateway/
COPY openclip_api/ openclip_api/
COPY gateway/ gateway/
RUN install --directory --mode=0700 --owner=10001 --group=10001 /secret
USER 10001:10001
ENV GATEWAY_HOST=0.0.0.0 \
    GATEWAY_METRICS_PORT=8082 \
    GATEWAY_MODEL_REPOSITORY=/models \
    GATEWAY_LOG_FORMAT=json
EXPOSE 8080 8081 8082
HEALTHCHECK --interval=10s --timeout=6s --start-period=60s --retries=3 \
    CMD ["python", "deploy/gateway/healthy.py"]
ENTRYPOINT ["python", "-m", "gateway"]
LABEL org.opencontainers.image.title="openclip-triton gateway" \
    org.opencontainers.image.description="REST and gRPC API of OpenCLIP models" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM venv AS triton-venv
# "triton openvino" serves models in BF16 as well.
ARG TRITON_REQUIREMENTS=triton
COPY requirements/triton.txt requirements/openvino.txt requirements/
RUN for list in ${TRITON_REQUIREMENTS}; do \
        pip install --require-hashes --no-deps --no-compile -r "requirements/$list.txt" || exit 1; \
    done \
    && pip uninstall --yes setuptools pip

FROM python AS triton-cpu
COPY --from=triton-venv /opt/venv /opt/venv
COPY server/ server/
# A new volume mounted there gets this owner.
RUN install --directory --mode=0700 --owner=10001 --group=10001 /secret
USER 10001:10001
EXPOSE 8001 8002
HEALTHCHECK --interval=10s --timeout=6s --start-period=300s --retries=3 \
    CMD ["python", "-m", "server.health", "127.0.0.1:8001"]
ENTRYPOINT ["python", "-m", "server", "--host", "0.0.0.0", "--model-repository", "/models"]
LABEL org.opencontainers.image.title="openclip-triton triton-cpu" \
    org.opencontainers.image.description="Triton with backends for CPUs" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM venv AS load-venv
COPY requirements/bench.txt requirements/
RUN pip install --require-hashes --no-deps --no-compile -r requirements/bench.txt \
    && pip uninstall --yes setuptools pip

FROM python AS load
COPY --from=load-venv /opt/venv /opt/venv
COPY openclip_api/ openclip_api/
COPY gateway/ gateway/
COPY client/ client/
COPY benchmarks/ benchmarks/
USER 10001:10001
ENV PYTHONPATH=/app:/app/client \
    HOME=/tmp
EXPOSE 8089
ENTRYPOINT ["locust", "-f", "benchmarks/locustfile.py"]
LABEL org.opencontainers.image.title="openclip-triton load" \
    org.opencontainers.image.description="Locust users of the service" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM venv AS export-venv
# An index with PyTorch for CPUs, 2 GB instead of 6; no list has its hashes.
ARG TORCH_INDEX=
COPY requirements/export.txt requirements/cpu.awk requirements/
RUN list=requirements/export.txt \
    && if [ -n "${TORCH_INDEX}" ]; then \
        awk '/^torch(vision)?==/ {print $1}' "$list" > requirements/torch.txt \
        && awk -f requirements/cpu.awk "$list" > requirements/cpu.txt \
        && pip install --no-deps --no-compile --index-url "${TORCH_INDEX}" -r requirements/torch.txt \
        && list=requirements/cpu.txt; \
    fi \
    && pip install --require-hashes --no-deps --no-compile -r "$list" \
    && pip uninstall --yes setuptools pip

FROM python AS export
COPY --from=export-venv /opt/venv /opt/venv
COPY gateway/ gateway/
COPY export/ export/
COPY docs/samples/ docs/samples/
USER 10001:10001
ENV HOME=/tmp
ENTRYPOINT ["python", "-m", "export"]
LABEL org.opencontainers.image.title="openclip-triton export" \
    org.opencontainers.image.description="Exports OpenCLIP models for Triton" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM ${TRITON_IMAGE} AS triton-gpu
WORKDIR /app
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app
COPY server/ server/
COPY export/ export/
COPY deploy/triton/ deploy/triton/
RUN install --directory --mode=0700 --owner=10001 --group=10001 /secret
USER 10001:10001
EXPOSE 8001 8002
# NVIDIA's image has no gRPC client. Triton listens here once every model is loaded, and exits if one fails.
HEALTHCHECK --interval=10s --timeout=6s --start-period=600s --retries=3 \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8002/metrics', timeout=5)"]
# NVIDIA's entry first: where the driver is older than the image's CUDA, it puts CUDA's forward compatibility libraries on
# the path, and then becomes the command.
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python3", "deploy/triton/serve.py", "/models"]
LABEL org.opencontainers.image.title="openclip-triton triton-gpu" \
    org.opencontainers.image.description="NVIDIA's Triton, which checks TensorRT plans before it serves" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM ${TRITON_IMAGE} AS export-gpu
WORKDIR /app
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HOME=/tmp
COPY requirements/export.txt requirements/
COPY requirements/tensorrt/ requirements/tensorrt/
# Without ensurepip, which Ubuntu omits; the image's own pip installs into it.
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --require-hashes --no-deps \
        --no-compile -r requirements/export.txt
COPY export/ export/
COPY gateway/ gateway/
COPY docs/samples/ docs/samples/
COPY deploy/triton/ deploy/triton/
# Bindings of the TensorRT that Triton has in this image, without a second copy of the library.
RUN list="$(PYTHONPATH=. python3 deploy/triton/bindings.py)" \
    && python3 -m pip --python /opt/venv/bin/python install --require-hashes --no-deps -r "$list" \
    && cp deploy/triton/tensorrt.py "$(python -c 'import site; print(site.getsitepackages()[0])')"
USER 10001:10001
ENTRYPOINT ["/opt/nvidia/nvidia_entrypoint.sh", "python", "-m", "export"]
LABEL org.opencontainers.image.title="openclip-triton export-gpu" \
    org.opencontainers.image.description="Exports OpenCLIP models, with TensorRT plans" \
    org.opencontainers.image.licenses="Apache-2.0"
