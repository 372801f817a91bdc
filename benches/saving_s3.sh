#!/usr/bin/env bash
# What a checkpoint costs training, saved to a local folder and to an S3 server on loopback (moto, in memory).
#
#   benches/saving_s3.sh
#
# PYTHON   a Python with PyPI's moto[server] [default: python3]
# PROFILE  cargo profile [default: bench]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
"$python" -c 'import moto.server' || { echo "$python has no moto: pip install 'moto[server]' (PYTHON chooses another)" >&2; exit 1; }
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
"$python" -m moto.server -H 127.0.0.1 -p "$port" >/dev/null 2>&1 &
server=$!
trap 'kill $server' EXIT
export AWS_ENDPOINT="http://127.0.0.1:$port" AWS_ACCESS_KEY_ID=anybody AWS_SECRET_ACCESS_KEY=nothing AWS_REGION=us-east-1
for _ in $(seq 50); do
    curl --silent --fail --request PUT "$AWS_ENDPOINT/bench" >/dev/null && break
    sleep 0.2
done
LAVIDA_BENCH_STORE=s3://bench/run cargo bench -p lavida-dataflow --bench saving --profile "${PROFILE:-bench}"
