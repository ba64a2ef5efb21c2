"""`python -m benchmarks.systems.clip_folder DIR`: ViT-B-32 with random weights, for transformers.

The same architecture and tokenizer as OpenCLIP's ViT-B-32, as a Hugging Face folder.
"""

import json
import sys
from pathlib import Path

import open_clip
from transformers import CLIPConfig, CLIPModel

START, END = "<start_of_text>", "<end_of_text>"  # as OpenCLIP names them
TOKENIZER = {
    "tokenizer_class": "CLIPTokenizer", "model_max_length": 77,
    "bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END,
}  # fmt: skip
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "crop_size": {"height": 224, "width": 224},
    "size": {"shortest_edge": 224},
    "resample": 3,  # bicubic
    "image_mean": open_clip.OPENAI_DATASET_MEAN,
    "image_std": open_clip.OPENAI_DATASET_STD,
}


def write(folder: Path) -> None:
    """Write configuration, weights, preprocessing and tokenizer; sizes are transformers' own."""
    gelu = {"hidden_act": "gelu"}  # as OpenCLIP's ViT-B-32; transformers has quick_gelu
    ids = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 49407}
    CLIPModel(CLIPConfig(text_config=gelu | ids, vision_config=gelu)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    write_tokenizer(folder)


def write_tokenizer(folder: Path) -> None:
    """Write the files of OpenCLIP's own vocabulary as transformers reads them."""
    own = open_clip.SimpleTokenizer()
    (folder / "vocab.json").write_text(json.dumps(own.encoder))
    merges = [" ".join(pair) for pair in own.bpe_ranks]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
