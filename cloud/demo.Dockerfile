# A demo that needs neither Python nor a GPU on the host: it trains on images inside the package.
#
#   docker build -f cloud/demo.Dockerfile -t flaxcnn-demo .
#   docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD:/work" flaxcnn-demo
#   docker run --rm -it --user "$(id -u):$(id -g)" -v "$PWD:/work" flaxcnn-demo study --seeds 4
#
# Runs and reports are in runs/ of the folder it was started in, and belong to you.
FROM python:3.11-slim-bookworm

COPY pyproject.toml README.md LICENSE constraints.txt /src/
COPY flaxcnn /src/flaxcnn
COPY experiments /src/experiments
# Compilers for GPUs are no part of it: jax alone computes on the CPU.
RUN pip install --no-cache-dir -c /src/constraints.txt /src && rm -r /src

# Any user may keep compiled programs and prepared data there.
RUN mkdir -m 1777 /var/cache/flaxcnn
ENV HOME=/var/cache/flaxcnn FLAXCNN_CACHE_DIR=/var/cache/flaxcnn/compiled \
    FLAXCNN_DATA_DIR=/var/cache/flaxcnn/data MPLCONFIGDIR=/var/cache/flaxcnn/matplotlib
WORKDIR /work
USER 1000
ENTRYPOINT ["flaxcnn"]
CMD ["train"]
