"""The tiny tower's training: what is taken of a picture, what the tower sees of it, and that both legs run."""

import itertools

import torch
from torch.utils.data import default_collate

from cal_bench.miniworld.convnext import HighResReader, Strips
from cal_bench.miniworld.scene import GRID, LAYOUTS, PATCH, make_scene
from cal_bench.miniworld.tower import Halves, Leg, Reader, fuller_half, normalise, picture_and_targets, reading_losses, train_tower


def test_the_fuller_half_is_the_four_rows_that_show_most() -> None:
    for seed in range(20):
        whole = picture_and_targets(make_scene(seed, LAYOUTS))
        half = fuller_half(whole)
        top = int(half.shown[0]) // GRID
        assert half.shown.tolist() == list(range(top * GRID, (top + 4) * GRID))
        for name in ("words", "boxes", "letters"):
            assert torch.equal(getattr(half, name), getattr(whole, name)[half.shown])
        owned = [int((whole.boxes[first * GRID : (first + 4) * GRID, 0] >= 0).sum()) for first in range(5)]
        assert owned[top] == max(owned)
        assert torch.equal(half.pixels, whole.pixels)


def test_a_tower_that_is_shown_all_sees_what_it_sees_without_being_told() -> None:
    torch.manual_seed(0)
    reader, seen = Reader(), picture_and_targets(make_scene(3, LAYOUTS))
    pixels = normalise(seen.pixels[None])
    read = reader(pixels, seen.shown[None])
    assert torch.equal(read.features, reader.tower(pixel_values=pixels).last_hidden_state[:, 1:])


def test_what_is_not_shown_is_not_seen() -> None:
    torch.manual_seed(0)
    reader, half = Reader(), fuller_half(picture_and_targets(make_scene(3, LAYOUTS)))
    other = half.pixels.clone()
    rows = {int(patch) // GRID for patch in half.shown}
    for row in set(range(GRID)) - rows:
        other[:, row * PATCH : (row + 1) * PATCH] = 255 - other[:, row * PATCH : (row + 1) * PATCH]
    assert not torch.equal(other, half.pixels)
    first, second = (reader(normalise(pixels[None]), half.shown[None]).features for pixels in (half.pixels, other))
    torch.testing.assert_close(first, second)
    assert first.shape[1] == len(half.shown)


def test_places_stay_where_they_are_in_the_picture() -> None:
    torch.manual_seed(0)
    reader, whole = Reader(), picture_and_targets(make_scene(3, LAYOUTS))
    pixels, backwards = normalise(whole.pixels[None]), whole.shown.flip(0)[None]
    torch.testing.assert_close(reader(pixels, backwards).features.flip(1), reader(pixels, whole.shown[None]).features, rtol=1e-4, atol=1e-5)


def test_both_legs_train() -> None:
    torch.manual_seed(0)  # as the training begins
    before = Reader().tower.state_dict()
    reader = train_tower((Leg(1, 1e-3, LAYOUTS, whole=False), Leg(1, 1e-3, LAYOUTS)))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in reader.tower.state_dict().items())
    batch = default_collate(list(itertools.islice(Halves(5, LAYOUTS), 2)))
    losses = reading_losses(reader(normalise(batch.pixels), batch.shown), reader.vectors, batch)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_high_resolution_tower_is_shown_the_half_alone() -> None:
    strip = next(iter(Strips(7, LAYOUTS)))
    assert strip.pixels.shape == (3, 128, 256)
    assert torch.allclose(strip.words.sum(-1), torch.ones(32))
    reading = HighResReader()(normalise(strip.pixels[None]), strip.shown[None])
    assert reading.words.shape[:2] == (1, 32)
