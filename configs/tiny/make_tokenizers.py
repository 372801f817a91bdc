"""Writes qwen2_vl/tokenizer.json and clip/tokenizer.json, the vocabularies of the tiny configuration.

Both are byte-level BPE of at most 512 ids, so any text encodes. Every word of the prompt templates and of the synthetic
world is one token (a whole word is looked up before merges: `ignore_merges`); the rest of the room goes to merges learnt from
common words, so that real sentences stay short. The layouts, splitting rules and special tokens are those of the real
vocabularies, which drop in by setting their path.

Run: pip install tokenizers==0.23.* && python make_tokenizers.py        (from any folder; same output every time)
"""

import json
import pathlib

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

ROOM = 512

# Words of the chat layout and the templates that follow a special token or a line break.
FIRST = "system user assistant You Can Please Detect Monitor Segment It Sure".split()
# Words of the templates, after a blank.
TEMPLATE = """are a helpful assistant you segment the anomalies in this video image Anomalies include Abnormal cases contain
Target types sceen abnormal events it is segmentation result""".split()
# Words of the synthetic world, after a blank.
WORLD = """red green blue yellow purple orange cyan white circle square triangle diamond cross star ring moving standing left
right up down still slowly fast a an the object that is and""".split()

# Text the merges are learnt from: things, people and events that such datasets name.
COMMON = """person people man woman child boy girl walking running riding driving sitting holding crossing falling
fighting stealing shooting jumping throwing skating crawling sleeping lying dancing smoking burning explosion robbery burglary
assault abuse arrest arson vandalism shoplifting accident fire smoke crowd riot
bicycle bike motorcycle scooter skateboard car bus truck train van boat airplane vehicle wheelchair cart stroller
traffic light sign street road sidewalk pavement grass tree building wall door window floor bridge
dog cat bird horse sheep cow elephant bear zebra giraffe animal
backpack umbrella handbag suitcase ball bottle cup bowl knife gun phone laptop chair table bed couch television book clock
black brown grey pink dark bright small large big little tall near far behind front under over next to of on with wearing
from into towards away back other one two three first second shirt hat jacket""".split()

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_SPECIAL = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <SEG>""".split()
# The end of text must be the highest id: CLIP's pooler looks for the largest.
CLIP_SPECIAL = ["<|startoftext|>", "<|endoftext|>"]

BLANK = "\u0120"  # how byte-level vocabularies write a blank


def merges_of(corpus, n_merges):
    """The first `n_merges` merges that BPE learns from the words of `corpus`, each after a blank."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=256 + n_merges,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [list(pair) for pair in merges[:n_merges]]


def bpe(words, special):
    words = list(dict.fromkeys(words))
    merges = merges_of(COMMON, ROOM - 256 - len(words) - len(special))
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["".join(pair) for pair in merges]
    tokens += [word for word in words if word not in tokens]
    tokens = list(dict.fromkeys(tokens))
    assert len(tokens) + len(special) <= ROOM, len(tokens)
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,
        "vocab": {token: i for i, token in enumerate(tokens)},
        "merges": merges,
    }
    added = [
        {
            "id": len(tokens) + i,
            "content": content,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i, content in enumerate(special)
    ]
    return model, added


def write(name, model, added, normalizer, pre_tokenizer):
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": model,
    }
    path = pathlib.Path(__file__).parent / name / "tokenizer.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    Tokenizer.from_file(str(path))
    print(path, len(model["vocab"]) + len(added), "ids", len(model["merges"]), "merges")


def main():
    blank = lambda words: [BLANK + word for word in words]
    model, added = bpe(FIRST + blank(TEMPLATE + WORLD), QWEN_SPECIAL)
    write(
        "qwen2_vl",
        model,
        added,
        {"type": "NFC"},
        {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
            ],
        },
    )
    model, added = bpe(blank(WORLD), CLIP_SPECIAL)
    write(
        "clip",
        model,
        added,
        {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Strip", "strip_left": True, "strip_right": True},
                {"type": "Lowercase"},
            ],
        },
        {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    )


if __name__ == "__main__":
    main()
