"""`python -m benchmarks.systems.clip_folder DIR`: ViT-B-32 with random weights, for transformers.

The same architecture and tokenizer as OpenCLIP's ViT-B-32, as a Hugging Face folder.
"""

import gzip
import json
import sys
from pathlib import Path

import open_clip
from transformers import CLIPConfig, CLIPModel

MERGES = 49_152 - 256 - 2  # of OpenCLIP's vocabulary that CLIP uses
START, END = "<|startoftext|>", "<|endoftext|>"
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "resample": 3,  # bicubic
    "image_mean": open_clip.OPENAI_DATASET_MEAN,
    "image_std": open_clip.OPENAI_DATASET_STD,
}


def write(folder: Path) -> None:
    """Writes configuration, weights, preprocessing and tokenizer; sizes are transformers' own."""
    gelu = {"hidden_act": "gelu"}  # as OpenCLIP's ViT-B-32; transformers has quick_gelu
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    CLIPModel(CLIPConfig(text_config=gelu | ids, vision_config=gelu)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """Writes the files of OpenCLIP's own vocabulary as transformers reads them."""
    packed = Path(open_clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"
    merges = gzip.decompress(packed.read_bytes()).decode().split("\n")[1 : MERGES + 1]
    letters = _letters()
    words = [*letters, *(f"{each}</w>" for each in letters)]
    words += ["".join(merge.split()) for merge in merges]
    vocabulary = {word: number for number, word in enumerate([*words, START, END])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokenizer = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77}
    tokenizer |= {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def _letters() -> list[str]:
    """CLIP's 256 bytes as letters, in the order of its vocabulary."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = (byte for byte in range(256) if byte not in set(shown))
    return [chr(byte) for byte in shown] + [chr(256 + number) for number, _ in enumerate(hidden)]


if __name__ == "__main__":
    write(Path(sys.argv[1]))
