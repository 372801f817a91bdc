#!/usr/bin/env bash
# What a GPU does with this program, in at most eight minutes: one command for the day a card is there.
#
#   benches/gpu.sh              everything, on the first GPU
#   benches/gpu.sh --rehearse   the same script with small sizes, on a Vulkan driver in software
#
# Carries nothing but itself and the two programs. Writes gpu.json and gpu.md. A part that fails, or that this program or
# machine has not, is reported and the rest goes on; the exit status is 1 where a part failed.
#
# PROGRAMS  folder of lavida and lavida-dataset [default: that of this script, else the PATH]
# OUT       folder for the results and for shards, which are kept for the next time [default: gpu-bench]
# DEVICE    as settings name it [default: cuda:0; rehearsing: wgpu:0]
# PYTHON    a Python with PyTorch; without it only ours is measured [default: python3]
# SECONDS_IN_ALL  no part begins after so many [default: 450]
set -uo pipefail
rehearse=no
case "${1:-}" in
'') ;;
--rehearse) rehearse=yes ;;
*)
    sed -n 's/^#   //p' "$0" >&2
    exit 2
    ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
programs="${PROGRAMS:-$here}"
[[ -x "$programs/lavida" ]] && PATH="$programs:$PATH"
for program in lavida lavida-dataset; do
    command -v "$program" >/dev/null || { echo "$program is neither in $programs nor on the PATH: PROGRAMS=FOLDER names its folder" >&2; exit 2; }
done
out="${OUT:-gpu-bench}" python="${PYTHON:-python3}" limit="${SECONDS_IN_ALL:-450}"
if [[ $rehearse == yes ]]; then
    device="${DEVICE:-wgpu:0}" steps=1 few=2 tokens=64 width=64 keep_models=tiny keep_ratios=1,0.2
else
    device="${DEVICE:-cuda:0}" steps=200 few=5 tokens=5208 width=3584 keep_models=paper keep_ratios=1,0.5,0.2,0.1
fi
mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
rm -rf "$out/work" && mkdir -p "$out/work" || exit 2
rows=() entries=() failed=0

quoted() { # text as JSON has it
    printf '%s\n' "${1//$'\n'/ }" | tr '\t\r' '  ' | sed 's/\\/\\\\/g; s/"/\\"/g; s/^/"/; s/$/"/'
}

# A part prints `NAME VALUE` lines on its standard output; whatever else it says goes to its log. It returns 0, 2 for what this
# program or machine has not (its last line says what), or anything else where it failed.
part() { # part NAME FUNCTION
    local name="$1" work="$2" start=$SECONDS status state note='' log="$out/work/$1.log" values='' cells='' key value
    if ((SECONDS > limit)); then
        state=left-out note="$limit s are over"
    else
        "$work" >"$out/work/$name.values" 2>"$log"
        status=$?
        case $status in
        0) state=done ;;
        2) state=not-here note=$(tail -n 1 "$log") ;;
        *) state=failed note=$(tail -n 3 "$log") failed=1 ;;
        esac
        while read -r key value; do
            [[ -n "$key" && -n "$value" ]] || continue
            values+=", $(quoted "$key"): $(if [[ "$value" =~ ^-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?$ ]]; then echo "$value"; else quoted "$value"; fi)"
            cells+="${cells:+; }$key $value"
        done <"$out/work/$name.values"
    fi
    entries+=("{\"part\": \"$name\", \"state\": \"$state\", \"seconds\": $((SECONDS - start)), \"note\": $(quoted "$note")$values}")
    rows+=("| $name | $state | $((SECONDS - start)) | $cells$(printf '%s' "${note:+ ($note)}" | tr '\n|' '  ') |")
    echo "gpu: $name: $state, $((SECONDS - start)) s ${note:+($(printf '%s' "$note" | tail -n 1))}" >&2
}

lacks() { # what this part needs, where it is not to be had
    echo "$1" >&2
    return 2
}

machine() {
    lavida --version | head -n 1 | sed 's/^/program /'
    lavida devices --json >"$out/work/devices.json" || return 1
    lavida devices | sed -n "s/^ *\($device\) \{1,\}/device /p"
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=name,driver_version,memory.total,compute_cap --format=csv,noheader | head -n 1 | sed 's/^/nvidia /'
    fi
    lavida devices | grep -q "^ *$device .*not usable" && { echo "$device is not usable here" >&2; return 1; }
    lavida devices | grep -q "^ *$device " || { echo "$device is not there: $(lavida devices | tail -n +2)" >&2; return 1; }
}

world() { # shards to learn from
    if [[ ! -e "$out/shards/manifest.json" ]]; then
        rm -rf "$out/shards"
        lavida-dataset synth --out "$out/work/world" --seed 44 >&2 &&
            lavida-dataset build mevis --root "$out/work/world/mevis" --out "$out/shards" >&2 || return 1
        rm -rf "$out/work/world"
    fi
    lavida-dataset stats "$out/shards" --json | sed -n 's/^ *"samples": \([0-9]*\),*$/samples \1/p' | head -n 1
}

# train NAME DEVICE STEPS [KEY=VALUE ...]
train() {
    local name="$1" on="$2" n="$3" sets=()
    for set in "${@:4}"; do sets+=(--set "$set"); done
    lavida train --config embedded:tiny --data "$out/shards" --out "$out/work/$name" --set "device=$on" --set "train.steps=$n" \
        --set "optimizer.warmup_steps=1" "${sets[@]}" >&2
}

losses() { sed -n 's/.*"loss":\([-0-9.e]*\).*/\1/p' "$out/work/$1/metrics.jsonl"; }

# The largest difference between two runs' losses, in parts of the first's.
difference() { paste <(losses "$1") <(losses "$2") | awk '{ d = $1 - $2; if (d < 0) d = -d; a = $1 < 0 ? -$1 : $1; if (d / a > m) m = d / a; n++ } END { if (!n) exit 1; printf "%.3g\n", m }'; }

parity() { # a few steps on the device beside the same on the CPU
    local small=(train.global_batch=2 train.microbatch=1) found
    train cpu cpu "$few" "${small[@]}" && train device "$device" "$few" "${small[@]}" || return 1
    found=$(difference cpu device) || { echo "no losses in metrics.jsonl" >&2; return 1; }
    echo "loss_difference_f32 $found"
    awk "BEGIN { exit !($found <= 1e-3) }" || { echo "losses on $device differ from the CPU's by $found, expected at most 1e-3" >&2; return 1; }
}

parity_bf16() {
    local small=(train.global_batch=2 train.microbatch=1 train.precision=bf16) found
    if [[ $device == wgpu* ]]; then lacks "bf16 is not every Vulkan driver's"; return 2; fi
    train device-bf16 "$device" "$few" "${small[@]}" && found=$(difference cpu device-bf16) || return 1
    echo "loss_difference_bf16 $found"
    awk "BEGIN { exit !($found <= 5e-2) }" || { echo "losses in bf16 differ from the CPU's by $found, expected at most 5e-2" >&2; return 1; }
}

weights() { find "$out/work/$1" -name '*.safetensors' -exec sha256sum {} + | sed "s|$out/work/$1/||" | sort -k 2; }

repeat() { # two runs, one result
    local small=(train.global_batch=2 train.microbatch=1)
    train again "$device" "$few" "${small[@]}" || return 1
    [[ -n "$(weights device)" ]] || { echo "the run left no weights" >&2; return 1; }
    if [[ "$(weights device)" == "$(weights again)" ]]; then echo "bits equal"; else echo "two runs of one seed end with other bits" >&2; return 1; fi
}

demo() { # training of the demo's size
    local start=$SECONDS small=()
    [[ $rehearse == yes ]] && small=(train.global_batch=2 train.microbatch=1)
    train demo "$device" "$steps" "${small[@]}" || return 1
    echo "steps $steps"
    awk "BEGIN { printf \"seconds_a_step %.3f\n\", ($SECONDS - $start) / $steps }"
    echo "last_loss $(losses demo | tail -n 1)"
}

keep_ratio() { # a step of the language model by keep ratio, with weights made on the card
    lavida bench compression --help | grep -q -- --device || { lacks "this program's bench compression has no --device"; return 2; }
    lavida bench compression --out "$out/work/keep" --device "$device" --models "$keep_models" --keep-ratios "$keep_ratios" --visual-tokens "$tokens" \
        --steps 1 >&2 || return 1
    sed -n 's/^ *"\(keep_ratio\|seconds\)": \([0-9.]*\),*$/\1 \2/p' "$out/work/keep/compression.json" |
        awk '$1 == "keep_ratio" { ratio = $2 } $1 == "seconds" { printf "seconds_at_%s %s\n", ratio, $2 }'
}

engine() { # NCCL's contract in a world of one
    lavida bench nccl --help >/dev/null 2>&1 || { lacks "this program has no bench nccl"; return 2; }
    [[ $device == cuda* ]] || { lacks "NCCL works on cuda:N"; return 2; }
    lavida bench nccl --device "$device"
}

memory() {
    lacks "no command of this program counts a device's peak memory while it scores yet (issue 17.7)"
}

lora_step() {
    lacks "no command of this program makes a Qwen2-VL-7B LoRA step with random weights yet (issue 17.7)"
}

torch() { # the same sizes in PyTorch: distances, and attention by its fused kernel
    "$python" -c 'import torch' 2>/dev/null || { lacks "$python has no PyTorch"; return 2; }
    "$python" - "$tokens" "$width" "$device" <<'PYTHON'
import sys, time, torch
import torch.nn.functional as F
n, width = int(sys.argv[1]), int(sys.argv[2])
device = "cuda" if sys.argv[3].startswith("cuda") and torch.cuda.is_available() else "cpu"
dtype = torch.bfloat16 if device == "cuda" else torch.float32
x = torch.randn(n, width, device=device)
def measured(work):
    for _ in range(2): work()
    if device == "cuda": torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(5): work()
    if device == "cuda": torch.cuda.synchronize()
    return (time.perf_counter() - start) / 5
print("torch", torch.__version__, device)
print("cdist_f32_seconds", round(measured(lambda: torch.cdist(x, x).topk(8, largest=False)), 6))
h = x.to(dtype)
def products():
    squares = (x * x).sum(1)
    return (squares[:, None] + squares[None] - 2 * (h @ h.T).float()).topk(8, largest=False)
print("products_seconds", round(measured(products), 6))
heads = max(width // 128, 1)
q = torch.randn(1, heads, n, 64 if width < 128 else 128, device=device, dtype=dtype)
print("sdpa_seconds", round(measured(lambda: F.scaled_dot_product_attention(q, q, q, is_causal=True)), 6))
PYTHON
}

part machine machine
part shards world
part parity-f32 parity
part parity-bf16 parity_bf16
part two-runs repeat
part demo demo
part keep-ratio keep_ratio
part memory memory
part lora-step-7b lora_step
part nccl engine
part torch torch

{
    printf '{\n"device": %s,\n"rehearsed": %s,\n"seconds": %d,\n"parts": [\n' "$(quoted "$device")" "$([[ $rehearse == yes ]] && echo true || echo false)" "$SECONDS"
    for i in "${!entries[@]}"; do
        [[ $i -eq 0 ]] || printf ',\n'
        printf '%s' "${entries[i]}"
    done
    printf '\n]\n}\n'
} >"$out/gpu.json"
{
    echo '| part | state | s | found |'
    echo '|---|---|---|---|'
    printf '%s\n' "${rows[@]}"
} >"$out/gpu.md"
cat "$out/gpu.md"
exit "$failed"
