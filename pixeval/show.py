"""``pixeval show``: what a low, a middle and a high value of a metric looks like.

Torch is imported when there is something to compute, not for help and lists.
"""

import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from pixeval.catalog import CATALOG, find
from pixeval.errors import InputError
from pixeval.listing import ListConfig, listing, metric_row
from pixeval.listing import render as render_listing
from pixeval.metric_spec import MetricSpec, Need
from pixeval.weights import missing_weights, parse_weights

if TYPE_CHECKING:
    from pixeval.anchors import Anchors, Picture
    from pixeval.own_scores import OwnScores

NEEDS: dict[Need, str] = {
    "prompt": "the prompt of each image",
    "captions": "at least two different prompts",
    "reference_image": "a reference for each image",
    "reference_set": "a set of reference images",
    "clip": "a CLIP (a small one is bundled)",
    "general_clip": "a CLIP that knows more than icons (--clip)",
    "spectrum": "",
    "weights": "weights of its own (--weights)",
    "questions": "yes/no questions about each prompt",
    "objects": "the objects of each prompt",
}

NOT_FOLLOWING = (
    "The metric does not follow this change from step to step: take the pictures as examples, not as a scale."
)


@dataclass(frozen=True)
class ShowConfig:
    """What low, middle and high values of a metric look like, on bundled images and on your own."""

    metric: Annotated[str, tyro.conf.Positional] = ""
    """A metric; without one, all are listed."""
    page: Path | None = None
    """The HTML page with the pictures; default show/METRIC.html in the current folder."""
    images: Path | None = None
    """A folder or run of your own images: all are scored, and those at the quartiles of the values shown."""
    prompts: Path | None = None
    """With --images, for a folder: .csv or .jsonl with file_name and prompt of each image."""
    reference: Path | None = None
    """With --images: a folder or run to compare with, for the reference and distribution families."""
    clip: str = "bundled"
    """CLIP for metrics that need one, as in 'pixeval score'."""
    weights: tuple[str, ...] = ()
    """NAME=PATH for a metric whose weights are not bundled."""
    device: str = "cpu"
    """Where the metric runs."""
    cache: str = "default"
    """With --images: folder of the score cache, or 'none'."""


def show(config: ShowConfig) -> dict[str, Any]:
    """Carry out ``pixeval show`` and write the page.

    Returns ``metric`` (the catalogue entry), ``anchors`` (None with ``missing``, a line for people, when something is
    not given), ``images`` (None unless asked for) and ``page``; without a metric only ``metrics``.

    Raises:
        InputError: an unknown metric, weights of another one, bad weights, CLIP, device or images.
    """
    if not config.metric:
        return listing(ListConfig("metrics"))
    spec = find(config.metric)
    weights = parse_weights(config.weights, CATALOG)
    if other := next((name for name in weights if name != spec.name), None):
        raise InputError(f"--weights names {other}, but {spec.name} is shown; give its own weights or none")
    if config.images is None and (given := [n for n in ("prompts", "reference") if getattr(config, n) is not None]):
        raise InputError(f"--{given[0]} goes with your own images; give them with --images FOLDER")
    from pixeval.encoders import ClipEncoder
    from pixeval.scoring.evaluate import check_device

    check_device(config.device)
    missing = not_given(spec, config)
    if missing is not None and config.images is not None:
        raise InputError(missing)
    encoder = None
    if "clip" in spec.needs and missing is None:
        encoder = ClipEncoder.load(config.clip, config.device)
    anchors, own = None, None
    if config.images is not None:
        from pixeval.own_scores import own_scores
        from pixeval.scoring.cache import open_cache

        own = own_scores(
            spec,
            config.images,
            prompts=config.prompts,
            reference=config.reference,
            encoder=encoder,
            weights=weights,
            device=config.device,
            cache=open_cache(config.cache),
        )
    if missing is None:
        from pixeval.anchors import compute_anchors

        anchors = compute_anchors(spec, encoder=encoder, weights=weights.get(spec.name), device=config.device)
    found = {"metric": entry(spec), "missing": missing, "anchors": None, "images": None}
    if anchors is not None:
        found["anchors"] = _anchor_data(anchors)
    if own is not None:
        found["images"] = _own_data(own)
    page = config.page or Path("show") / f"{spec.name}.html"
    from pixeval.show_page import Page
    from pixeval.validation.page import write_whole

    write_whole(page, Page(found, anchors, own, spec.higher_is_better).html().encode())
    return found | {"page": str(page)}


def failed(found: dict[str, Any]) -> int:
    """The exit code of ``pixeval show``: 1 when an own image could not be read or the metric failed on one, else 0."""
    return int(bool(found.get("images") and found["images"]["failed"]))


def not_given(spec: MetricSpec, config: ShowConfig) -> str | None:
    """One line for people about what has to be given before there can be any value."""
    if "weights" in spec.needs and spec.name not in parse_weights(config.weights, CATALOG):
        return missing_weights(spec)
    if "general_clip" in spec.needs and config.clip == "bundled":
        return f"{spec.name} needs a CLIP that knows more than the bundled one; give --clip ViT-B-32/laion2b_s34b_b79k"
    return None


def entry(spec: MetricSpec) -> dict[str, Any]:
    """The catalogue row, as JSON can hold it."""
    needs = [words for need in spec.needs if (words := NEEDS[need])]
    return metric_row(spec) | {
        "unit": spec.unit or None,
        "needs_in_words": needs,
        "min_side": spec.min_side,
        "differentiable": spec.differentiable,
        "weights": spec.weights,
        "weights_format": spec.weights_format or None,
        "extra": spec.extra,
        "caution": spec.caution,
        "undefined": spec.undefined or None,
    }


def facts(metric: dict[str, Any]) -> list[tuple[str, str]]:
    """The entry as names and values for people."""
    low, high = (("-∞", "∞")[k] if bound is None else f"{bound:g}" for k, bound in enumerate(metric["range"]))
    unit = f", in {metric['unit']}" if metric["unit"] else ""
    needs = list(metric["needs_in_words"])
    if metric["min_side"] > 1:
        needs.append(f"images of at least {metric['min_side']} pixels a side")
    rows = [
        ("better", metric["better"]),
        ("range", f"{low} to {high}{unit}"),
        ("needs", "; ".join(needs) or "nothing"),
        ("weights", metric["weights"] + (f"; {metric['weights_format']}" if metric["weights_format"] else "")),
        ("gradients", "yes" if metric["differentiable"] else "no"),
        ("source", metric["citation"]),
    ]
    if metric["extra"]:
        rows.insert(4, ("install", f"pixeval[{metric['extra']}]"))
    if metric["undefined"]:
        rows.append(("no value", f"where {metric['undefined']}"))
    return [*rows, ("caution", metric["caution"])]


def _anchor_data(anchors: "Anchors") -> dict[str, Any]:
    ends = anchors.ends
    names = ("low", "middle", "high") if len(ends) == 3 else ("low", "high")[: len(ends)]
    return {
        "made_of": anchors.made_of,
        "unit": anchors.unit or None,
        "fingerprint": anchors.fingerprint,
        "follows": anchors.follows,
        **{name: _picture_data(p) | {"of": anchors.series[0].name} for name, p in zip(names, ends, strict=True)},
        "degrees": [
            {
                "title": degree.title,
                "n": degree.n,
                "median": degree.median,
                "quartiles": degree.quartiles,
                "missing": degree.missing,
                "reason": degree.reason,
            }
            for degree in anchors.degrees
        ],
        "series": [
            {"of": one.name, "kind": one.kind, "pictures": [_picture_data(p) for p in one.pictures]}
            for one in anchors.series
        ],
    }


def _picture_data(picture: "Picture") -> dict[str, Any]:
    return {"title": picture.title, "value": picture.value, "reason": picture.reason}


def _own_data(own: "OwnScores") -> dict[str, Any]:
    return {
        "folder": own.folder,
        "n": own.n,
        "mean": None if own.mean is None else own.mean.value,
        "low": None if own.mean is None else own.mean.low,
        "high": None if own.mean is None else own.mean.high,
        "images": [
            {"place": p.place, "file": p.name, "value": p.value, "low": p.low, "high": p.high} for p in own.placed
        ],
        "histogram": list(own.counts),
        "sets": [
            {
                "label": score.label,
                "reference": score.reference or None,
                "n": score.n,
                "value": score.value,
                "low": score.low,
                "high": score.high,
                "reason": score.reason,
            }
            for score, _ in own.sets
        ],
        "missing": [{"reason": reason, "n": n} for reason, n in own.missing],
        "failed": own.failed,
    }


def render(found: dict[str, Any]) -> str:
    """What :func:`show` found, for a terminal."""
    if "metrics" in found:
        return render_listing(found)
    metric = found["metric"]
    blocks = [_entry_lines(metric)]
    if found["missing"]:
        blocks.append(found["missing"])
    if found["anchors"]:
        blocks.append(_anchor_lines(found["anchors"]))
    if found["images"]:
        blocks.append(_own_lines(found["images"]))
    blocks.append(f"pictures: {shlex.quote(found['page'])}")
    # control characters of file names must not reach the terminal
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in "\n\n".join(blocks))


def _entry_lines(metric: dict[str, Any]) -> str:
    arrow = "↑ higher is better" if metric["better"] == "higher" else "↓ lower is better"
    lines = [f"{metric['name']}  {arrow}  ({metric['family']})", metric["summary"], ""]
    for name, text in facts(metric)[1:]:
        lines += textwrap.wrap(text, 100, initial_indent=f"  {name:10} ", subsequent_indent=" " * 13)
    return "\n".join(lines)


def _anchor_lines(anchors: dict[str, Any]) -> str:
    lines = []
    for name in ("low", "middle", "high"):
        if name in anchors:
            one = anchors[name]
            lines.append(f"  {name:7} {one['value']:>9.3g}  {one['of']}, {one['title']}")
    unit = f" ({anchors['unit']})" if anchors["unit"] else ""
    width = max(len(row["title"]) for row in anchors["degrees"]) + 2
    lines += ["", *textwrap.wrap(f"{anchors['made_of']}{unit}", 100)]
    if not anchors["follows"]:
        lines.append(NOT_FOLLOWING)
    single = max(row["n"] for row in anchors["degrees"]) < 2
    if not single:
        lines.append(f"  {'':{width}}{'median':>9}  {'middle half':22}{'n':>4}")
    for row in anchors["degrees"]:
        if row["median"] is None:
            lines.append(f"  {row['title']:{width}}{'none':>9}  {row['reason'] or ''}")
            continue
        half = f"  {row['quartiles'][0]:.3g} to {row['quartiles'][1]:.3g}"
        spread = "" if single else f"{half:24}{row['n']:>4}"
        note = f"  {row['missing']} without: {row['reason']}" if row["missing"] else ""
        lines.append(f"  {row['title']:{width}}{row['median']:>9.3g}{spread}{note}")
    return "\n".join(["anchors", *lines])


def _own_lines(own: dict[str, Any]) -> str:
    lines = [f"your images: {own['folder']}, {own['n']} scored"]
    if own["mean"] is not None:
        lines.append(f"  {'mean':15}{own['mean']:>9.3g}  {_bounds(own)}")
    lines += [f"  {r['place']:15}{r['value']:>9.3g}  {_bounds(r):24}{r['file']}".rstrip() for r in own["images"]]
    for row in own["sets"]:
        against = f" against {row['reference']}" if row["reference"] else ""
        value = "none" if row["value"] is None else f"{row['value']:.3g}"
        note = row["reason"] or f"{row['n']} images"
        lines.append(f"  {row['label']}{against}  {value}  {_bounds(row)}  {note}")
    lines += [f"  {row['n']} without a value: {row['reason']}" for row in own["missing"][:10]]
    return "\n".join(lines)


def _bounds(row: dict[str, Any]) -> str:
    return "" if row["low"] is None else f"[{row['low']:.3g}, {row['high']:.3g}]"
