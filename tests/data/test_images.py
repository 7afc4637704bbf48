"""Tests of images as bytes and of their batches: by hand, reference (torch's own resizing), property."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

from medcontrast.data.images.images import Images, make_image_loader, read_image
from medcontrast.data.images.manifest import load_image_manifest
from medcontrast.data.images.pixels import read_pixels
from medcontrast.data.images.sources import ImageCase, expand
from medcontrast.errors import ImageError, InputError


def picture(path: Path, array: NDArray[Any], mode: str | None = None, **options: Any) -> ImageCase:
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return ImageCase(path.name, path)


def colours(height: int = 6, width: int = 6, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels)).astype(np.uint8)


# --- files


def test_grey_and_colour_bit_for_bit(tmp_path: Path) -> None:
    grey = colours()[..., 0]
    case = picture(tmp_path / "g.png", grey)
    np.testing.assert_array_equal(read_pixels(case), grey[..., None])
    np.testing.assert_array_equal(read_image(case, channels=1, size=6), grey[None])
    np.testing.assert_array_equal(read_image(case, channels=3, size=6), np.stack([grey] * 3))
    case = picture(tmp_path / "c.png", colours())
    np.testing.assert_array_equal(read_image(case, channels=3, size=6), colours().transpose(2, 0, 1))
    red, green, blue = (colours()[..., channel].astype(np.float64) for channel in range(3))
    expected = np.rint(0.299 * red + 0.587 * green + 0.114 * blue)
    assert np.abs(read_image(case, channels=1, size=6)[0] - expected).max() <= 1
    found = read_image(case, channels=1, size=6)
    assert found.dtype == np.uint8 and found.flags.c_contiguous


def test_alpha_palettes_and_bits(tmp_path: Path) -> None:
    with_alpha = np.concatenate([colours(), np.zeros((6, 6, 1), np.uint8)], axis=2)  # transparent everywhere
    case = picture(tmp_path / "a.png", with_alpha)
    np.testing.assert_array_equal(read_image(case, channels=3, size=6), colours().transpose(2, 0, 1))
    grey = colours()[..., 0]
    case = picture(tmp_path / "la.png", grey, "LA")
    np.testing.assert_array_equal(read_image(case, channels=1, size=6), grey[None])
    case = picture(tmp_path / "p.png", grey, "P")
    np.testing.assert_array_equal(read_image(case, channels=1, size=6), grey[None])
    case = picture(tmp_path / "b.png", (grey > 128).astype(np.uint8) * 255, "1")
    np.testing.assert_array_equal(read_image(case, channels=1, size=6), ((grey > 128) * 255)[None])


@pytest.mark.parametrize(("orientation", "turned"), [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, np.rot90)])
def test_a_photograph_stands_as_its_camera_was_held(tmp_path: Path, orientation: int, turned: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = colours(4, 6)
    stored = np.ascontiguousarray(turned(upright))  # 6: to be turned by 90 degrees clockwise
    case = picture(tmp_path / "x.png", stored, exif=exif)
    np.testing.assert_array_equal(read_pixels(case), upright)


def test_sixteen_bits_stand_upright_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = np.arange(24, dtype=np.uint16).reshape(4, 6) * 1000
    case = picture(tmp_path / "x.png", np.ascontiguousarray(np.rot90(upright)), exif=exif)
    np.testing.assert_allclose(read_pixels(case)[..., 0], upright / 257.0)


@pytest.mark.parametrize("top", [65535, 200])
def test_sixteen_bits_are_a_share_of_all_sixteen_however_dark_the_image(tmp_path: Path, top: int) -> None:
    array = np.linspace(0, top, 36).reshape(6, 6).astype(np.uint16)
    for suffix in ("png", "tif"):
        case = picture(tmp_path / f"x{top}.{suffix}", array)
        np.testing.assert_array_equal(read_image(case, channels=1, size=6)[0], np.rint(array / 65535 * 255))


def test_floats_of_a_picture_are_fractions(tmp_path: Path) -> None:
    array = np.linspace(0, 1, 36, dtype=np.float32).reshape(6, 6)
    case = picture(tmp_path / "x.tif", array)
    np.testing.assert_array_equal(read_image(case, channels=1, size=6)[0], np.rint(array * 255))
    with pytest.raises(ImageError, match=r"y\.tif holds float32 from 0\.0 to 2\.0; expected bytes, or fractions"):
        read_image(picture(tmp_path / "y.tif", array * 2), channels=1, size=6)
    with pytest.raises(ImageError, match=r"z\.tif: holds values from -1 to 70000; expected 8 or 16 bits"):
        read_image(picture(tmp_path / "z.tif", np.array([[-1, 70000]], np.int32)), channels=1, size=6)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
def test_a_tiff_whose_white_is_zero_is_turned_round_whatever_its_bits(tmp_path: Path, kind: type) -> None:
    largest = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[kind]
    shares = np.linspace(0, 1, 36).reshape(6, 6)
    stored = (shares * largest).astype(kind)
    for photometric, expected in ((0, 1.0 - shares), (1, shares)):
        file = tmp_path / f"{photometric}.tif"
        tags = {262: photometric}
        # of 8 bits Pillow turns round what it writes, too
        Image.fromarray(255 - stored if kind is np.uint8 and photometric == 0 else stored).save(file, tiffinfo=tags)
        with Image.open(file) as written:
            assert written.tag_v2[262] == photometric
        found = read_image(ImageCase(name="x", file=file), channels=1, size=6)[0]
        np.testing.assert_allclose(found, expected * 255, atol=1.0)


def test_files_that_are_no_image(tmp_path: Path) -> None:
    case = picture(tmp_path / "x.png", colours(40, 40))
    case.file.write_bytes(case.file.read_bytes()[:300])
    with pytest.raises(ImageError, match=r"x\.png: cannot be read as an image \("):
        read_image(case, channels=1, size=8)
    case.file.write_text("words")
    with pytest.raises(ImageError, match=r"x\.png: cannot be read as an image \("):
        read_image(case, channels=1, size=8)
    case.file.unlink()
    with pytest.raises(ImageError, match=r"x\.png: there is no such image\."):
        read_image(case, channels=1, size=8)
    stack = [Image.fromarray(colours()) for _ in range(3)]
    stack[0].save(tmp_path / "s.tif", save_all=True, append_images=stack[1:])
    with pytest.raises(ImageError, match=r"s\.tif: holds 3 pictures; write one a file\."):
        read_image(ImageCase("s", tmp_path / "s.tif"), channels=1, size=8)


def test_a_picture_of_absurd_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = picture(tmp_path / "x.png", colours(20, 20))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"x\.png: cannot be read as an image \(Image size .* exceeds limit"):
        read_image(case, channels=1, size=8)


# --- arrays


def npz_cases(path: Path, array: NDArray[Any]) -> list[ImageCase]:
    np.savez(path, images=array)
    return expand({"npz": path.name}, path.parent, (), where="m")


def test_arrays_of_bytes_and_of_fractions(tmp_path: Path) -> None:
    bytes_ = np.stack([colours(), 255 - colours()])
    for number, case in enumerate(npz_cases(tmp_path / "a.npz", bytes_)):
        np.testing.assert_array_equal(read_image(case, channels=3, size=6), bytes_[number].transpose(2, 0, 1))
    case = npz_cases(tmp_path / "b.npz", bytes_[..., 0] / 255.0)[1]
    np.testing.assert_array_equal(read_image(case, channels=1, size=6)[0], bytes_[1, ..., 0])


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (
            np.full((1, 4, 4), 300, np.int64),
            r"image .*#images\[0\] holds int64 from 300 to 300; expected bytes, or fractions",
        ),
        (np.full((1, 4, 4), "words"), r"image .*#images\[0\] holds <U5; expected bytes, or fractions from 0 to 1\."),
        (np.full((1, 4, 4), -0.5), r"holds float64 from -0\.5 to -0\.5; expected bytes, or fractions from 0 to 1"),
        (np.full((1, 4, 4), np.nan), r"image .*#images\[0\] holds NaN or infinite values; repair or leave it out"),
        (np.array([[[0.5, np.inf]]]), "holds NaN or infinite values"),
        (np.zeros((1, 4, 4, 2), np.uint8), r"has shape \(4, 4, 2\); expected height x width, or that x 1, 3 or 4"),
        (np.zeros((1, 3, 4, 4, 1), np.uint8), r"has shape \(3, 4, 4, 1\)"),
        (np.zeros((1, 0, 4), np.uint8), r"has shape \(0, 4, 1\)"),
        (np.zeros(2, np.uint8), r"has shape \(\)"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, array: NDArray[Any], sentence: str) -> None:
    with pytest.raises(ImageError, match=sentence):
        read_image(npz_cases(tmp_path / "x.npz", array)[0], channels=1, size=8)


# --- size


@pytest.mark.parametrize(("height", "width", "size"), [(20, 20, 8), (9, 31, 16), (7, 8, 12)])
def test_resizing_is_torch_s_antialiased_one(tmp_path: Path, height: int, width: int, size: int) -> None:
    array = colours(height, width)
    case = picture(tmp_path / "x.png", array)
    tensor = torch.from_numpy(array).permute(2, 0, 1)[None].double()
    expected = functional.interpolate(tensor, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 255)
    found = read_image(case, channels=3, size=size)
    assert np.abs(found - expected.numpy()).max() < 0.5 + 1e-3
    if size < height:  # and a fine pattern does not alias
        stripes = np.tile((np.arange(64) % 2 * 255).astype(np.uint8), (64, 1))
        small = read_image(picture(tmp_path / "s.png", stripes), channels=1, size=size).astype(int)
        assert np.abs(small[:, :, 1:-1] - 127).max() < 40


def test_images_are_read_once_where_they_are_kept(tmp_path: Path) -> None:
    cases = [picture(tmp_path / f"{number}.png", colours() // (number + 1)) for number in range(3)]
    kept, plain = (Images(cases, channels=3, size=6, keep=keep) for keep in (True, False))
    kept.preload()
    batch = kept.load([2, 0])
    assert batch.shape == (2, 3, 6, 6) and batch.dtype == torch.float32 and len(kept) == 3
    np.testing.assert_allclose(batch[1].numpy(), colours().transpose(2, 0, 1) / 255, rtol=1e-6)
    plain.preload()
    assert torch.equal(plain.load([2, 0]), batch)
    for case in cases:
        case.file.unlink()
    assert torch.equal(kept.load([2, 0]), batch)
    with pytest.raises(ImageError, match="there is no such image"):
        plain.load([0])
    with pytest.raises(ImageError, match="there is no such image"):
        Images(cases, channels=3, size=6).preload()


# --- batches


@pytest.fixture
def manifest(tiny: SimpleNamespace, tmp_path: Path) -> Path:
    path: Path = tiny.write_images(tmp_path)
    tree = json.loads(path.read_text())
    tree["train"][3]["quality"] = "low"
    del tree["train"][5]["target"]
    path.write_text(json.dumps(tree))
    return path


def batches(
    tiny: SimpleNamespace, path: Path, *, rank: int = 0, world_size: int = 1, start_step: int = 0, **settings: Any
) -> list[dict[str, Any]]:
    tree = tiny.pretrain_tree(steps=6)
    for key, value in settings.items():
        tree = tiny.set_key(tree, key.replace("__", "."), value)
    loader, sampler = make_image_loader(
        tiny.recipe_from(tree), load_image_manifest(path), rank=rank, world_size=world_size, start_step=start_step
    )
    made = list(loader)
    assert len(made) == len(loader) == len(sampler)
    return made


def assert_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


def test_a_batch_by_hand(tiny: SimpleNamespace, manifest: Path) -> None:
    made = batches(tiny, manifest)
    assert len(made) == 6
    epoch = {name for batch in made[:3] for name in batch["case"]}
    assert len(epoch) == 24  # 3 steps of 8 rows are a pass over 24 images
    cases = {case.name: case for case in load_image_manifest(manifest).cases("train")}
    for batch in made:
        assert batch["image"].shape == (8, 1, 16, 16) and batch["image"].dtype == torch.float32
        assert batch["index"].tolist() == list(range(8))
        for row, name in enumerate(batch["case"]):
            assert batch["target"][row] == (-1 if cases[name].target is None else cases[name].target)
            assert batch["quality"][row] == int(cases[name].quality == "low")
            with Image.open(cases[name].file) as opened:
                np.testing.assert_allclose(batch["image"][row, 0], np.asarray(opened) / np.float32(255), rtol=1e-6)
    assert (torch.cat([batch["target"] for batch in made[:3]]) == -1).sum() == 1
    assert torch.cat([batch["quality"] for batch in made[:3]]).sum() == 1


def test_batches_are_the_same_for_any_number_of_workers_and_every_cache(tiny: SimpleNamespace, manifest: Path) -> None:
    expected = batches(tiny, manifest)
    for options in ({"data__workers": 2}, {"data__workers": 2, "data__cache": "none"}, {"data__cache": "none"}):
        for first, second in zip(expected, batches(tiny, manifest, **options), strict=True):
            assert_same(first, second)
    other = batches(tiny, manifest, seed=4)
    assert [batch["case"] for batch in other] != [batch["case"] for batch in expected]


def test_resumed_batches_go_on_exactly(tiny: SimpleNamespace, manifest: Path) -> None:
    for first, second in zip(batches(tiny, manifest)[4:], batches(tiny, manifest, start_step=4), strict=True):
        assert_same(first, second)


def test_processes_and_micro_batches_share_out_the_same_rows(tiny: SimpleNamespace, manifest: Path) -> None:
    expected = batches(tiny, manifest)
    parts = batches(tiny, manifest, train__accumulate=2)
    ranks = [batches(tiny, manifest, rank=rank, world_size=2) for rank in range(2)]
    for step, whole in enumerate(expected):
        for shares in (parts[2 * step : 2 * step + 2], [share[step] for share in ranks]):
            assert not set(shares[0]["case"]) & set(shares[1]["case"])
            order = torch.cat([share["index"] for share in shares]).argsort()
            for name in ("image", "target", "quality", "index"):
                assert torch.equal(torch.cat([share[name] for share in shares])[order], whole[name])


def test_loader_leaves_the_global_generator_alone(tiny: SimpleNamespace, manifest: Path) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(tiny, manifest)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_a_loader_refuses(tiny: SimpleNamespace, manifest: Path) -> None:
    with pytest.raises(InputError, match=r"24 training images are fewer than train\.rows 32; .* Lower train\.rows\."):
        batches(tiny, manifest, train__rows=32)
    with pytest.raises(InputError, match="cannot be shared evenly by 3 process"):
        batches(tiny, manifest, world_size=3)
    (manifest.parent / "train/00.png").write_text("words")
    with pytest.raises(ImageError, match=r"00\.png: cannot be read as an image"):
        batches(tiny, manifest)
