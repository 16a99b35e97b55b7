"""A comparison as text for a terminal."""

from typing import Any

from reports.claims import points
from reports.figures import number, percent

Row = list[str]
Json = dict[str, Any]

LEGEND = (
    "95 %: clustered by prompt and annotator; bootstrap: by prompt only; naive: as if votes were independent.",
    "detectable: net win rate found four times out of five; undone by: fewest votes without which nothing is clear;",
    "a question mark: the interval leaves out zero, but Holm's adjusted p is not below 0.05.",
)


def render(result: Json) -> str:
    """Tables of votes, metrics, ranks and tags, then the sentences one may write."""
    lines: list[str] = []
    for comparison in result["comparisons"]:
        lines += _comparison(comparison, result["simulated"])
    for found in result["rankings"]:
        lines += ["", f"Ranking on {found['question']}"]
        lines += _ranking(found["ranking"]) if found["ranking"] else [f"None: {found['problem']}"]
        lines += [f"without votes: {', '.join(found['unvoted'])}"] if found["unvoted"] else []
    if result["tags"] is not None:
        lines += ["", "Votes by tag (Holm over all of them)"]
        lines += _aligned(_tag_rows(result["tags"])) if result["tags"] else ["No tag has votes on six prompts."]
    bias = result["left_share"]
    if bias is not None:
        bounds = "" if bias["low"] is None else f" ({percent(bias['low'])} to {percent(bias['high'])})"
        lines += ["", f"The left image won {percent(bias['value'])} of decisive votes{bounds}; 50 % without side bias."]
    if result["sentences"]:
        lines += ["", "What one may write"]
        lines += [f"- {sentence}" for sentence in result["sentences"]]
    return "\n".join(lines).lstrip("\n")


def _comparison(comparison: Json, simulated: bool) -> list[str]:
    head = f"{comparison['candidate']} against {comparison['baseline']}, {comparison['pairs']} pairs of images"
    lines = ["", head]
    if simulated and comparison["votes"]:
        lines.append("The votes come from simulated annotators.")
    if comparison["votes"]:
        lines += ["", *_aligned(_vote_rows(comparison["votes"])), "", *_aligned(_trust_rows(comparison["votes"]))]
        lines += ["", *LEGEND]
    else:
        lines += ["", "No votes between the two; collect some with 'pixeval label'."]
    if comparison["changes"]:
        rows = [["metric", "", "baseline", "candidate", "change", "95 %", "pairs", "prompts", "Holm p", ""]]
        rows += [_change_row(change) for change in comparison["changes"]]
        lines += ["", *_aligned(rows), *_seeds(comparison["changes"])]
    else:
        lines += ["", "No metric to compare; score both runs with 'pixeval score'."]
    return lines + [f"{item['metric']} is left out: {item['reason']}" for item in comparison["incomparable"]]


def _seeds(changes: list[Json]) -> list[str]:
    """One line on what more seeds per prompt would do; none with one seed a prompt."""
    shares = sorted(1 - change["seed_noise"]["icc"] for change in changes if change["seed_noise"])
    if not shares:
        return []
    middle = percent(shares[len(shares) // 2])
    spread = f" ({percent(shares[0])} to {percent(shares[-1])})" if len(shares) > 1 else ""
    return [
        f"Of the variance of an image's change, seeds make up {middle}{spread}, prompts the rest; "
        "more seeds help where that is much, more prompts always."
    ]


def _vote_rows(tests: list[Json]) -> list[Row]:
    head = ["question", "win", "tie", "both bad", "loss", "net", "95 %", "votes", "prompts", "people", "Holm p", ""]
    rows = [head]
    for test in tests:
        rates = test["rates"]
        shares = [percent(rates[k] / rates["n"]) for k in ("win", "tie", "both_bad", "loss")]
        counts = [f"{rates[k]:,}" for k in ("n", "prompts", "annotators")]
        net, verdict = rates["net"], _said(test["verdict"], test["firm"])
        rows.append(
            [test["question"], *shares, points(net["value"]), _bounds(net), *counts, number(test["p_holm"]), verdict]
        )
    return rows


def _trust_rows(tests: list[Json]) -> list[Row]:
    """How far to trust the same rows."""
    head = ["", "decisive", "bootstrap 95 %", "naive 95 %", "sign-flip p", "alpha", "detectable", "undone by"]
    rows = [head]
    for test in tests:
        rates, fragile = test["rates"], test["fragility"]
        agreed, votes = test["agreement"], fragile["votes_to_unclear"]
        rows.append(
            [
                test["question"],
                "–" if rates["decisive"] is None else percent(rates["decisive"]["value"]),
                _bounds(rates["bootstrap_net"]),
                _bounds(rates["naive_net"]),
                number(rates["p_sign_flip"]),
                "–" if agreed is None else number(agreed["alpha"]["value"]),
                "–" if test["detectable"] is None else percent(test["detectable"]),
                "–" if votes is None else f"{votes:,} vote" + ("s" if votes > 1 else ""),
            ]
        )
    return rows


def _change_row(change: Json) -> Row:
    delta = change["change"]
    bounds = "–" if delta["low"] is None else f"{number(delta['low'], True)} to {number(delta['high'], True)}"
    arrow = {True: "↑", False: "↓", None: "?"}[change["higher_is_better"]]
    means = [number(change[k]) for k in ("baseline_mean", "candidate_mean")]
    counts = [str(delta["n"]), str(change["prompts"])]
    end = [number(change["p_holm"]), _said(change["verdict"], change["p_holm"] < 0.05)]
    return [change["metric"], arrow, *means, number(delta["value"], True), bounds, *counts, *end]


def _ranking(ranking: Json) -> list[str]:
    rows = [["", "strength", "95 %", "bootstrap 95 %", "votes", "ranks"]]
    for one in ranking["models"]:
        best, worst = one["best_rank"], one["worst_rank"]
        held = str(best) if best == worst else f"{best} to {worst}"
        strength = one["strength"]
        bounds = [_log_odds(strength), _log_odds(one["bootstrap"])]
        rows.append([one["label"], number(strength["value"], True), *bounds, f"{one['votes']:,}", held])
    return _aligned(rows)


def _tag_rows(tests: list[Json]) -> list[Row]:
    rows = [["question", "tag", "net", "95 %", "votes", "prompts", "Holm p", "candidate", ""]]
    for test in tests:
        rates, said = test["rates"], _said(test["verdict"], test["firm"])
        net, counts = rates["net"], [f"{rates[k]:,}" for k in ("n", "prompts")]
        end = [number(test["p_holm"]), rates["a_label"], said]
        rows.append([test["question"], test["tag"], points(net["value"]), _bounds(net), *counts, *end])
    return rows


def _said(verdict: str, firm: bool) -> str:
    """A clear difference that Holm's adjustment does not bear out is marked."""
    return verdict if firm or verdict == "unclear" else f"{verdict}?"


def _bounds(interval: Json) -> str:
    return "–" if interval["low"] is None else f"{points(interval['low'])} to {points(interval['high'])}"


def _log_odds(interval: Json) -> str:
    return "–" if interval["low"] is None else f"{number(interval['low'], True)} to {number(interval['high'], True)}"


def _aligned(rows: list[Row]) -> list[str]:
    """Columns of equal width, the first and the last flush left, numbers flush right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    lines = []
    for row in rows:
        cells = [row[i].ljust(w) if i in (0, last) else row[i].rjust(w) for i, w in enumerate(widths)]
        lines.append("  ".join(cells).rstrip())
    return lines
