# criticalmass on CPUs, without root:
#
#   docker build --tag criticalmass .
#   docker run --rm --read-only --tmpfs /scratch --volume "$PWD:/data" --user "$(id -u)" \
#     criticalmass advise vectors.npy
#
# EXTRAS chooses what is installed beside the base package, e.g. --build-arg EXTRAS=torch,text;
# TORCH_INDEX is the address of PyTorch's index of CPU wheels. Without it, pip installs the wheels
# for CUDA of the default index, which are about 3 GB larger.
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS build
ARG EXTRAS=data
ARG TORCH_INDEX=
WORKDIR /build
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m venv /opt/criticalmass \
 && /opt/criticalmass/bin/pip install --no-cache-dir \
      ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
COPY --from=build /opt/criticalmass /opt/criticalmass
# All that is written lies under /scratch or /data, so the root of the file system may be read-only.
ENV PATH=/opt/criticalmass/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/scratch \
    TMPDIR=/scratch \
    CRITICALMASS_CACHE=/scratch/cache \
    NUMBA_CACHE_DIR=/scratch/numba \
    MPLCONFIGDIR=/scratch/matplotlib
RUN mkdir --mode=1777 /scratch /data
USER 10001
WORKDIR /data
VOLUME ["/scratch"]
ENTRYPOINT ["criticalmass"]
CMD ["--help"]
