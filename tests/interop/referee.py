"""`lavida score` against scikit-learn, SciPy and the arithmetic of published scripts, on generated cases.

    python tests/interop/referee.py --lavida target/debug/lavida [--cases 1000]
    python tests/interop/referee.py --write tests/golden/fixtures/referee/cases.json

Needs numpy, scipy and scikit-learn. Every case is some videos with scores of one kind (distinct, few levels, logits, one value)
and labels (mixed, all normal, all anomalous). Expected values are those of `roc_auc_score`, `average_precision_score`,
`precision_recall_curve` with `auc`, `f1_score` and `gaussian_filter1d`; padded figures put (0, 0) and (1, 1) around the scores as
UBnormal's compute_auc_score.py (each video) and LAVIDA's reference (each video, and all frames) do.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d
from sklearn import metrics

TOLERANCE = 1e-9
THRESHOLD = 0.5


def defined(function, labels, scores):
    """A figure, or None where scikit-learn has none and says so by a warning or nan."""
    labels = np.asarray(labels)
    if function is metrics.roc_auc_score and len(set(labels.tolist())) < 2:
        return None
    if not labels.any():
        return None
    return float(function(labels, scores))


def trapezoid(labels, scores):
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return metrics.auc(recall, precision)


def best_f1(labels, scores):
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-300)))


def padded(labels, scores):
    return np.concatenate(([0], labels, [1])), np.concatenate(([0.0], scores, [1.0]))


def mean(values):
    values = [value for value in values if value is not None]
    return float(np.mean(values)) if values else None


def figures(videos):
    """Every convention of one variant; videos are pairs of scores and labels."""
    auc = metrics.roc_auc_score
    ap = metrics.average_precision_score
    scores = np.concatenate([s for s, _ in videos])
    labels = np.concatenate([l for _, l in videos])
    return {
        "frame_auc": defined(auc, labels, scores),
        "frame_auc_padded": defined(auc, *padded(labels, scores)),
        "video_auc": mean([defined(auc, l, s) for s, l in videos]),
        "video_auc_padded": mean([defined(auc, *padded(l, s)) for s, l in videos]),
        "frame_ap": defined(ap, labels, scores),
        "frame_ap_padded": defined(ap, *padded(labels, scores)),
        "frame_pr_trapezoid": defined(trapezoid, labels, scores),
        "f1_fixed": defined(lambda l, s: metrics.f1_score(l, s >= THRESHOLD, zero_division=0), labels, scores),
        "f1_best": defined(best_f1, labels, scores),
    }


def treated(scores, min_max, sigma):
    if min_max:
        span = scores.max() - scores.min()
        scores = (scores - scores.min()) / (span if span > 0 else 1.0)
    return gaussian_filter1d(scores, sigma) if sigma > 0 else scores


def case(rng):
    kind = rng.choice(["distinct", "levels", "logits", "one value"], p=[0.4, 0.3, 0.25, 0.05])
    videos = []
    for _ in range(rng.integers(1, 7)):
        n = int(rng.integers(1, 25))
        labels = (rng.random(n) < rng.random()).astype(int)
        which = rng.random()
        if which < 0.15:
            labels[:] = 0
        elif which < 0.25:
            labels[:] = 1
        scores = {
            "distinct": lambda: np.round(np.clip(rng.random(n) * 0.8 + 0.2 * labels, 0, 1), 9),
            "levels": lambda: rng.integers(0, 5, n) / 4,
            "logits": lambda: np.round(rng.normal(0, 4, n) + labels, 6),
            "one value": lambda: np.full(n, 0.5),
        }[kind]()
        videos.append((scores, labels))
    # Where scores tie, rounding decides on which side of a tie a smoothed score falls, in SciPy as here.
    sigmas = [0.0, 1.5] if kind in ("distinct", "logits") else [0.0]
    return videos, sigmas


def expected(videos, sigmas):
    return [
        {
            "min_max": min_max,
            "smoothing_sigma_frames": sigma,
            "figures": figures([(treated(s, min_max, sigma), l) for s, l in videos]),
        }
        for min_max in (False, True)
        for sigma in sigmas
    ]


def check(what, found, wanted):
    for variant, truth in zip(found, wanted, strict=True):
        for name, value in truth["figures"].items():
            ours = variant["figures"][name]["value"]
            same = ours is None if value is None else ours is not None and abs(ours - value) <= TOLERANCE
            if not same:
                where = f"min-max {truth['min_max']}, sigma {truth['smoothing_sigma_frames']}"
                sys.exit(f"{what}: {name} ({where}): expected {value}, found {ours}")


def run(lavida, folder, videos, sigmas):
    scores = {f"v{i}": s.tolist() for i, (s, _) in enumerate(videos)}
    labels = {f"v{i}": l.tolist() for i, (_, l) in enumerate(videos)}
    (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "labels.json").write_text(json.dumps(labels))
    command = [lavida, "score", "--scores", folder / "scores.json", "--truth", folder / "labels.json", "--json"]
    command += ["--resamples", "0", "--smoothing", ",".join(map(str, sigmas))]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        sys.exit(f"lavida score: {ran.stderr}")
    return json.loads(ran.stdout)["variants"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lavida", help="the program that is compared")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", type=Path, help="write cases with what is expected of them")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rng = np.random.default_rng(arguments.seed)
    written = []
    kinds = {"all normal": 0, "all anomalous": 0}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(arguments.cases):
            videos, sigmas = case(rng)
            kinds["all normal"] += sum(not l.any() for _, l in videos)
            kinds["all anomalous"] += sum(bool(l.all()) for _, l in videos)
            wanted = expected(videos, sigmas)
            if arguments.write:
                lists = [{"scores": s.tolist(), "labels": l.tolist()} for s, l in videos]
                written.append({"videos": lists, "sigmas": sigmas, "variants": wanted})
            else:
                check(f"case {number}", run(arguments.lavida, Path(folder), videos, sigmas), wanted)
    if arguments.write:
        arguments.write.parent.mkdir(parents=True, exist_ok=True)
        lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in written)
        arguments.write.write_text(f"[\n{lines}\n]\n")
    ended = f"written to {arguments.write}" if arguments.write else f"equal to {TOLERANCE}"
    print(f"{arguments.cases} cases, {kinds['all normal']} videos all normal, {kinds['all anomalous']} all anomalous: {ended}")


if __name__ == "__main__":
    main()
