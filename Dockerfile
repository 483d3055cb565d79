# The container that SageMaker starts with `docker run IMAGE serve`.
#
#   docker build -t rag-inference .
#   docker run --rm -p 8080:8080 rag-inference serve
#
# `make build` does the first with the version of pyproject.toml as a label.
#
# --build-arg TORCH="torch==2.13.0 --index-url <the wheels' index>"   the torch of a CPU or a CUDA build
# --build-context artifact=build/artifact   includes an artifact (`make artifact`) in the image, for use without S3
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Empty, unless --build-context replaces it by a directory.
FROM scratch AS artifact
WORKDIR /none

FROM ${BASE_IMAGE} AS packages
ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt
COPY requirements.txt .
# Installed by the base image's pip, so that the environment has none. Headers, compilers and test suites of the wheels
# are removed. TORCH may contain options, so it is split into words; it comes last, because its Python dependencies are
# in the lock.
# hadolint ignore=SC2086
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install --require-hashes --no-deps -r requirements.txt \
    && python3 -m pip --python /opt/venv/bin/python install ${TORCH} \
    && python3 -m pip --python /opt/venv/bin/python check \
    && rm -rf venv/lib/python3*/site-packages/torch/include venv/lib/python3*/site-packages/torch/test \
        venv/lib/python3*/site-packages/torch/bin/protoc* venv/lib/python3*/site-packages/torch/bin/*test* \
    && find venv -type d -name tests -prune -exec rm -rf {} +

FROM packages AS build
WORKDIR /opt/program
COPY . .
# The default index is part of the image, so that it answers without an artifact. Then one complete start, up to an
# answered question: the build fails if the image cannot answer, and the byte code of every imported module is kept.
RUN export HF_HUB_OFFLINE=1 PYTHONPYCACHEPREFIX=/opt/pycache PATH="/opt/venv/bin:$PATH" \
    && python -m rag.build_index --documents corpus --output build/index \
    && python -c "import gunicorn.workers.gthread, inference, rag.composition as composition, rag.settings as settings; \
composition.load_pipeline(settings.Settings(), print).close()"

FROM ${BASE_IMAGE}
ARG VERSION=unknown
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      org.opencontainers.image.title="Self-contained RAG inference container" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.licenses="Apache-2.0"
# Layers ordered from rarely to often changed: a code change transfers a few megabytes.
COPY --from=packages /opt/venv /opt/venv
COPY --from=artifact / /opt/program/artifact
COPY --from=build /opt/pycache /opt/pycache
COPY --from=build /opt/program /opt/program
ENV PATH=/opt/venv/bin:/opt/program:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPYCACHEPREFIX=/opt/pycache \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/hf
WORKDIR /opt/program
EXPOSE 8080
CMD ["serve"]
