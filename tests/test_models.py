import shutil
import subprocess
import sys
import threading

import pytest
import torch
from PIL import Image

from cal_bench.checkpoints import processor_fingerprint, weights_fingerprint
from cal_bench.errors import UserError
from cal_bench.models import EchoModel, HFModel, checkpoint_folder, cut
from cal_bench.records import Answer, Unanswered
from cal_bench.tasks.base import BenchmarkError, Generation, Sample
from cal_bench.trainer_plugin.templates import SYSTEM

SHORT, LONG = Generation(5, ()), Generation(12, ("\n\n",))
TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}{% endif %}{% endfor %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def picture(seed):
    pixels = torch.randint(0, 256, (20, 20, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Image.fromarray(pixels.numpy())


def sample(number, prompt="What is this?", generation=SHORT, load=None):
    return Sample(number, prompt, load or (lambda: [picture(number)]), generation, f"hash-{number}", None)


def tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<s>", "</s>", "<image>"]
    vocabulary = {token: number for number, token in enumerate([*specials, *alphabet])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(specials)
    extra = {"image_token": "<image>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>", padding_side="right", extra_special_tokens=extra
    )


def save_llava(folder):
    """A random LLaVA whose weights are large enough for its answers to depend on the picture and on every word."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=16, patch_size=8, initializer_range=0.3
    )
    text = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=words.convert_tokens_to_ids("<image>"), image_seq_length=4
    )
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.do_sample = True
    model.generation_config.temperature = 5.0
    model.save_pretrained(folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    LlavaProcessor(
        pictures, words, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=TEMPLATE
    ).save_pretrained(folder)


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llava")
    save_llava(folder)
    return folder


@pytest.fixture
def copied(llava, tmp_path):
    return shutil.copytree(llava, tmp_path / "copied")


def texts(model, samples):
    return {reply.id: reply.text for reply in model.answer(samples)}


def mixed(count=21):
    prompts = ["Why?", "What colour is the sign on the left?", "Read the text.\nAnswer briefly."]
    return [sample(number, f"{prompts[number % 3]} {'x' * number}", (SHORT, LONG)[number % 2]) for number in range(count)]


def test_batched_answers_are_the_single_ones(llava):
    single = texts(HFModel(llava, batch_size=1, device="cpu"), mixed())
    batched = texts(HFModel(llava, batch_size=7, device="cpu"), mixed())
    assert batched == single
    assert len(set(single.values())) > 10, "answers that are all alike would prove nothing"


def test_a_single_answer_is_what_plain_transformers_gives(llava):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    one = sample(3, "What is this?", SHORT)
    plain, processor = AutoModelForImageTextToText.from_pretrained(llava).eval(), AutoProcessor.from_pretrained(llava)
    inputs = processor(images=picture(3), text="USER: <image>\nWhat is this? ASSISTANT:", return_tensors="pt")
    tokens = plain.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :]
    expected = processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
    assert texts(HFModel(llava, device="cpu", processing="checkpoint"), [one]) == {3: expected}


def test_llava_is_asked_as_the_original_code_asks_unless_told_otherwise(llava):
    original, own = HFModel(llava, device="cpu"), HFModel(llava, device="cpu", processing="checkpoint")
    assert original.processor.chat_template.count(SYSTEM) == 1
    assert original.processor.image_processor.do_pad
    assert own.processor.chat_template == TEMPLATE
    assert original.identity().processor == f"original {processor_fingerprint(llava)}"
    assert own.identity().processor == f"checkpoint {processor_fingerprint(llava)}"


def test_the_picture_counts(llava):
    model = HFModel(llava, device="cpu")
    answers = texts(model, [sample(number, "What is this?", LONG) for number in range(8)])
    assert len(set(answers.values())) > 1


def test_a_reply_carries_the_hash_of_its_prompt_and_its_time(llava):
    (reply,) = HFModel(llava, device="cpu").answer([sample(3)])
    assert isinstance(reply, Answer)
    assert reply.prompt == "hash-3"
    assert reply.seconds > 0


def test_samples_without_a_picture_and_with_two_are_answered(llava):
    asked = [sample(1, load=list), sample(2, load=lambda: [picture(1), picture(2)]), sample(3)]
    single = texts(HFModel(llava, batch_size=1, device="cpu"), asked)
    assert texts(HFModel(llava, batch_size=3, device="cpu"), asked) == single
    assert set(single) == {1, 2, 3}


def unreadable():
    raise BenchmarkError("picture 5 of chartqa cannot be decoded")


def test_a_picture_that_cannot_be_read_leaves_its_sample_unanswered_and_the_others_go_on(llava):
    asked = [sample(number, load=unreadable if number == 5 else None) for number in range(8)]
    model = HFModel(llava, batch_size=4, device="cpu")
    replies = {reply.id: reply for reply in model.answer(asked)}
    assert set(replies) == set(range(8))
    assert replies[5] == Unanswered(5, "picture 5 of chartqa cannot be decoded")
    expected = texts(HFModel(llava, batch_size=1, device="cpu"), [one for one in asked if one.id != 5])
    assert {number: reply.text for number, reply in replies.items() if number != 5} == expected


def test_a_picture_that_the_processor_refuses_leaves_its_sample_unanswered(llava):
    model = HFModel(llava, batch_size=4, device="cpu")
    make = model.processor.image_processor

    def refusing(pictures, **settings):
        if any(picture.width > 200 for picture in pictures):
            raise ValueError("absolute aspect ratio must be smaller than 200")
        return make(pictures, **settings)

    model.processor.image_processor = refusing
    asked = [sample(number) for number in range(3)] + [sample(3, load=lambda: [Image.new("RGB", (201, 1))])]
    replies = {reply.id: reply for reply in model.answer(asked)}
    assert replies[3] == Unanswered(3, "the model's processor refuses it: absolute aspect ratio must be smaller than 200")
    assert {number: replies[number].text for number in range(3)} == texts(HFModel(llava, batch_size=1, device="cpu"), asked[:3])


def test_a_batch_of_unreadable_pictures_is_no_batch(llava):
    assert [reply.id for reply in HFModel(llava, batch_size=1, device="cpu").answer([sample(5, load=unreadable)])] == [5]


def test_any_other_error_is_not_swallowed(llava):
    def broken():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(HFModel(llava, device="cpu").answer([sample(1, load=broken)]))


def test_pictures_are_loaded_in_a_thread_of_their_own_where_there_are_cores(llava, monkeypatch):
    seen = []

    def load():
        seen.append(threading.current_thread())
        return [picture(0)]

    for cores in (2, 8):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        list(HFModel(llava, device="cpu").answer([sample(1, load=load)]))
    assert seen[0] is threading.main_thread()
    assert seen[1] is not threading.main_thread()


def test_stop_strings_end_a_row_and_not_its_batch(llava):
    full = texts(HFModel(llava, batch_size=1, device="cpu"), [sample(number, "Read it.", Generation(40, ())) for number in range(6)])
    stop = full[0][10:12]
    asked = [sample(number, "Read it.", Generation(40, (stop,))) for number in range(6)]
    stopped = texts(HFModel(llava, batch_size=6, device="cpu"), asked)
    assert stopped == {number: cut(text, (stop,)) for number, text in full.items()}
    assert stopped[0] != full[0]


def test_generation_stops_once_every_row_holds_its_stop_string(llava, monkeypatch):
    model = HFModel(llava, device="cpu")
    first = texts(model, [sample(0, "Read it.", Generation(40, ()))])[0]
    lengths = []
    generate = model._model.generate

    def counted(**inputs):
        tokens = generate(**inputs)
        lengths.append(tokens.shape[1] - inputs["input_ids"].shape[1])
        return tokens

    monkeypatch.setattr(model._model, "generate", counted)
    texts(model, [sample(0, "Read it.", Generation(40, (first[:2],)))])
    assert lengths == [8]


def test_nothing_to_answer_loads_no_weights(llava):
    model = HFModel(llava, device="cpu")
    assert list(model.answer([])) == []
    assert model._model is None


@pytest.mark.parametrize(
    ("text", "until", "kept"),
    [
        (" a b \n", (), "a b"),
        ("one\n\ntwo", ("\n\n",), "one"),
        ("xASSISTANT:y", ("USER:", "ASSISTANT:"), "x"),
        ("bab", ("a", "b"), ""),
        ("", ("a",), ""),
    ],
)
def test_an_answer_ends_before_its_first_stop_string(text, until, kept):
    assert cut(text, until) == kept


def test_the_identity_names_weights_processor_and_precision(llava, copied):
    identity = HFModel(llava, device="cpu").identity()
    assert identity.weights == weights_fingerprint(llava)
    assert identity.dtype == "float32"
    (copied / "chat_template.jinja").write_text(TEMPLATE + " ")
    other = HFModel(copied, device="cpu").identity()
    assert other.weights == identity.weights
    assert other.processor != identity.processor


# Folders that cannot answer


def test_a_half_written_checkpoint_is_refused_before_it_is_loaded(copied):
    path = copied / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="damaged or half-written"):
        HFModel(copied)


def test_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="There is no model folder"):
        HFModel(tmp_path / "nowhere")


@pytest.mark.parametrize("kept", ["", "tokenizer"])
def test_a_checkpoint_without_a_processor_is_refused(copied, kept):
    for path in copied.iterdir():
        if path.name.startswith(("processor", "preprocessor", "tokenizer", "chat")) and not (kept and path.name.startswith(kept)):
            path.unlink()
    with pytest.raises(UserError, match="has no processor"):
        HFModel(copied)


def test_a_checkpoint_without_a_chat_template_is_refused(copied):
    (copied / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="has no chat template"):
        HFModel(copied)


def test_a_text_model_is_refused(copied):
    (copied / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="type 'llama', which does not answer questions about pictures"):
        HFModel(copied)


@pytest.mark.parametrize("content", ["{", '{"model_type": "no-such-model"}', "{}"])
def test_an_unknown_config_is_refused(copied, content):
    (copied / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json of .* is not one that transformers knows"):
        HFModel(copied)


def test_weights_that_lack_a_tensor_are_refused_and_not_filled_with_noise(copied):
    from safetensors.torch import load_file, save_file

    weights = load_file(copied / "model.safetensors")
    name = next(name for name in weights if "multi_modal_projector.linear_1.weight" in name)
    del weights[name]
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lacks 1 of its weights, the first is .*linear_1\.weight"):
        list(HFModel(copied, device="cpu").answer([sample(1)]))


def test_checkpoint_folder_takes_a_folder_and_refuses_a_missing_one(llava, tmp_path):
    assert checkpoint_folder(str(llava)) == llava
    with pytest.raises(UserError, match="There is no model folder"):
        checkpoint_folder(tmp_path / "nowhere")


def test_a_hub_name_that_cannot_be_fetched_is_a_message(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="could not be fetched from the Hugging Face hub"):
        checkpoint_folder("nobody/nothing")


def test_echo_answers_with_the_prompt():
    assert list(EchoModel().answer([sample(1, "hi")])) == [Answer(1, "hash-1", "hi", 0.0)]


def test_importing_models_imports_neither_torch_nor_transformers():
    heavy = ("torch", "transformers", "lmms_eval", "datasets")
    code = f"import sys, cal_bench.models, cal_bench.runner; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
