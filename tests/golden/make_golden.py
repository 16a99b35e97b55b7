"""Make ``metrics.json``: for every metric of the catalogue, values on fixed inputs from an independent reference.

``python tests/golden/make_golden.py`` overwrites the file. Each entry records which implementation gave its numbers,
and its version: a named package where there is one, else the formula written again here in NumPy.
"""

import json
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage, signal
from skimage import data, filters, measure
from skimage import metrics as skimage_metrics
from skimage.color import rgb2gray
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.kid import poly_mmd

from pixeval.catalog import CATALOG, find, load
from pixeval.metric_spec import MetricSpec
from pixeval.validation.planted_flaws import PLANTED, plant
from pixeval.zoo.icons import load_icons

FILE = Path(__file__).with_name("metrics.json")
Array = np.ndarray


def images() -> Array:
    """N x H x W x 3 float64 in [0, 1]: four icons, a noisy one, a two-colour ramp, a checkerboard with soft edges."""
    icons = load_icons("heldout").images[[0, 7, 21, 33]].astype(np.float64) / 255
    noise = np.random.default_rng(0).normal(0, 12 / 255, icons[1].shape)
    noisy = np.round(np.clip(icons[1] + noise, 0, 1) * 255) / 255
    rows, columns = np.meshgrid(np.linspace(0, 1, 128), np.linspace(0, 1, 128), indexing="ij")
    ramp = np.round(np.stack((rows, columns, 1 - rows * columns), -1) * 40) / 40
    checker = ndimage.gaussian_filter(((np.arange(128)[:, None] // 8 + np.arange(128) // 8) % 2).astype(float), 1.0)
    vivid = np.stack((checker, 0.1 * checker, 1 - checker), -1)
    return np.concatenate([icons, noisy[None], ramp[None], vivid[None]])


def references() -> Array:
    """What :func:`images` are compared with: themselves, softened and dimmed."""
    return 0.95 * ndimage.gaussian_filter(images(), (0, 1.0, 1.0, 0))


def photographs() -> Array:
    """7 x 192 x 192 x 3 float64 in [0, 1], whole levels: four crops, a noisy, a soft and a blocky one."""
    astronaut, cat = data.astronaut(), data.chelsea()
    crops = [astronaut[top : top + 192, left : left + 192] for top, left in ((0, 130), (200, 60), (300, 300))]
    crops.append(cat[40:232, 120:312])
    noisy = crops[0] + np.random.default_rng(0).normal(0, 15, crops[0].shape)
    soft = ndimage.gaussian_filter(crops[3].astype(float), (1.5, 1.5, 0))
    means = crops[1].reshape(24, 8, 24, 8, 3).mean((1, 3)).repeat(8, 0).repeat(8, 1)
    return np.round(np.clip(np.stack([*crops, noisy, soft, means * 0.5 + crops[1] * 0.5]), 0, 255)) / 255


def large() -> tuple[Array, Array]:
    """Photographs and the same, softened and dimmed."""
    return photographs(), 0.95 * ndimage.gaussian_filter(photographs(), (0, 1.0, 1.0, 0))


def inputs(spec: MetricSpec) -> tuple[Array, Array]:
    """Images and references for a metric: statistics of natural scenes are taken from photographs."""
    if spec.name in FROZEN or spec.name == "cpbd":
        return photographs(), photographs()
    if spec.min_side > 128:
        return large()
    if spec.family == "flaws" and spec.name not in REFERENCES:
        return flawed(spec.name), references()
    return images(), references()


def flawed(detector: str) -> Array:
    """:func:`images`, every other one with the detector's own flaw, or zero would do for an answer."""
    (own,) = (flaw for flaw in PLANTED if flaw.detector == detector)
    pixels = images()
    for place in range(0, len(pixels), 2):
        clean = torch.from_numpy(pixels[place]).permute(2, 0, 1).float()
        planted = plant(own, clean, 3, str(place)).pixels.permute(1, 2, 0).double().numpy()
        pixels[place] = np.round(planted * 255) / 255
    return pixels


def features() -> tuple[Array, Array]:
    """Unit features of two overlapping sets, 90 x 24 and 70 x 24."""
    rng = np.random.default_rng(1)
    sets = [rng.normal(shift, 1.0, (n, 24)) for n, shift in ((90, 0.3), (70, 0.5))]
    return (
        sets[0] / np.linalg.norm(sets[0], axis=1, keepdims=True),
        sets[1] / np.linalg.norm(sets[1], axis=1, keepdims=True),
    )


def luma(image: Array) -> Array:
    return np.asarray(rgb2gray(image))


def immerkaer(image: Array) -> float:
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    response = np.abs(signal.convolve2d(luma(image), kernel, mode="valid"))
    return float(np.sqrt(np.pi / 2) / (6 * response.size) * response.sum())


def hasler(image: Array) -> float:
    red, green, blue = np.moveaxis(image * 255, -1, 0)
    first, second = red - green, (red + green) / 2 - blue
    return float(np.hypot(first.std(), second.std()) + 0.3 * np.hypot(first.mean(), second.mean()))


def spectrum(channels: Array) -> tuple[Array, Array]:
    """Windowed power spectrum of H x W x C and the radial frequencies."""
    height, width = channels.shape[:2]
    window = np.outer(np.hanning(height), np.hanning(width))[..., None]
    power = np.abs(np.fft.fft2((channels - channels.mean((0, 1))) * window, axes=(0, 1))) ** 2
    return power.sum(-1), np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])


def high_share(image: Array) -> float:
    power, radius = spectrum(luma(image)[..., None])
    return float(power[radius >= 0.25].sum() / power[radius > 0].sum())


def band_error(image: Array, reference: Array, high: bool) -> float:
    error, radius = spectrum(image - reference)
    present, _ = spectrum(reference)
    band = (radius >= 0.25) if high else (radius < 0.25) & (radius > 0)
    return float(error[band].sum() / present[band].sum())


def ssim(image: Array, reference: Array) -> float:
    # the border that the window overhangs is left out, as scikit-image does
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    return float(skimage_metrics.structural_similarity(image, reference, channel_axis=-1, **options))


def oversaturation(image: Array) -> float:
    grey = luma(image)[..., None]
    room = np.where(image > grey, 1 - grey, grey)
    used = (np.abs(image - grey) / np.maximum(room, 1e-3)).max(-1)
    at_limit = np.clip((used - 0.97) / 0.03, 0, 1)
    around = ndimage.uniform_filter(at_limit, 5)
    heat = at_limit * np.clip((around - 0.3) / 0.6, 0, 1) * (image.max(-1) - image.min(-1)) ** 3
    return float(ndimage.gaussian_filter(heat, 3.0, truncate=3.0).mean())


def blank(image: Array) -> float:
    soft = ndimage.gaussian_filter(luma(image), 1.0, truncate=3.0)
    down, across = (
        ndimage.correlate1d(ndimage.correlate1d(soft, [-0.5, 0, 0.5], axis), [0.25, 0.5, 0.25], 1 - axis)
        for axis in (0, 1)
    )
    edges = down**2 + across**2
    presence = edges / (edges + (2 / 255) ** 2)
    return float(1 - ndimage.maximum_filter(presence, 2 * (min(presence.shape) // 8) + 1).mean())


def softmax_own(scale: float = 20.0) -> list[float]:
    first, second = features()
    logits = scale * first[:20] @ second[:20].T
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [float(v) for v in np.diagonal(chances)]


def fid() -> list[float]:
    statistics = [fid_features_to_statistics(torch.from_numpy(f)) for f in features()]
    return [float(fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"])]


def kid() -> list[float]:
    first, second = (torch.from_numpy(f[:70]) for f in features())
    return [float(poly_mmd(first, second))]


def gaussian_mmd() -> list[float]:
    first, second = features()

    def kernel(x: Array, y: Array) -> float:
        return float(np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / 200).mean())

    return [1000 * (kernel(first, first) + kernel(second, second) - 2 * kernel(first, second))]


def donoho(image: Array) -> float:
    taps = np.array([1 - 3**0.5, 3**0.5 - 3, 3 + 3**0.5, -1 - 3**0.5]) / (4 * 2**0.5)
    padded = np.pad(luma(image), 2, mode="symmetric")
    details = np.abs(signal.correlate2d(padded, np.outer(taps, taps), mode="valid")[::2, ::2])
    # skimage.restoration.estimate_sigma keeps what rounding leaves where the image is flat
    return float(np.median(details[details > 1e-6])) / 0.6744897501960817 if (details > 1e-6).any() else 0.0


def well_exposed(image: Array) -> float:
    return float(np.exp(-((image - 0.5) ** 2) / (2 * 0.2**2)).prod(-1).mean())


def clipped(image: Array) -> float:
    levels = image * 255
    return float(((levels <= 0.5) | (levels >= 254.5)).any(-1).mean())


def each(function: Callable[[Array], float]) -> Callable[[], list[float]]:
    return lambda: [float(function(image)) for image in images()]


def pairs(function: Callable[[Array, Array], float]) -> Callable[[], list[float]]:
    return lambda: [float(function(a, b)) for a, b in zip(images(), references(), strict=True)]


def cosines() -> list[float]:
    first, second = features()
    return [float(v) for v in 100 * np.clip((first[:20] * second[:20]).sum(1), 0, None)]


def ranks() -> list[float]:
    first, second = features()
    similarities = first[:20] @ second[:20].T
    return [float(v) for v in 1 + (similarities > np.diagonal(similarities)[:, None]).sum(1)]


def good_of_two() -> list[float]:
    first, second = features()
    similarities = np.exp(20 * first[:20] @ second[:2].T)
    return [float(v) for v in similarities[:, 0] / similarities.sum(1)]


def distances(x: Array, y: Array) -> Array:
    return np.sqrt(((x[:, None] - y[None]) ** 2).sum(-1))


def balls(points: Array, k: int) -> Array:
    return np.asarray(np.sort(distances(points, points), 1)[:, k])


def overlap(kind: str) -> list[float]:
    first, second = features()
    k = 3 if kind in ("precision", "recall") else 5
    across = distances(first, second)
    inside = across <= balls(second, k)[None]
    found = {
        "precision": inside.any(1).mean(),
        "recall": (across <= balls(first, k)[:, None]).any(0).mean(),
        "density": inside.sum(1).mean() / k,
        "coverage": inside.any(0).mean(),
    }
    return [float(found[kind])]


def vendi() -> list[float]:
    first, _ = features()
    values = np.linalg.eigvalsh(first @ first.T / len(first))
    values = values[values > 1e-12]
    return [float(np.exp(-(values * np.log(values)).sum()))]


def spectra_apart() -> list[float]:
    first, second = features()
    return [float(np.abs(first.mean(0) - second.mean(0)).mean())]


def ms_ssim(image: Array, reference: Array) -> float:
    found = []
    for channel in range(3):
        x, y, product = image[..., channel], reference[..., channel], 1.0
        for scale, exponent in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
            if scale > 0:
                x, y = (p[: len(p) // 2 * 2, : p.shape[1] // 2 * 2] for p in (x, y))
                x, y = (p.reshape(len(p) // 2, 2, p.shape[1] // 2, 2).mean((1, 3)) for p in (x, y))
            steps = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
            window = np.outer(steps, steps) / steps.sum() ** 2
            means = [signal.correlate2d(p, window, "valid") for p in (x, y, x * x, y * y, x * y)]
            variances = means[2] - means[0] ** 2 + means[3] - means[1] ** 2
            kept = (2 * (means[4] - means[0] * means[1]) + 0.03**2) / (variances + 0.03**2)
            if scale == 4:
                kept = kept * (2 * means[0] * means[1] + 0.01**2) / (means[0] ** 2 + means[1] ** 2 + 0.01**2)
            product *= kept.mean() ** exponent
        found.append(product)
    return float(np.mean(found))


REFERENCES: dict[str, tuple[str, Callable[[], list[float]]]] = {
    "sharpness": ("scikit-image", each(lambda image: filters.laplace(luma(image), ksize=3).var())),
    "blur_effect": ("scikit-image", each(lambda image: measure.blur_effect(luma(image), h_size=11))),
    "noise": ("scipy", each(immerkaer)),
    "colourfulness": ("numpy", each(hasler)),
    "contrast": ("numpy", each(lambda image: luma(image).std())),
    "high_frequency": ("numpy", each(high_share)),
    "wavelet_noise": ("scipy", each(donoho)),
    "exposure": ("numpy", each(well_exposed)),
    "clipping": ("numpy", each(clipped)),
    "clip_iqa": ("numpy", good_of_two),
    "oversaturation_flaw": ("scipy", each(oversaturation)),
    "blank_flaw": ("scipy", each(blank)),
    "clip_score": ("numpy", cosines),
    "caption_rank": ("numpy", ranks),
    "caption_probability": ("numpy", softmax_own),
    "frechet_distance": ("torch-fidelity", fid),
    "kernel_distance": ("torchmetrics", kid),
    "cmmd": ("numpy", gaussian_mmd),
    "precision": ("numpy", lambda: overlap("precision")),
    "recall": ("numpy", lambda: overlap("recall")),
    "density": ("numpy", lambda: overlap("density")),
    "coverage": ("numpy", lambda: overlap("coverage")),
    "vendi_score": ("numpy", vendi),
    "spectrum_distance": ("numpy", spectra_apart),
    "psnr": (
        "scikit-image",
        pairs(lambda a, b: skimage_metrics.peak_signal_noise_ratio(b, a, data_range=1.0)),
    ),
    "ssim": ("scikit-image", pairs(ssim)),
    "ms_ssim": ("scipy", lambda: [ms_ssim(a, b) for a, b in zip(*large(), strict=True)]),
    "low_band_error": ("numpy", pairs(lambda a, b: band_error(a, b, high=False))),
    "high_band_error": ("numpy", pairs(lambda a, b: band_error(a, b, high=True))),
}


FROZEN: dict[str, tuple[str, float, list[float]]] = {
    "niqe": ("BasicSR 1.4.2", 0.01, [7.0506, 4.5465, 8.1507, 3.0718, 10.7259, 7.3172, 4.5053]),
    "piqe": ("pypiqe 1.2", 0.02, [23.953, 27.325, 53.8641, 33.5637, 46.4768, 74.6259, 49.3218]),
    "brisque": ("brisque 0.2.0", 2e-3, [-1.998, 14.1182, 61.7565, 3.3766, 36.5967, 47.117, 16.5219]),
}
"""Values of packages that are not installed here on :func:`photographs`, with the tolerance ours must keep: they work
in other precision and, in flat parts, on rounding errors."""


def ours(spec: MetricSpec, dtype: torch.dtype = torch.float64) -> list[float]:
    """Our values on the same inputs."""
    from pixeval.metrics.alignment import caption_probability, caption_rank, clip_score
    from pixeval.metrics.clip_quality import opposites

    first, second = (torch.from_numpy(f).to(dtype) for f in features())
    if spec.family == "distribution":
        least = 70 if spec.name == "kernel_distance" else len(first)
        return [float(load(spec)(first[:least], second))]
    if spec.name == "clip_iqa":
        return [float(v) for v in opposites(first[:20], second[:1], second[1:2], 20.0)]
    if spec.family == "alignment":
        first, second = first[:20], second[:20]
        similarities, own = first @ second.T, torch.arange(20)
        values = {
            "clip_score": lambda: clip_score(first, second),
            "caption_rank": lambda: caption_rank(similarities, own),
            "caption_probability": lambda: caption_probability(similarities, own, 20.0),
        }
        return [float(v) for v in values[spec.name]()]
    tensors = [torch.from_numpy(array).permute(0, 3, 1, 2).to(dtype) for array in inputs(spec)]
    values_of = load(spec)(*tensors) if spec.family == "reference" else load(spec)(tensors[0])
    return [float(v) for v in values_of]


def main(arguments: Sequence[str] = ()) -> None:
    golden = {}
    for spec in CATALOG:
        if "weights" in spec.needs:
            continue
        if spec.name in FROZEN:
            source, tolerance, values = FROZEN[spec.name]
            golden[spec.name] = {"source": source, "tolerance": tolerance, "values": values}
            continue
        if spec.name in REFERENCES:
            package, function = REFERENCES[spec.name]
            values = function()
            source = f"{package} {metadata.version(package)}"
        else:
            # no other implementation exists: the values freeze ours, and planted flaws are its validation
            values, source = ours(find(spec.name)), f"pixeval, {load(spec).fingerprint}"
        golden[spec.name] = {"source": source, "values": values}
    text = json.dumps(golden, indent=1) + "\n"
    if "--check" in arguments:
        sys.exit(0 if text == FILE.read_text() else f"{FILE} is not what this script makes")
    FILE.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
