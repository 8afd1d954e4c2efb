# docker build -t modspec . && docker run --rm -u $(id -u):$(id -g) -v "$PWD:/work" modspec reproduce extreme_sparsity/smoke
FROM python:3.11-slim AS build
COPY . /modspec
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /dist /modspec

FROM python:3.11-slim
# PyTorch for processors alone, a tenth of the size; for a GPU: --build-arg TORCH=https://download.pytorch.org/whl/cu128
ARG TORCH=https://download.pytorch.org/whl/cpu
COPY --from=build /dist /dist
RUN pip install --no-cache-dir --extra-index-url "$TORCH" /dist/*.whl
ENV HOME=/tmp OMP_NUM_THREADS=1
WORKDIR /work
ENTRYPOINT ["modspec"]
CMD ["--help"]
