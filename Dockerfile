# The container that SageMaker starts with `docker run IMAGE serve`.
#
#   docker build -t rag-inference .
#   docker run --rm -p 8080:8080 rag-inference serve
#
# --build-arg TORCH="torch==2.13.0 --index-url <the wheels' index>"   the torch of a CPU or a CUDA build
# --build-context artifact=build/artifact   bakes an artifact (`make artifact`) in, for where there is no S3
ARG BASE_IMAGE=python:3.11-slim-bookworm

# Empty, unless the command line puts a directory in its place.
FROM scratch AS artifact
WORKDIR /none

FROM ${BASE_IMAGE} AS packages
ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /opt
COPY requirements.txt .
# Installed by the base's pip, so that the environment has none. Left out of it: headers, compilers and test suites that
# the wheels bring along. TORCH may hold options too, so it is split into words.
# hadolint ignore=SC2086
RUN python3 -m venv --without-pip /opt/venv \
    && python3 -m pip --python /opt/venv/bin/python install ${TORCH} \
    && python3 -m pip --python /opt/venv/bin/python install -r requirements.txt \
    && python3 -m pip --python /opt/venv/bin/python check \
    && rm -rf venv/lib/python3*/site-packages/torch/include venv/lib/python3*/site-packages/torch/test \
        venv/lib/python3*/site-packages/torch/bin/protoc* venv/lib/python3*/site-packages/torch/bin/*test* \
    && find venv -type d -name tests -prune -exec rm -rf {} +

FROM packages AS build
WORKDIR /opt/program
COPY . .
# The default index is part of the image, so that it answers without an artifact. Then one whole start, up to an answered
# question: an image that cannot answer is not built, and the byte code of all that a start imports is kept.
RUN export HF_HUB_OFFLINE=1 PYTHONPYCACHEPREFIX=/opt/pycache PATH="/opt/venv/bin:$PATH" \
    && python -m rag.build_index --documents corpus --output build/index \
    && python -c "import gunicorn.workers.gthread, inference, rag.composition as composition, rag.settings as settings; \
composition.load_pipeline(settings.Settings(), print).close()"

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      org.opencontainers.image.title="Self-contained RAG inference container" \
      org.opencontainers.image.version=${VERSION} \
      org.opencontainers.image.licenses="Apache-2.0"
# From what changes seldom to what changes often: a change of code moves a few megabytes.
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
