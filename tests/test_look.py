"""`cal-bench look`: what is computed against a second way to compute it, what is written, and what is refused."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cal_bench import cli
from cal_bench.errors import UserError
from cal_bench.look.attention import attention_of
from cal_bench.look.command import typed
from cal_bench.look.deltas import Deltas, deltas_of
from cal_bench.look.distribution import lines, summary
from cal_bench.look.grid import view_of
from cal_bench.look.heatmap import Cell, Sample, Token, heatmap_html, lay_out, pieces, read_sample
from cal_bench.look.opened import Opened, Talks, batched, chosen, open_model, read_talks, short_names
from cal_bench.look.words import nearest, vocabulary, words_of
from cal_bench.trainer_plugin.loss import IGNORED
from tests.tasks_rows import write as write_rows
from tests.test_page import Elements, chartqa, write_run
from tests.tiny import IMAGE_ID, SIDE, conversation, save_tiny, tiny_model, tiny_processor, tiny_tokenizer, write_data

PNG = b"\x89PNG"


def tiny(next_family: bool = False) -> Opened:
    return Opened("tiny", tiny_model(next_family).eval(), tiny_processor(next_family))


def talks(folder: Path) -> Talks:
    return Talks(write_data(folder), folder / "images", "v1")


def by_hand(opened: Opened, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [T, V] with the picture, and of the text alone at the same positions, each at its place in the whole [T, V]."""
    ids = batch["input_ids"]
    with torch.no_grad():
        seeing = opened.model(**{name: values for name, values in batch.items() if name != "labels"}).logits[0]
        kept = (ids[0] != IMAGE_ID).nonzero()[:, 0]
        hidden = opened.model.model.language_model(
            input_ids=ids[:, kept], position_ids=kept[None], attention_mask=torch.ones_like(ids[:, kept])
        ).last_hidden_state
        blind = torch.zeros_like(seeing)
        blind[kept] = opened.model.lm_head(hidden)[0]
    return seeing, blind


def test_deltas_are_scores_with_the_picture_minus_scores_without(tmp_path: Path) -> None:
    opened = tiny()
    dataset = read_talks(opened, talks(tmp_path))
    batch = batched(opened, [dataset[1]])
    seeing, blind = by_hand(opened, batch)
    labels = batch["labels"][0, 1:]
    at = (labels != IGNORED).nonzero()[:, 0]
    found = deltas_of(opened, dataset, [0, 1])
    own = found.records == 1
    np.testing.assert_allclose(found.by_signal["logit"][own], (seeing - blind)[at, labels[at]], atol=1e-4)
    np.testing.assert_allclose(found.by_signal["logp"][own], (seeing.log_softmax(-1) - blind.log_softmax(-1))[at, labels[at]], atol=1e-4)
    assert set(found.records) == {0, 1}


def test_the_pieces_of_a_text_are_the_text_whatever_its_script() -> None:
    tokenizer = tiny_tokenizer()
    text = "a é 漢 </s> b"
    ids = tokenizer(text)["input_ids"]
    found = pieces(tokenizer, ids)
    assert "".join(found) == "<s>" + text
    # Three bytes: the letter comes with the last.
    assert found[found.index("漢") - 2 : found.index("漢")] == ["", ""]


def test_a_sample_has_its_text_without_placeholders_and_a_delta_for_each_label(tmp_path: Path) -> None:
    opened = tiny()
    dataset = read_talks(opened, talks(tmp_path))
    sample = read_sample(opened, dataset, 1)
    assert "".join(token.text for token in sample.tokens if token.deltas) == " Shade 1Shade 1</s>"
    assert "".join(token.text for token in sample.tokens).endswith("USER: \nWhich colour? ASSISTANT: Shade 1Shade 1</s>")
    expected = deltas_of(opened, dataset, [1]).by_signal["logp"]
    np.testing.assert_allclose([token.deltas["logp"] for token in sample.tokens if token.deltas], expected)
    assert sample.picture.size == (40, 30)


BAD = '</p><script>broken()</script>&amp;"'


def test_the_heatmap_shows_every_label_and_nothing_from_data_is_markup() -> None:
    tokens = (Token(f"ask {BAD}\n"), Token(BAD, {"logit": 9.0, "logp": -2.5}), Token("\n", {"logit": 0.0, "logp": 0.0}))
    text = heatmap_html(Sample(BAD, 3, Image.new("RGB", (4, 4)), tokens), f"cal-bench look {BAD}")
    elements = Elements(text)
    assert not elements.scripts
    spans = [attributes for tag, attributes in elements.found if tag == "span" and "title" in attributes]
    assert [(span["class"], span["style"]) for span in spans] == [
        ("up", "--share:100%"), ("up", "--share:0%"), ("down", "--share:50%"), ("up", "--share:0%"),
    ]  # fmt: skip
    assert spans[0]["title"] == "logit +9.00, logp -2.50"
    assert "prefers-color-scheme: dark" in text
    sources = [str(attributes["src"]) for tag, attributes in elements.found if tag == "img"]
    assert sources[0].startswith("data:image/webp;base64,")


def test_a_text_is_laid_out_in_lines_and_broken_between_words() -> None:
    label = {"logit": 1.0, "logp": 1.0}
    cells = lay_out([Token("one two"), Token(" three", label), Token("\nabcdefghijkl"), Token("x\n", label), Token("y")], 10)
    assert [(cell.line, cell.column, cell.text) for cell in cells] == [
        (0, 0, "one"), (0, 3, " two"), (1, 0, "three"), (1, 5, ""), (2, 0, "abcdefghij"), (3, 0, "kl"), (3, 2, "x↵"), (4, 0, "y"),
    ]  # fmt: skip
    assert [cell.deltas is not None for cell in cells] == [False, False, True, False, False, False, True, False]
    assert isinstance(cells[0], Cell)


def test_the_summary_counts_what_is_at_most_the_papers_bound() -> None:
    values = np.array([-1.0, 0.0, 5.0, 6.0])
    numbers = summary({"m": Deltas({"logit": values, "logp": values / 10}, np.array([3, 3, 3, 7]))})
    logit = numbers["m"]["logit"]
    assert (logit["share_at_most_5"], logit["mean"], logit["samples"], logit["tokens"]) == (0.75, 2.5, 2, 4)
    assert logit["quantiles"]["0.5"] == 2.5
    assert numbers["m"]["logp"]["share_at_most_5"] == 1
    assert lines(numbers)[1].split() == ["m", "logit", "2", "4", "2.50", "2.50", "5.70", "75.0", "%"]


def test_what_stands_behind_any_number_of_tokens_is_looked_at(tmp_path: Path) -> None:
    opened, where = tiny(), talks(tmp_path)
    where.data.write_text(json.dumps([conversation(0, "w " * 2000, "yes", "0.png")]))
    assert len(deltas_of(opened, read_talks(opened, where), [0]).records) == len("Syes") + 1  # a space in front, an end token behind


def test_a_checkpoint_is_looked_at_as_its_stage_read_it(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "pt")
    assert open_model(str(folder), "pt").processor.image_processor.do_pad
    stage = {"template": "plain", "processing": "original", "image_aspect_ratio": "square"}
    (folder / "train.json").write_text(json.dumps({"config": stage}))
    opened = open_model(str(folder), "pt")
    assert (opened.template, opened.processor.image_processor.do_pad) == ("plain", False)
    (folder / "train.json").write_text(json.dumps({"config": {**stage, "processing": "checkpoint"}}))
    assert type(open_model(str(folder), "pt").processor.image_processor).__name__.startswith("CLIP")


@pytest.mark.parametrize("next_family", [False, True])
def test_the_view_is_the_whole_picture_and_its_tokens(next_family: bool, tmp_path: Path) -> None:
    opened = tiny(next_family)
    where = talks(tmp_path)
    seen = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(seen).save(tmp_path / "images" / "0.png")
    batch = batched(opened, [read_talks(opened, where)[0]])
    view = view_of(opened, batch)
    assert (view.rows, view.tokens.shape) == (2, (4, 32))
    np.testing.assert_allclose(view.picture, seen / 255, atol=1e-3)
    # What stands at the first placeholders of the text is what the view has.
    with torch.no_grad():
        tower = opened.model.model.vision_tower(batch["pixel_values"].reshape(-1, 3, SIDE, SIDE)[:1], output_hidden_states=True)
        expected = opened.model.model.multi_modal_projector(tower.hidden_states[-2][:, 1:])[0]
    torch.testing.assert_close(view.tokens, expected)


def test_a_model_whose_image_tokens_are_no_known_grid_is_refused() -> None:
    opened = Opened("other", SimpleNamespace(config=SimpleNamespace(model_type="qwen2_5_vl")), None)
    with pytest.raises(UserError, match=r"'qwen2_5_vl' .*LLaVA-1\.5, LLaVA-NeXT, MGM"):
        view_of(opened, {})


@pytest.mark.parametrize("next_family", [False, True])
def test_attention_is_summed_over_layers_and_averaged_over_heads_and_label_positions(next_family: bool, tmp_path: Path) -> None:
    opened = tiny(next_family)
    dataset = read_talks(opened, talks(tmp_path))
    batch = batched(opened, [dataset[1]])
    found = attention_of(opened, dataset, 1)
    assert opened.model.get_decoder().config._attn_implementation == "sdpa"
    opened.model.set_attn_implementation("eager")
    inputs = {name: values for name, values in batch.items() if name != "labels"}
    with torch.no_grad():
        layers = opened.model(**inputs, output_attentions=True).attentions
    ids, labels = batch["input_ids"][0], batch["labels"][0]
    queries = [place - 1 for place in range(1, len(labels)) if labels[place] != IGNORED]
    image = [place for place in range(len(ids)) if ids[place] == IMAGE_ID]
    total = sum(layer[0].mean(dim=0)[queries].mean(dim=0)[image] for layer in layers)
    torch.testing.assert_close(found.values.flatten(), total[:4])
    assert (found.layers, found.positions) == (2, len(queries))
    assert found.on_image == pytest.approx(float(total.sum()) / 2)


def test_the_nearest_word_is_that_of_the_largest_cosine() -> None:
    features = torch.tensor([[10.0, 1.0], [0.1, 0.2], [-1.0, 0.0]])
    vectors = torch.tensor([[0.0, 9.0], [1.0, 0.0], [-0.1, -0.1]])
    nearness, places = nearest(features, vectors)
    assert places.tolist() == [1, 0, 2]
    torch.testing.assert_close(nearness, torch.tensor([10 / 101**0.5, 0.2 / 0.05**0.5, 0.5**0.5]))


def test_a_patch_that_is_a_words_vector_finds_that_word(tmp_path: Path) -> None:
    opened = tiny()
    dataset = read_talks(opened, talks(tmp_path))
    tokens = view_of(opened, batched(opened, [dataset[0]])).tokens
    ids = [opened.processor.tokenizer.convert_tokens_to_ids(letter) for letter in "Q7xW"]
    with torch.no_grad():
        opened.model.get_input_embeddings().weight[ids] = 3 * tokens
    found = words_of(opened, dataset, 0)
    assert found.words == ("Q", "7", "x", "W")
    torch.testing.assert_close(found.nearness, torch.ones(4))
    known = set(vocabulary(opened).values())
    assert {"Q", "7"} <= known
    assert not known & {"<s>", "<image>", "!", ""}


def test_a_sample_without_a_picture_is_refused(tmp_path: Path) -> None:
    dataset = read_talks(tiny(), talks(tmp_path))
    assert (chosen(dataset, None), chosen(dataset, 4)) == (0, 4)
    with pytest.raises(UserError, match=r"Sample 3 has no picture\. The first with one is --sample 0"):
        chosen(dataset, 3)
    with pytest.raises(UserError, match="no sample 12: the data has 12"):
        chosen(dataset, 12)


@pytest.fixture
def laid_out(tmp_path: Path) -> list[str]:
    """Two checkpoints and conversations; the flags that name the conversations."""
    for name in ("one", "two"):
        save_tiny(tmp_path / name)
    file = write_data(tmp_path)
    # Dollars are no formula in what stands below a drawing.
    file.write_text(file.read_text().replace("Shade 0", "$\\\\begin{x}$ 5"))
    return ["--data", str(tmp_path / "train.json"), "--images", str(tmp_path / "images"), "--out", str(tmp_path / "out")]


def test_every_figure_is_drawn_from_checkpoints(laid_out: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, two, out = str(tmp_path / "one"), str(tmp_path / "two"), tmp_path / "out"
    assert cli.main(["look", "heatmap", one, *laid_out, "--sample", "1"]) == 0
    assert cli.main(["look", "delta", one, two, *laid_out, "--count", "5"]) == 0
    assert cli.main(["look", "attention", one, two, *laid_out]) == 0
    assert cli.main(["look", "words", one, two, *laid_out]) == 0
    files = {path.name for path in out.iterdir()}
    assert files == {"heatmap.html", "heatmap.png", "delta.json", "delta.png", "attention.png", "words.png"}
    assert all((out / name).read_bytes().startswith(PNG) for name in files if name.endswith(".png"))
    written = json.loads((out / "delta.json").read_text())
    (first, second) = written["models"].values()
    assert first == second
    assert first["logit"]["samples"] == 5
    assert str(tmp_path) not in (out / "delta.json").read_text() + (out / "heatmap.html").read_text()
    assert str(out / "words.png") in capsys.readouterr().out


def test_models_are_called_by_as_much_of_their_path_as_tells_them_apart() -> None:
    assert short_names(["results/a/arms/cal/it", "results/a/arms/baseline/it"]) == {
        "results/a/arms/cal/it": "cal/it",
        "results/a/arms/baseline/it": "baseline/it",
    }
    assert list(short_names(["x/a/arms/cal/it", "x/b/arms/cal/it"]).values()) == ["a/arms/cal/it", "b/arms/cal/it"]
    assert short_names(["gpt"]) == {"gpt": "gpt"}
    with pytest.raises(UserError, match="named twice"):
        short_names(["one", "one"])


def test_wrong_commands_write_nothing(laid_out: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = str(tmp_path / "one")
    assert cli.main(["look", "heatmap", one, *laid_out, "--sample", "3"]) == 2
    assert cli.main(["look", "words", one, one, *laid_out]) == 2
    assert cli.main(["look", "delta", one, *laid_out, "--count", "0"]) == 2
    assert cli.main(["look", "haetmap", one]) == 2
    told = capsys.readouterr().err
    assert "Sample 3 has no picture" in told
    assert "A model is named twice" in told
    assert "expected a number of at least 1, got 0" in told
    assert "Did you mean 'heatmap'?" in told
    assert not (tmp_path / "out").exists()


def test_data_without_pictures_is_refused(laid_out: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.json").write_text(json.dumps([conversation(0, "How many?", "Two.")]))
    assert cli.main(["look", "delta", str(tmp_path / "one"), *laid_out]) == 2
    assert "None of the conversations has a picture" in capsys.readouterr().err


def test_a_caption_has_the_command_without_folders_of_this_machine() -> None:
    arguments = SimpleNamespace(
        what="words", models=["/home/me/study/arms/cal/it", "arms/cal/it"], data="/home/me/x.json", sample=0, count=None
    )
    assert typed(arguments) == "cal-bench look words cal/it arms/cal/it --data me/x.json --sample 0"  # type: ignore[arg-type]


def test_answers_of_two_runs_side_by_side(tmp_path: Path) -> None:
    write_rows(tmp_path, "chartqa")
    scores = {"one": [0.0, 1.0, 0, 0, *[1.0] * 8], "two": [1.0, 0.0, 0, 0, *[1.0] * 8]}
    said = {"one": {0: "a|b <i>\r`c` \ud83d", 1: "right"}, "two": {0: "0", 1: "wrong"}}
    runs = [str(write_run(tmp_path / name, [chartqa(given, tmp_path)], said[name], "..")) for name, given in scores.items()]
    out = tmp_path / "out"
    assert cli.main(["look", "answers", *runs, "--count", "2", "--out", str(out)]) == 0
    text = (out / "answers.md").read_text()
    assert "## VQA-Chart\n\n1 better, 1 worse, 2 both wrong.\n" in text
    assert "| **one (0)** | a\\|b &lt;i&gt;<br>\\`c\\` \\ud83d |\n| **two (1)** | 0 |" in text
    assert "| **Question** | How many in 1? |\n| **Expected** | 10 |\n| **one (1)** | right |\n| **two (0)** | wrong |" in text
    assert text.index("chartqa 1: worse") < text.index("chartqa 0: better")
    assert "chartqa 2" not in text
    with Image.open(out / "pictures" / "chartqa-1-0.webp") as picture:
        assert picture.size == (40, 30)
    assert str(tmp_path) not in text
