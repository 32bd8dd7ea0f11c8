#!/usr/bin/env bash
# Builds, tests and measures on the GPU at hand, the most informative first, within a number of minutes:
#
#     bench/gpu.sh [FOLDER] [--minutes 9] [--smoke] [--carried FOLDER]    # default: bench/results/local
#     bench/gpu.sh /tmp/x --device cpu --quick                            # rehearses it where there is no GPU
#
# PYTHON names the interpreter; nothing is installed. bench/gpu_stages.py does it, README.md says more.
exec "${PYTHON:-python3}" "$(dirname "$0")/gpu_stages.py" "$@"
