# The container that SageMaker starts with `docker run IMAGE serve`.
#
#   docker build -t rag-inference .
#   docker run --rm -p 8080:8080 rag-inference serve
#
# A CUDA build names its wheels:  --build-arg TORCH="torch==2.13.0 --index-url <the CUDA wheels' index>"
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS build
ARG TORCH="torch==2.13.0"
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/venv
COPY requirements.txt .
RUN /opt/venv/bin/pip install ${TORCH} \
    && /opt/venv/bin/pip install -r requirements.txt
WORKDIR /opt/program
COPY . .
# The default index is part of the image, so that it answers without a model artifact.
RUN HF_HUB_OFFLINE=1 /opt/venv/bin/python -m rag.build_index --documents corpus --output build/index

FROM ${BASE_IMAGE}
LABEL com.amazonaws.sagemaker.capabilities.accept-bind-to-port=true \
      org.opencontainers.image.title="Self-contained RAG inference container" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/venv /opt/venv
COPY --from=build /opt/program /opt/program
ENV PATH=/opt/venv/bin:/opt/program:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    HF_HOME=/tmp/hf
WORKDIR /opt/program
EXPOSE 8080
CMD ["serve"]
