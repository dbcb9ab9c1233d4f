"""Corruptions against other libraries, closed forms and recorded statistics."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import rgb_to_hsv
from PIL import Image
from scipy import ndimage

from tfp_bayes import datasets
from tfp_bayes.robustness import CIFAR_C, MNIST_C, blur, corrupt, corruptions, noise, rotate_images

CASES = [*(("mnist_c", kind) for kind in MNIST_C), *(("cifar_c", kind) for kind in CIFAR_C)]
GOLDEN = Path(__file__).with_name("golden_statistics.json")
# Kinds whose published constants are not monotonic, with the severities that are weaker.
STEPS_BACK = {
    ("mnist_c", "spatter"): [4],
    ("mnist_c", "pixelate"): [2, 5],
    ("cifar_c", "glass_blur"): [2, 3, 5],
    ("cifar_c", "elastic_transform"): [2, 3, 4, 5],
    ("cifar_c", "saturate"): [3],
}


def generators(count, seed=0):
    return [np.random.default_rng([seed, i]) for i in range(count)]


@pytest.fixture(scope="module")
def batches():
    """Twenty digits, and 32 x 32 images with three channels made from them."""
    x = datasets.load("mnist").x_test[:20]
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    turned = [padded, np.rot90(padded, axes=(1, 2)), padded[::-1]]
    colored = np.concatenate([40 + 0.6 * each for each in turned], -1)
    return {"mnist_c": x, "cifar_c": colored.astype("uint8")}


@pytest.fixture(scope="module")
def corrupted(batches):
    return {
        (suite, kind): [corrupt(batches[suite], kind, s, suite) for s in range(1, 6)]
        for suite, kind in CASES
    }


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_golden_statistics(case, corrupted):
    """Compares mean and standard deviation; `json.dump` of `found` for each case made the file."""
    found = [[each.mean(), each.std()] for each in corrupted[case]]
    np.testing.assert_allclose(found, json.loads(GOLDEN.read_text())["-".join(case)], atol=0.05)


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_severity_goes_away_from_the_clean_image(case, batches, corrupted):
    suite, kind = case
    x = batches[suite].astype(float)
    distances = np.array([np.sqrt(((each - x) ** 2).mean()) for each in corrupted[case]])
    assert (distances > 0.1).all()
    if not {"mnist_c": MNIST_C, "cifar_c": CIFAR_C}[suite][kind].has_severities:
        assert (distances == distances[0]).all()
    else:
        back = (np.flatnonzero(np.diff(distances) < -1e-6) + 2).tolist()
        assert back == STEPS_BACK.get(case, [])


@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_an_image_depends_on_its_place_and_the_seed_alone(case, batches, corrupted, monkeypatch):
    suite, kind = case
    x = batches[suite][:5]
    before = x.copy()
    monkeypatch.setattr(corruptions, "_BLOCK", 2)
    again = corrupt(x, kind, 3, suite)
    assert again.shape == x.shape
    assert again.dtype == x.dtype
    np.testing.assert_array_equal(again, corrupted[case][2][:5])
    np.testing.assert_array_equal(x, before)


def test_seeds_differ(batches):
    x = batches["mnist_c"][:2]
    one, two = (corrupt(x, "gaussian_noise", seed=seed) for seed in (1, 2))
    assert (one != two).mean() > 0.3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32"])
@pytest.mark.parametrize("kind", ["gaussian_noise", "rotate", "brightness"])
def test_other_types_are_the_same_images(kind, dtype, batches):
    x = batches["mnist_c"][:3]
    max_pixel = 255 if dtype == "int32" else 1
    given = (x / 255 if max_pixel == 1 else x).astype(dtype)
    found = corrupt(given, kind, 2, max_pixel=max_pixel)
    assert found.dtype == given.dtype
    expected = corrupt(x, kind, 2).astype(float)
    # uint8 images are rounded down.
    difference = found.astype(float) * (255 / max_pixel) - expected
    slack = 0.3 if dtype == "float16" else 1e-3
    assert -slack <= difference.min() <= difference.max() < 1 + slack


def test_integers_are_rounded_down_but_not_by_rounding_errors():
    x = np.arange(256, dtype="uint8").reshape(1, 16, 16, 1)
    assert (corrupt(x, "inverse") == 255 - x).all()
    assert (corrupt(x, "quantize", 1)[0, 0, 1, 0], corrupt(x, "quantize", 1).max()) == (0, 255)
    assert corrupt(x, "quantize", 1)[0, 0, 5, 0] == 8  # 255 / 31 = 8.2


class TestAgainstOthers:
    @pytest.mark.parametrize("severity", [1, 4])
    def test_pixelate(self, severity, batches):
        x, factor = batches["mnist_c"][:3], MNIST_C["pixelate"].constants[severity - 1][0]
        found = corrupt(x, "pixelate", severity)
        for image, each in zip(x, found):
            small = Image.fromarray(image[..., 0]).resize([int(28 * factor)] * 2, Image.BOX)
            expected = np.asarray(small.resize((28, 28), Image.BOX)).astype(int)
            assert np.abs(expected - each[..., 0]).max() <= 1

    def test_rotation(self, batches):
        x = batches["mnist_c"][:3] / 255
        found = rotate_images(x, 25, max_pixel=1)
        expected = ndimage.rotate(
            x, 25, (2, 1), reshape=False, order=1, mode="grid-constant", prefilter=False
        )
        np.testing.assert_allclose(found, expected, atol=1e-6)
        uint8 = batches["mnist_c"]
        assert (rotate_images(uint8, 90) == np.rot90(uint8, axes=(1, 2))).all()
        assert (rotate_images(uint8, 180) == uint8[:, ::-1, ::-1]).all()

    def test_zoom_blur(self, batches):
        x = batches["cifar_c"][:2] / 255
        total = x.copy()
        for factor in (1, 1.03, 1.06, 1.09):
            part = int(np.ceil(32 / factor))
            start = (32 - part) // 2
            cut = x[:, start : start + part, start : start + part]
            large = ndimage.zoom(cut, (1, factor, factor, 1), order=1)
            trim = (large.shape[1] - 32) // 2
            total += large[:, trim : trim + 32, trim : trim + 32]
        np.testing.assert_allclose(blur.zoom_blur(x, [], 1.09, 0.03), total / 5, atol=1e-9)

    @pytest.mark.parametrize("kind", ["brightness", "saturate"])
    def test_colors(self, kind):
        x = np.random.default_rng(0).uniform(0.05, 0.95, (4, 8, 8, 3))
        before = rgb_to_hsv(x)
        after = rgb_to_hsv(corrupt(x, kind, 4, "cifar_c", max_pixel=1))
        expected = before.copy()
        if kind == "brightness":
            expected[..., 2] = np.minimum(before[..., 2] + 0.2, 1)
        else:
            expected[..., 1] = np.clip(before[..., 1] * 2 + 0.1, 0, 1)
        np.testing.assert_allclose(after, expected, atol=1e-9)

    def test_defocus_is_a_disk(self):
        x = np.zeros((1, 11, 11, 1))
        x[0, 5, 5] = 1
        found = blur.defocus_blur(x, [], 2, 0.01)[0, :, :, 0]
        rows, columns = np.indices((11, 11)) - 5
        disk = rows**2 + columns**2 <= 4
        np.testing.assert_allclose(found, disk / disk.sum(), atol=1e-12)

    @pytest.mark.parametrize(
        ("kind", "angle"), [("rotate", 0.6), ("scale", 0), ("shear", 0.6), ("translate", 3)]
    )
    def test_moved_pixels(self, kind, angle):
        """The oracle evaluates a linear image at the source positions of the pixels."""
        rows, columns = np.indices((28, 28)) - 13.5

        def picture(r, c):
            return 0.5 + 0.01 * r + 0.007 * c  # linear, so interpolation is exact

        x = picture(rows, columns)[None, ..., None].repeat(8, 0)
        found = corrupt(x, kind, 3, max_pixel=1)[:, 10:18, 10:18, 0]
        r, c = rows[10:18, 10:18], columns[10:18, 10:18]
        expected = []
        for a in (-1, 1):
            for b in (-1, 1):
                if kind == "rotate":
                    t = a * angle
                    expected.append(
                        picture(np.cos(t) * r + np.sin(t) * c, np.cos(t) * c - np.sin(t) * r)
                    )
                elif kind == "shear":
                    t = a * angle
                    expected.append(picture(np.cos(t) * r, c - np.sin(t) * r))
                elif kind == "scale":
                    expected.append(picture(r / 0.7, c / 0.7))
                else:
                    expected.append(picture(r + a * angle, c + b * angle))
        near = [[np.allclose(each, e, atol=1e-6) for e in expected] for each in found]
        assert np.any(near, 1).all()
        if kind != "scale":
            assert np.any(near, 0).all()  # both directions occur


class TestClosedForms:
    def test_noise_has_its_variance(self):
        x = np.full((40, 28, 28, 1), 0.5)
        count = x.size
        for function, constant, variance in [
            (noise.gaussian_noise, 0.2, 0.04),
            (noise.speckle_noise, 0.2, 0.01),
            (noise.shot_noise, 12, 0.5 / 12),
        ]:
            found = function(x, generators(40), constant)
            assert abs(found.mean() - 0.5) < 5.5 * np.sqrt(variance / count)
            # The kurtosis is at most 3 + 1 / 6 here.
            assert abs(found.var() / variance - 1) < 5.5 * np.sqrt(2.2 / count)

    def test_impulses_are_salt_and_pepper_alike(self):
        x = np.full((40, 28, 28, 1), 0.5)
        found = noise.impulse_noise(x, generators(40), 0.2)
        for value in (0, 1):
            assert abs((found == value).mean() - 0.1) < 5.5 * np.sqrt(0.09 / x.size)

    def test_glass_exchanges_pixels(self):
        x = np.random.default_rng(0).uniform(size=(3, 12, 12, 2))
        found = blur.glass_blur(x, generators(3), 0, 2, 2, 1.0)
        assert (found != x).mean() > 0.5
        for image, each in zip(x, found):
            pixels = [sorted(map(tuple, a.reshape(-1, 2))) for a in (image, each)]
            assert pixels[0] == pixels[1]

    def test_motion_smears_a_dot_to_one_side(self):
        x = np.zeros((6, 29, 29, 1))
        x[:, 14, 14] = 1
        found = blur.motion_blur(x, generators(6), 4, 2)
        np.testing.assert_allclose(found.sum((1, 2, 3)), 1)
        weights = np.exp(-(np.arange(9) ** 2) / 8)
        np.testing.assert_allclose(found[:, 14, 14, 0], weights[0] / weights.sum())
        for image, generator in zip(found, generators(6)):
            angle = np.deg2rad(generator.uniform(-45, 45))
            mean = (np.indices((29, 29)) * image[..., 0]).sum((1, 2)) - 14
            far = weights @ np.arange(9) / weights.sum()
            # Each weight is off by at most half a pixel.
            assert np.abs(mean + far * np.array([np.sin(angle), np.cos(angle)])).max() < 0.3

    def test_fog_keeps_the_brightest_value(self, batches):
        x = batches["mnist_c"][:4] / 255
        found = noise.fog(x, generators(4), 2.0, 2.0, 32)
        assert (found.max((1, 2, 3)) <= x.max((1, 2, 3)) + 1e-9).all()
        assert found[x == 0].mean() > 0.2

    def test_a_plasma_is_smoother_the_faster_it_decays(self):
        def roughness(decay):
            maps = np.stack([noise._plasma(g, 64, decay) for g in generators(5)])
            assert (maps.min((1, 2)) == 0).all()
            assert (maps.max((1, 2)) == 1).all()
            # The map wraps around, so its seam is as smooth as the rest.
            seam = np.abs(maps[:, 0] - maps[:, -1]).mean()
            steps = np.abs(np.diff(maps, axis=1)).mean()
            assert seam < 2 * steps
            return steps

        assert roughness(3) < roughness(2) < roughness(1.4)


@pytest.mark.parametrize(
    ("x", "arguments", "message"),
    [
        (np.full((2, 28, 28, 1), 0.5), {}, "Hint: pass max_pixel=1"),
        (np.zeros((2, 28, 28, 1)), {}, "Hint: pass max_pixel=1"),
        (np.ones((2, 28, 28, 1), "uint8"), {}, "Hint: pass max_pixel=1"),
        (np.full((2, 28, 28, 1), 2.0), {"max_pixel": 1}, r"in \[0, 1\] for `x`"),
        (np.full((2, 28, 28, 1), -3.0), {}, r"in \[0, 255\] for `x`"),
        (np.full((2, 28, 28, 1), np.nan), {}, "finite images"),
        (np.full((2, 28, 28, 1), np.inf), {}, "finite images"),
        (np.zeros((2, 28, 28), "uint8"), {}, r"x\[..., None\]"),
        (np.zeros((28, 28), "uint8"), {}, r"x\[None, :, :, None\]"),
        (np.zeros((28, 28, 1), "uint8"), {}, r"x\[None\] for one"),
        (np.zeros((2, 1, 28, 28), "uint8"), {}, "channel axis comes last"),
        (np.zeros((2, 28, 28, 1), bool), {}, "dtype bool"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"severity": 6}, "1 to 5 for `severity`"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"severity": 0}, "at least 1 for `severity`"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"severity": 1.5}, "at least 1 for `severity`"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"seed": -1}, "for `seed`"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"kind": "frost"}, "for `kind`. Received: kind='fr"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"suite": "imagenet_c"}, "for `suite`"),
        (np.zeros((2, 28, 28, 1), "uint8"), {"max_pixel": 0}, "for `max_pixel`"),
        (np.ones((2, 28, 28, 1), "int8"), {}, "at most 127, the largest int8, for `max_pixel`"),
        (
            np.zeros((2, 28, 28, 1), "uint8"),
            {"kind": "saturate", "suite": "cifar_c"},
            "with 3 channels for kind='saturate'",
        ),
    ],
)
def test_refused(x, arguments, message):
    with pytest.raises(ValueError, match=message):
        corrupt(x, **{"kind": "gaussian_noise", **arguments})


def test_black_images_and_none_are_fine():
    x = np.zeros((2, 28, 28, 1), "uint8")
    for kind in MNIST_C:
        assert corrupt(x, kind, 3).shape == x.shape
        assert corrupt(x[:0], kind, 3).shape == x[:0].shape


@pytest.mark.parametrize("degrees", [np.nan, None, [10, 20]])
def test_the_angle_is_checked(degrees):
    with pytest.raises(ValueError, match="for `degrees`"):
        rotate_images(np.zeros((1, 8, 8, 1), "uint8"), degrees)
