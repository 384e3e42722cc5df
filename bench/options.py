"""What the benchmarks read: records and a tokenizer, the embedded ones unless others are named."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from streamer import embedded

Row: TypeAlias = dict[str, Any]
"""A record as it was read, or its columns as they were measured."""
GPT2_END = "<|endoftext|>"


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """`--records` and `--tokenizer`, which mean the same in every benchmark."""
    parser.add_argument(
        "--records",
        type=Path,
        default=embedded.RECORDS,
        help="contrast records: a file, or a directory of .json and .jsonl (default: embedded)",
    )
    parser.add_argument(
        "--tokenizer",
        type=Path,
        help="a directory with tokenizer.json, or encoder.json and vocab.bpe (default: embedded)",
    )


def contrast_records(path: Path) -> list[Row]:
    """All records of a JSON array or JSON Lines file, or of a directory's files by their names."""
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl"))
        return [record for file in files for record in contrast_records(file)]
    text = path.read_text("utf-8")
    if text.lstrip().startswith("["):
        return list(json.loads(text))
    return [json.loads(line) for line in text.splitlines() if line.strip()]


def passages(record: Mapping[str, Any]) -> dict[str, str]:
    """The three texts of a contrast record, by passage."""
    prompt = record["prompt"]
    return {
        "prompt": prompt,
        "fact": f"{prompt} {record['fact']}",
        "hall": f"{prompt} {record['hallucination']}",
    }


def load_tokenizer(folder: Path | None) -> Any:
    """The fast tokenizer in `folder`, None for the embedded one."""
    folder = folder or embedded.MODEL
    if (folder / "tokenizer.json").is_file():
        return AutoTokenizer.from_pretrained(str(folder))
    if not (folder / "encoder.json").is_file():
        raise SystemExit(f"no tokenizer in {folder}: give one with tokenizer.json or encoder.json")
    bpe = models.BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe"))
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=GPT2_END, eos_token=GPT2_END, pad_token=GPT2_END
    )
