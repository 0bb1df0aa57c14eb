"""What each label token owes to the picture, by both signals; measured by the code that training uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cal_bench.trainer_plugin.config import CALConfig
from cal_bench.trainer_plugin.contrast import check_family
from cal_bench.trainer_plugin.data import ConversationDataset
from cal_bench.trainer_plugin.loss import measure

from .opened import Opened, batched
from .separation import SIGNALS

BATCH = 8


@dataclass(frozen=True)
class Deltas:
    """Of N label tokens, in their order: score with the picture minus score without, by signal [N], and their record [N]."""

    by_signal: dict[str, NDArray[np.float64]]
    records: NDArray[np.int64]


def deltas_of(opened: Opened, dataset: ConversationDataset, numbers: Sequence[int]) -> Deltas:
    """The deltas of the label tokens of these records, each of which has a picture; CALError for a model without a contrast."""
    check_family(opened.model)
    parts = list(_batches(opened, dataset, numbers))
    by_signal = {signal: np.concatenate([part.by_signal[signal] for part in parts]) for signal in SIGNALS}
    return Deltas(by_signal, np.concatenate([part.records for part in parts]))


def _batches(opened: Opened, dataset: ConversationDataset, numbers: Sequence[int]) -> Iterator[Deltas]:
    for start in range(0, len(numbers), BATCH):
        part = numbers[start : start + BATCH]
        with torch.no_grad():
            measured = measure(opened.model, batched(opened, [dataset[number] for number in part]), CALConfig(), with_logp=True)
        rows: Any = measured.tokens.rows.cpu().numpy()
        assert measured.logp_delta is not None
        by_signal = {"logit": _array(measured.delta), "logp": _array(measured.logp_delta)}
        yield Deltas(by_signal, np.asarray(part)[rows])


def _array(values: torch.Tensor) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.double().cpu().numpy()
    return found
