"""CAL, contrastive alignment: every label token is weighted by how much its score owes to the image.

`handle = cal.apply(model, cal.CALConfig())` makes `model(**batch).loss` the CAL loss in train mode, under any trainer;
`cal.CALTrainer(model, args, train_dataset=…, cal=cal.CALConfig())` also logs what the weights did; `cal.CALSFTTrainer` is TRL's.
"""

if __name__ == "trainer_plugin":
    raise ImportError("import cal_bench.trainer_plugin, not trainer_plugin: one file under two names is two modules")

import importlib
from typing import TYPE_CHECKING, Any

from .config import CALConfig, CALError

if TYPE_CHECKING:
    from .data import CHAT_TEMPLATES, TEMPLATES, Collator, ConversationDataset, DataOptions
    from .patch import Handle, apply
    from .sft import CALSFTTrainer as CALSFTTrainer
    from .streaming import streamed
    from .trainer import CALMixin, CALTrainer

# Without CALSFTTrainer, because `import *` must work where TRL is not installed.
__all__ = [
    "CHAT_TEMPLATES",
    "TEMPLATES",
    "CALConfig",
    "CALError",
    "CALMixin",
    "CALTrainer",
    "Collator",
    "ConversationDataset",
    "DataOptions",
    "Handle",
    "apply",
    "streamed",
]

# Reading a study's config needs CALConfig and must not wait for torch; everything else is imported when it is asked for.
_HOME = {
    "Handle": "patch",
    "apply": "patch",
    "CHAT_TEMPLATES": "templates",
    "TEMPLATES": "templates",
    "Collator": "data",
    "ConversationDataset": "data",
    "DataOptions": "data",
    "CALMixin": "trainer",
    "CALSFTTrainer": "sft",
    "CALTrainer": "trainer",
    "streamed": "streaming",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
