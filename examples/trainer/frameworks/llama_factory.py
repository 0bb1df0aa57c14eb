"""CAL under LLaMA-Factory: in place of `llamafactory-cli train`.

python llama_factory.py train.yaml
torchrun --nproc_per_node 8 llama_factory.py train.yaml
"""

from typing import Any

from llamafactory.train.sft import workflow
from llamafactory.train.tuner import run_exp

from cal_bench.trainer_plugin import CALConfig, CALMixin


class CALSeq2SeqTrainer(CALMixin, workflow.CustomSeq2SeqTrainer):
    """LLaMA-Factory's trainer with the CAL loss."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(cal=CALConfig(), **kwargs)


workflow.CustomSeq2SeqTrainer = CALSeq2SeqTrainer

if __name__ == "__main__":
    run_exp()
