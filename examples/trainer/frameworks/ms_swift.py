"""CAL under ms-swift: a plug-in for its command.

swift sft --external_plugins ms_swift.py --model MODEL --dataset DATA
"""

from typing import Any

from swift.trainers import Seq2SeqTrainer, TrainerFactory

from cal_bench.trainer_plugin import CALConfig, CALMixin


class CALSeq2SeqTrainer(CALMixin, Seq2SeqTrainer):
    """ms-swift's trainer with the CAL loss."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, cal=CALConfig(), **kwargs)
        self.args.use_logits_to_keep = False  # it cuts the labels, and CAL needs one for each token
        self.template._post_encode = keep_ids


def keep_ids(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """Templates of Qwen-VL and others replace input_ids by embeddings, from which CAL can't tell where the image stands."""
    return inputs


TrainerFactory.TRAINER_MAPPING["causal_lm"] = f"{__name__}.CALSeq2SeqTrainer"
