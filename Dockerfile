# docker build -t pacs-ai-node .
# CPU only: --build-arg TORCH_INDEX=<the address of the CPU builds of PyTorch>
FROM python:3.11-slim-bookworm

ARG TORCH_INDEX=""
RUN apt-get update && apt-get install -y --no-install-recommends fonts-wqy-microhei && rm -rf /var/lib/apt/lists/*
RUN useradd --system --create-home --home-dir /var/lib/pacs-ai-node pacs-ai-node

WORKDIR /opt/pacs-ai-node
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY config config
COPY dicom_io dicom_io
COPY node node
COPY phantom phantom
COPY pipeline pipeline
COPY sr_writer sr_writer
RUN if [ -n "$TORCH_INDEX" ]; then pip install --no-cache-dir -c constraints.txt --index-url "$TORCH_INDEX" torch; fi \
    && pip install --no-cache-dir -c constraints.txt '.[ai,onnx,cluster,web]'

USER pacs-ai-node
WORKDIR /var/lib/pacs-ai-node
ENV PACS_AI_NODE__NODE__DATA_DIR=/var/lib/pacs-ai-node/data \
    PACS_AI_NODE__DICOM__HOST=0.0.0.0
EXPOSE 11112
STOPSIGNAL SIGTERM
ENTRYPOINT ["pacs-ai-node"]
CMD ["serve"]
