"""Shards as other tools read them: the same rows and the same pixels in every one.

usage: read.py DATASET…    each a folder that `lavida-dataset build` made

Needs PyPI's datasets, pyarrow, duckdb, polars, pycocotools and pillow. Ends with 1 at the first reader that differs.
"""

import glob
import hashlib
import io
import json
import os
import sys
import tempfile

os.environ["HF_HOME"] = os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp()
os.environ["HF_HUB_OFFLINE"] = "1"

import datasets
import duckdb
import polars
import pyarrow.dataset
import pyarrow.parquet
from PIL import Image
from pycocotools import mask as coco

datasets.disable_progress_bars()


def pixels(frame):
    """What a frame shows: of its bytes, or of the picture that a reader made of them."""
    picture = frame if isinstance(frame, Image.Image) else Image.open(io.BytesIO(frame["bytes"]))
    picture = picture.convert("RGB")
    return picture.size, hashlib.sha256(picture.tobytes()).hexdigest()


def areas(masks):
    """Pixels of every mask by pycocotools; None where an object is absent."""
    area = lambda m: None if m is None else int(coco.area({"size": [m["height"], m["width"]], "counts": m["counts"]}))
    return [[area(m) for m in track] for track in masks]


def described(row):
    return row["id"], [pixels(frame) for frame in row["frames"]], areas(row["masks"]), row["present_categories"]


def rows(table):
    return sorted((described(row) for row in table), key=lambda row: row[0])


def readers(folder):
    """Name of a way to read a dataset, and its rows."""
    data = os.path.join(folder, "data")
    files = sorted(glob.glob(os.path.join(data, "*.parquet")))
    pattern = os.path.join(data, "*.parquet")
    whole = lambda sets: [row for split in sets.values() for row in split]
    cast = lambda table: duckdb.sql(f"select * from {table}").to_arrow_table().to_pylist()
    yield "pyarrow, file by file", lambda: [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]
    yield "pyarrow, folder of shards", lambda: pyarrow.parquet.read_table(data).to_pylist()
    yield "pyarrow.dataset, whole folder", lambda: pyarrow.dataset.dataset(
        folder, format="parquet", exclude_invalid_files=True
    ).to_table().to_pylist()
    yield "duckdb, glob", lambda: cast(f"read_parquet('{pattern}')")
    yield "duckdb, glob below", lambda: cast(f"read_parquet('{folder}/*/*.parquet')")
    yield "polars, glob", lambda: polars.read_parquet(pattern).to_dicts()
    yield "polars, folder of shards", lambda: polars.read_parquet(data).to_dicts()
    yield "polars, lazily", lambda: polars.scan_parquet(pattern).collect().to_dicts()
    yield "datasets, folder", lambda: whole(datasets.load_dataset(folder))
    yield "datasets, parquet data_dir", lambda: whole(datasets.load_dataset("parquet", data_dir=folder))
    yield "datasets, data_files", lambda: whole(datasets.load_dataset("parquet", data_files=pattern))
    yield "datasets, data_files below", lambda: whole(datasets.load_dataset(folder, data_files="data/*.parquet"))
    yield "datasets, streaming", lambda: whole(datasets.load_dataset(folder, streaming=True))


def main(folders):
    if not folders:
        sys.exit(__doc__)
    for folder in folders:
        folder = os.path.abspath(folder)
        with open(os.path.join(folder, "_manifest.json")) as file:
            expected = json.load(file)["samples"]
        first = None
        for name, read in readers(folder):
            found = rows(read())
            if len(found) != expected:
                sys.exit(f"{folder}: {name}: {len(found)} rows, and {expected} in the manifest")
            first = first or found
            if found != first:
                sys.exit(f"{folder}: {name}: other rows or pixels than pyarrow")
            print(f"{os.path.basename(folder)}: {name}: {len(found)} rows")


main(sys.argv[1:])
