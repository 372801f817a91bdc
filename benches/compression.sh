#!/usr/bin/env bash
# Token compression here beside PyTorch: the same tokens, one after the other, with one thread and with all of them.
#
#   benches/compression.sh [L ...]      numbers of tokens [default: 1564 1920 4096]
#
# PYTHON   a Python with PyTorch [default: python3]; without PyTorch only ours is measured
# WIDTH    of a token [default: 3584]    KEEP  share kept [default: 0.2]    RUNS  counted [default: 5]
# KIND     of tokens: video or noise [default: video]
# PROFILE  cargo profile [default: release]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}" width="${WIDTH:-3584}" keep="${KEEP:-0.2}" runs="${RUNS:-5}" kind="${KIND:-video}"
sizes=("$@")
[[ ${#sizes[@]} -gt 0 ]] || sizes=(1564 1920 4096)

# The executable's path is in cargo's messages.
bench=$(cargo bench -p lavida-kernels --bench compression --profile "${PROFILE:-release}" --no-run --message-format json 2>/dev/null |
    sed -n 's/.*"executable":"\([^"]*compression[^"]*\)".*/\1/p' | tail -n 1)
[[ -x "$bench" ]] || { echo "the benchmark does not build: cargo bench -p lavida-kernels --bench compression --no-run" >&2; exit 1; }
torch=yes
"$python" -c 'import torch' 2>/dev/null || { torch=no; echo "$python has no PyTorch: only ours is measured (PYTHON chooses another)"; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
printf '%7s %8s %12s %12s %12s %12s %8s\n' tokens threads 'ours cpu s' 'ours wall s' 'torch cpu s' 'torch wall s' ratio
field() { sed -n "s/.*\"$1\": \([0-9.]*\).*/\1/p"; }
for tokens in "${sizes[@]}"; do
    for threads in 1 "$(nproc)"; do
        shape=(--tokens "$tokens" --width "$width" --keep "$keep" --threads "$threads" --runs "$runs")
        ours=$("$bench" "${shape[@]}" --kind "$kind" --write "$folder/tokens.f32")
        theirs='' ratio=''
        if [[ $torch == yes ]]; then
            theirs=$("$python" benches/compression_torch.py --file "$folder/tokens.f32" "${shape[@]}")
            ratio=$(awk "BEGIN { printf \"%.2f\", $(field cpu_median <<<"$theirs") / $(field cpu_median <<<"$ours") }")
        fi
        printf '%7d %8d %12s %12s %12s %12s %8s\n' "$tokens" "$threads" "$(field cpu_median <<<"$ours")" \
            "$(field wall_median <<<"$ours")" "$(field cpu_median <<<"$theirs")" "$(field wall_median <<<"$theirs")" "$ratio"
    done
done
