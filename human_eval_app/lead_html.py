"""The lead's page as HTML: figures, tables, charts and images with marks. Everything from outside is escaped here."""

import datetime as dt
from collections.abc import Iterable, Sequence
from html import escape as escape_html

from human_eval_app.judged import Judged
from human_eval_app.overview import Comparison, Overview
from human_eval_app.planner import StudyPlan
from human_eval_app.quality import AnnotatorQuality
from human_eval_app.stopping import Declaration, Look
from human_eval_app.texts import QUESTION_TEXTS
from pixeval.flaw_marks import RADIUS
from pixeval.records import FlawMark
from pixeval.stats.interval import Interval

LEAST_HOURS = 24
"""Of the chart of answers per hour."""
SHORT = {"flaws": "Fewer flaws", "appeal": "More liked", "alignment": "Fits the text"}
SAID = {"tie": "tie", "both_bad": "both bad", "skip": "skipped", "reject": "mixed styles"}


_TEMPLATES = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;", "\\": "&#92;", "@": "&#64;"})


def escape(text: str) -> str:
    """Text from outside as HTML, within an element or a quoted attribute.

    Gradio's component fills its HTML in by templates of JavaScript and Handlebars, so what these know is escaped too.
    """
    return escape_html(text).translate(_TEMPLATES)


def note(text: str, kind: str = "quiet") -> str:
    """One line; ``kind`` is quiet, good or bad."""
    return f'<p class="ld-note ld-{kind}">{escape(text)}</p>'


def figures_row(seen: Overview, state: str) -> str:
    """The numbers at the top."""
    wanted = f" of {seen.wanted}" if seen.wanted is not None else ""
    hour = seen.per_hour[-1][1] if seen.per_hour else 0
    flagged = sum(bool(quality.flags) for quality in seen.qualities)
    cards = [
        (f"{seen.done}{wanted}", "answers about pairs"),
        (str(hour), "in the latest hour"),
        (str(len(seen.qualities)), "people have answered"),
        (str(flagged), "of them flagged"),
        ("open" if state == "open" else "paused", "the study is"),
    ]
    items = "".join(f"<div><b>{escape(value)}</b><span>{escape(what)}</span></div>" for value, what in cards)
    return f'<div class="ld-cards">{items}</div>'


def hours_chart(per_hour: Sequence[tuple[str, int]]) -> str:
    """Answers per hour as bars."""
    if not per_hour:
        return note("No answers yet.")
    # A day at least, so that the first hours of a study are bars and no blocks.
    ending = dt.datetime.fromisoformat(per_hour[-1][0] + ":00")
    counts = dict(per_hour)
    hours = [
        (ending - dt.timedelta(hours=back)).isoformat(timespec="hours")
        for back in range(max(len(per_hour), LEAST_HOURS))[::-1]
    ]
    most = max(counts.values()) or 1
    bars = []
    for i, hour in enumerate(hours):
        count = counts.get(hour, 0)
        height = max(76 * count / most, 1.5 if count else 0)
        title = f"<title>{escape(hour.replace('T', ' '))}h UTC: {count}</title>"
        bars.append(f'<rect x="{10 * i + 1}" y="{78 - height:.1f}" width="8" height="{height:.1f}">{title}</rect>')
    first, last = (escape(hour.replace("T", " ")) + "h UTC" for hour in (hours[0], hours[-1]))
    return (
        f'<figure class="ld-chart"><figcaption>Answers per hour, {most} at most</figcaption>'
        f'<svg viewBox="0 0 {10 * len(hours)} 80" preserveAspectRatio="none" role="img" aria-label="Answers per hour">'
        f'{"".join(bars)}<line class="ld-axis" x1="0" x2="{10 * len(hours)}" y1="79" y2="79"/></svg>'
        f"<p><span>{first}</span><span>{last}</span></p></figure>"
    )


def comparisons_table(comparisons: Sequence[Comparison]) -> str:
    """Net win rates with intervals, with and without the excluded."""
    if not comparisons:
        return note("No comparison has an answer yet.")
    rows = []
    for one in comparisons:
        rates, without = one.result.rates, one.result.without
        question = SHORT[rates.question]
        pair = f"<b>{escape(rates.a_label)}</b> against {escape(rates.b_label)}"
        counts = f"{rates.win} / {rates.tie + rates.both_bad} / {rates.loss}"
        n = f"{rates.prompts} prompts, {rates.annotators} {'person' if rates.annotators == 1 else 'people'}"
        end = "" if one.half_width_at_end is None else f"about ±{one.half_width_at_end:.2f} at the end"
        rows.append(
            f"<tr><td>{question}<small>{pair}</small></td>"
            f'<td class="ld-n">{_interval(rates.net, signed=True)}<small>{end}</small></td>'
            f"<td>{_forest(rates.net)}</td>"
            f'<td class="ld-n">{counts}<small>{n}</small></td>'
            f'<td class="ld-n">{_interval(without.net, signed=True) if without else "–"}</td>'
            f'<td class="ld-n">{_range(one.result.leave_one_out)}</td></tr>'
        )
    head = (
        "<tr><th>Question</th><th>Net win rate</th><th>−1 … 0 … +1</th><th>Wins / ties / losses</th>"
        "<th>Without excluded</th><th>Any one left out</th></tr>"
    )
    return _table("Net win rates", head, "".join(rows))


def agreement_table(seen: Overview) -> str:
    """Krippendorff's alpha per question."""
    if not seen.agreements:
        return note("Nobody has judged a pair that somebody else judged, so there is no agreement to tell yet.")
    rows = "".join(
        f'<tr><td>{SHORT[question]}</td><td class="ld-n">{_interval(one.alpha)}</td>'
        f'<td class="ld-n">{_interval(one.share, share=True)}</td><td class="ld-n">{one.items}</td></tr>'
        for question, one in seen.agreements.items()
    )
    head = "<tr><th>Question</th><th>Krippendorff's α</th><th>Two answers the same</th><th>Pairs</th></tr>"
    return _table("Agreement", head, rows)


def people_table(qualities: Sequence[AnnotatorQuality], excluded: dict[str, str]) -> str:
    """One row per annotator."""
    if not qualities:
        return note("Nobody has answered yet.")
    rows = []
    for one in qualities:
        flags = [*one.flags, *([f"excluded: {excluded[one.annotator]}"] if one.annotator in excluded else [])]
        marks = "".join(f'<span class="ld-flag">{escape(flag)}</span>' for flag in flags)
        simulated = "<small>simulated</small>" if one.simulated else ""
        seconds = "–" if one.seconds is None else f"{one.seconds:.1f} s"
        rows.append(
            f"<tr><td>{escape(one.annotator)}{simulated}{marks}</td>"
            f'<td class="ld-n">{one.votes}<small>{one.skips} skipped</small></td>'
            f'<td class="ld-n">{_interval(one.gold, share=True)}</td>'
            f'<td class="ld-n">{_interval(one.repeats, share=True)}</td>'
            f'<td class="ld-n">{_interval(one.left, share=True)}</td>'
            f'<td class="ld-n">{_interval(one.agreement, share=True)}</td>'
            f'<td class="ld-n">{seconds}<small>run of {one.longest_run}</small></td>'
            f'<td class="ld-n">{_share(one.accuracy)}<small>{_share(one.beyond_chance)} beyond chance</small></td></tr>'
        )
    head = (
        "<tr><th>Name</th><th>Answers</th><th>Gold passed</th><th>Repeats the same</th><th>Left chosen</th>"
        "<th>With the majority</th><th>Median time</th><th>Dawid–Skene</th></tr>"
    )
    return _table("People", head, "".join(rows))


def stopping_box(kept: Declaration | None, look: Look | None, state: str) -> str:
    """What the declared rule says."""
    if kept is None:
        return note("No stopping rule was declared; the study ends when all work is done.")
    rule = kept.rule
    pair = " and ".join(rule.labels)
    what = f"after {rule.votes} votes on {rule.question} between {pair}"
    if rule.kind == "sequence":
        what = f"as soon as a {rule.confidence:.0%} confidence sequence decides between {pair} on {rule.question}, "
        what += f"at the latest after {rule.votes} votes"
    lines = [note(f"Stops {what}; declared {kept.declared_at[:16].replace('T', ' ')} UTC.")]
    if look is not None:
        bounds = ""
        if look.value is not None and look.low is not None and look.high is not None:
            bounds = f"; net {_signed(look.value)} ({_signed(look.low)} to {_signed(look.high)})"
        lines.append(note(f"Now {look.votes} of {look.wanted} votes{bounds}: {look.why}."))
    if kept.reached_at is not None and kept.outcome is not None:
        then = (
            f"Reached {kept.reached_at[:16].replace('T', ' ')} UTC with {kept.outcome.votes} votes: {kept.outcome.why}."
        )
        lines.append(note(then + (" The study was opened again after that." if state == "open" else ""), "good"))
    return "".join(lines)


def judged_list(pairs: Sequence[Judged], image_base: str) -> str:
    """Pairs with images, marks and answers.

    Args:
        pairs: to show, in order.
        image_base: what comes before the key in an image's address.
    """
    if not pairs:
        return note("No such pair yet.")
    return "".join(_judged(pair, image_base) for pair in pairs)


def plans_table(plans: Sequence[StudyPlan]) -> str:
    """Studies that could be made."""
    if not plans:
        return note("None of these studies finds it; ask more people, or for a larger difference.", "bad")
    rows = "".join(
        f'<tr><td class="ld-n">{plan.prompts}</td><td class="ld-n">{plan.votes_per_prompt}</td>'
        f'<td class="ld-n">{plan.annotators}</td><td class="ld-n">{plan.answers}</td>'
        f'<td class="ld-n">{plan.hours:.1f}</td><td class="ld-n">{plan.hours_each:.1f}</td>'
        f'<td class="ld-n">{plan.power:.0%}</td><td class="ld-n">±{plan.half_width:.2f}</td></tr>'
        for plan in plans
    )
    head = (
        "<tr><th>Prompts</th><th>Votes on each</th><th>People</th><th>Answers</th><th>Hours</th><th>Hours each</th>"
        "<th>Power</th><th>Interval of the net win rate</th></tr>"
    )
    return _table("Plans", head, rows)


def members_table(rows: Iterable[dict[str, object]]) -> str:
    """Who may judge a project."""
    cells = "".join(
        f"<tr><td>{escape(str(row['name']))}</td><td>{escape(str(row['joined_at'])[:16].replace('T', ' '))}</td>"
        f"<td>{'has begun' if row['begun_at'] else 'not begun'}</td><td>{'closed' if row['closed'] else ''}</td></tr>"
        for row in rows
    )
    if not cells:
        return note("Nobody has joined yet.")
    head = "<tr><th>Name</th><th>Joined (UTC)</th><th>Work</th><th>Account</th></tr>"
    return _table("Members", head, cells)


def link_box(what: str, link: str) -> str:
    """A link to give away, as text that a click selects."""
    return f'<p class="ld-note">{escape(what)}</p><p class="ld-link"><code>{escape(link)}</code></p>'


def downloads(project: str, ties: str, min_votes: int, exclude: bool) -> str:
    """Links to the exports of a project."""
    options = f"?ties={escape(ties)}&amp;min_votes={int(min_votes)}&amp;exclude={'true' if exclude else 'false'}"
    files = (
        ("votes.parquet", "", "every vote, superseded ones included, as a table"),
        ("votes.jsonl", "", "the same as JSON lines"),
        ("study.zip", options, "votes, preference pairs with flaw maps, masks, heat maps, what was asked"),
    )
    items = "".join(
        f'<li><a href="../api/admin/project/{escape(project)}/export/{name}{query}" download>{name}</a>'
        f"<span>{what}</span></li>"
        for name, query, what in files
    )
    return f'<ul class="ld-files">{items}</ul>'


def _table(name: str, head: str, rows: str) -> str:
    # The keyboard can scroll what has the focus, and what has it needs a name.
    return (
        f'<div class="ld-scroll" tabindex="0" role="region" aria-label="{escape(name)}">'
        f'<table class="ld-table"><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    )


def _judged(pair: Judged, image_base: str) -> str:
    counts = pair.counts
    names = {"first": pair.labels[0], "second": pair.labels[1], **SAID}
    told = ", ".join(f"{names[said]}: {count}" for said, count in counts.items() if count)
    bars = "".join(
        f'<span style="flex:{counts.get(said, 0)}" class="ld-part ld-{said}">{counts[said]}</span>'
        for said in ("first", "tie", "both_bad", "second")
        if counts.get(said)
    )
    people = "".join(
        f"<li><b>{escape(one.annotator)}</b> {escape(_said(one.said, pair))}{_words(pair, one.words)}</li>"
        for one in pair.opinions
    )
    sides = "".join(_picture(pair, side, image_base) for side in (0, 1))
    return (
        f'<section class="ld-pair"><p class="ld-prompt" tabindex="0">{escape(pair.prompt) or "(no text)"}</p>'
        f'<div class="ld-two">{sides}</div><div class="ld-bar" role="img" aria-label="{escape(told)}">{bars}</div>'
        f"<details><summary>{len(pair.opinions)} answers, {pair.mark_count} marks, "
        f"disagreement {pair.disagreement:.2f}</summary><ul>{people}</ul></details></section>"
    )


def _picture(pair: Judged, side: int, image_base: str) -> str:
    width, height = pair.sizes[side]
    shapes = "".join(
        _shape(mark, width, height, opinion.annotator) for opinion in pair.opinions for mark in opinion.marks[side]
    )
    return (
        f'<figure><div class="ld-image" style="aspect-ratio:{width}/{height}">'
        f'<img src="{escape(image_base + pair.keys[side])}" alt="" loading="lazy">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{shapes}</svg></div>'
        f"<figcaption>{escape(pair.labels[side])}</figcaption></figure>"
    )


def _shape(mark: FlawMark, width: int, height: int, annotator: str) -> str:
    title = f"<title>{escape(annotator)}: {escape(mark.category)}, {escape(mark.severity)}</title>"
    kind = f'class="ld-mark ld-{"major" if mark.severity == "major" else "minor"}"'
    x, y = mark.x * width, mark.y * height
    if mark.width or mark.height:
        size = f'width="{mark.width * width:.1f}" height="{mark.height * height:.1f}"'
        return f'<rect {kind} x="{x:.1f}" y="{y:.1f}" {size}>{title}</rect>'
    return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS * height:.1f}">{title}</circle>'


def _said(said: str, pair: Judged) -> str:
    return {"first": pair.labels[0], "second": pair.labels[1]}.get(said, SAID.get(said, said))


def _words(pair: Judged, places: Sequence[int]) -> str:
    text = pair.prompt.split()
    words = ", ".join(text[place] for place in places if place < len(text))
    return f" <i>{escape(words)}</i>" if words else ""


def _forest(net: Interval) -> str:
    """An interval of the net win rate on a line from -1 to 1."""
    at = 100 + 96 * net.value
    line = ""
    if net.low is not None and net.high is not None:
        clear = " ld-clear" if net.excludes(0.0) else ""
        ends = f'x1="{100 + 96 * net.low:.1f}" x2="{100 + 96 * net.high:.1f}"'
        line = f'<line class="ld-whisker{clear}" {ends} y1="10" y2="10"/>'
    return (
        '<svg class="ld-forest" viewBox="0 0 200 20" aria-hidden="true">'
        '<line class="ld-axis" x1="4" x2="196" y1="10" y2="10"/>'
        '<line class="ld-axis" x1="100" x2="100" y1="2" y2="18"/>'
        f'{line}<circle cx="{at:.1f}" cy="10" r="4"/></svg>'
    )


def _interval(found: Interval | None, share: bool = False, signed: bool = False) -> str:
    if found is None:
        return "–"
    one = _share if share else _signed if signed else _plain
    bounds = "" if found.low is None or found.high is None else f"<small>{one(found.low)} to {one(found.high)}</small>"
    return f"{one(found.value)}{bounds}"


def _range(both: tuple[float, float] | None) -> str:
    return "–" if both is None else f"{_signed(both[0])} to {_signed(both[1])}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _plain(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def question_choices(questions: Iterable[str]) -> list[tuple[str, str]]:
    """Title and id of questions, for a choice."""
    return [(text.title, question) for question, text in QUESTION_TEXTS.items() if question in set(questions)]
