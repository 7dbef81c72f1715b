"""How a prompt is written before it is tokenised."""

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from hydralign.data.records import BadRow, Message, PromptText
from hydralign.errors import UserError

if TYPE_CHECKING:  # importing transformers takes seconds that a mistyped command should not cost
    from transformers import PreTrainedTokenizerBase

_SPEAKERS = {"system": "System", "user": "Human", "assistant": "Assistant"}

FALLBACK_CHAT_TEMPLATE = (
    "{{ bos_token | default('') }}"
    "{% for message in messages %}"
    "### {{ message['role'] | capitalize }}:\n{{ message['content'] }}\n\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}### Assistant:\n{% endif %}"
)
"""For tokenizers without a chat template of their own."""


def dialogue_text(prompt: PromptText) -> str:
    """Write a prompt without any model's template, as in the HH-RLHF data set."""
    if isinstance(prompt, str):
        return prompt
    turns = [f"\n\n{_SPEAKERS[turn.role]}: {turn.content}" for turn in prompt]
    return "".join(turns) + "\n\nAssistant:"


def chat_text(prompt: PromptText, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Write a prompt in the tokenizer's chat template; plain text becomes one user message.

    Raises:
        BadRow: if the template refuses the dialogue, for instance its order of roles.
    """
    from jinja2 import TemplateError

    turns = (Message("user", prompt),) if isinstance(prompt, str) else prompt
    try:
        text = tokenizer.apply_chat_template(
            [asdict(turn) for turn in turns],
            chat_template=_chat_template(tokenizer),
            add_generation_prompt=True,
            tokenize=False,
        )
    except TemplateError as error:
        raise BadRow(f"the chat template refuses the dialogue: {error}") from error
    return str(text)


def check_template(template: str) -> None:
    """Check the name of a template.

    Raises:
        UserError: if there is none of that name.
    """
    if template not in ("plain", "chat"):
        raise UserError(f"data.template={template}: there is no such template. Use plain or chat.")


def template_hash(tokenizer: "PreTrainedTokenizerBase", template: str) -> str:
    """Return 16 hex digits of all that decides how text becomes tokens.

    The pad token is left out: masks come from lengths, so it decides nothing.

    Args:
        tokenizer: its vocabulary and its special tokens count.
        template: "plain" or "chat".
    """
    check_template(template)
    parts = {
        "template": _chat_template(tokenizer) if template == "chat" else "plain",
        "special": [tokenizer.bos_token_id, tokenizer.eos_token_id],
        "vocabulary": sorted(tokenizer.get_vocab().items()),
    }
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _chat_template(tokenizer: "PreTrainedTokenizerBase") -> str:
    # A tokenizer may hold several templates by name; `get_chat_template` picks its default.
    return tokenizer.get_chat_template() if tokenizer.chat_template else FALLBACK_CHAT_TEMPLATE
