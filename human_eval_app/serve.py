"""``pixeval label``: set up a study and serve it, export its votes, or check them."""

import os
import socket
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import quote, urlsplit

import sqlalchemy as sa
import tyro

from human_eval_app.accounts import add_user, enrolment_token, find_user, invite, withdraw_invitations
from human_eval_app.answers import verify
from human_eval_app.exclusion import ExclusionRule, declare_exclusion
from human_eval_app.export import export_votes
from human_eval_app.images import ImageCache
from human_eval_app.known import planted_pairs, read_known
from human_eval_app.projects import Project, list_projects, open_images
from human_eval_app.schedule import Design, match_samples
from human_eval_app.schema import projects
from human_eval_app.stopping import StoppingRule, declare, fit_rule
from human_eval_app.store import Store
from human_eval_app.study import DEFAULT_NAME, DEFAULT_TITLE, Arms, open_study, read_arms, settle_overlap
from human_eval_app.study_export import ExportConfig, export_study
from human_eval_app.vote_import import import_votes
from pixeval.errors import InputError
from pixeval.records import QUESTIONS, Question

LEAD = "lead"
"""Name of the account that the lead's address signs in."""
LINK_HOURS = 24


@dataclass(frozen=True)
class LabelConfig:
    """Compare the images of two or more runs, blind and side by side, in a browser."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Two or more run folders or folders of images; RUN:LABEL picks one set of images of a run that holds several.
    None: the projects that the database has."""
    db: str | None = None
    """SQLite file of the votes, or postgresql://user:password@host/name; continued when it exists.
    Default: votes/votes.sqlite3 in the first run, or NAME-votes/votes.sqlite3 for a folder of that name."""
    project: str = DEFAULT_NAME
    """Name of the study in the database, which can hold several; annotators do not see it."""
    title: str = DEFAULT_TITLE
    """What annotators see it called; name no model."""
    guideline: Path | None = None
    """Text file that annotators read first; default: a usual one."""
    prompts: Path | None = None
    """For folders of images: .csv or .jsonl with file_name and prompt of each."""
    questions: tuple[Question, ...] = QUESTIONS
    """What is asked about each pair."""
    votes_per_pair: int | None = None
    """People who answer each question about each pair; 0: everybody judges everything, which is the default up to
    200 pairs, 5 beyond."""
    active: bool = False
    """Prefer pairs whose next answer should tell most."""
    random_share: float = 0.2
    """Of picks that are made uniformly all the same, at least 0.2."""
    repeats: float = 0.05
    """Share of answers about an earlier pair with its sides swapped."""
    known: Path | None = None
    """.csv or .toml of pairs with known answers, for gold pairs and the training round."""
    planted_gold: int = 0
    """Gold pairs made of an image and a copy with a planted flaw."""
    planted_training: int = 0
    """Pairs of that kind for the training round."""
    gold: float = 0.1
    """Share of answers about gold pairs, as long as there are any."""
    lease_minutes: float = 60.0
    """Pairs that somebody was given go to others after so long without an answer."""
    invite: tuple[str, ...] = ()
    """Print one-time addresses for people of these names."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 7860
    """Port to listen on."""
    public_url: str | None = None
    """Address under which people reach the app, behind a reverse proxy: https://label.example.org."""
    stopping: StoppingRule = field(default_factory=StoppingRule)
    """When enough votes are there, declared before the first one."""
    exclusion: ExclusionRule = field(default_factory=ExclusionRule)
    """Whose votes results are also given without, declared before the first one."""
    export: Path | None = None
    """Write the votes to this run folder, .parquet or .jsonl file, or all of the study (votes, pairs, flaw maps, heat
    maps) to this new folder, and exit."""
    pairs: ExportConfig = field(default_factory=ExportConfig)
    """How the votes of an exported study become pairs."""
    imported: Annotated[Path | None, tyro.conf.arg(name="import")] = None
    """Read votes from this .json of Label Studio or .parquet of pick-a-pic into the first run, and exit; without runs
    the images of a .parquet become a new run at --export."""
    import_question: Question = "appeal"
    """What imported votes answer, where they do not say."""
    verify: bool = False
    """Check that no stored answer was changed, left out or added, and exit."""
    seed: int = 0
    """Of order and sides; a project keeps the seed it was started with."""


def label(config: LabelConfig) -> str | None:
    """Serve until Ctrl-C, then write the votes into the first run; or export, or verify, and return.

    Raises:
        InputError: bad runs, nothing to compare, a port in use, no votes to export, answers that were changed.
    """
    if config.imported is not None:
        return import_votes(config.imported, config.runs, config.import_question, config.export).summary()
    arms = read_arms(config.runs, config.prompts) if config.runs else None
    place = _place(config, arms)
    reading = config.export is not None or config.verify
    if reading and "://" not in place and not Path(place).exists():
        raise InputError(f"there is no vote database {place}; give the one that was used with --db")
    with closing(Store.at(place)) as store:
        if config.verify:
            return _verify(store)
        if config.export is not None:
            return _export(store, config, config.export)
        if arms is not None:
            set_up(store, arms, config)
        _serve(store, config)
        if arms is not None and store.votes():
            is_run = (arms.first_run / "run.json").exists()
            _tell(export_votes(store, arms.first_run if is_run else _home(arms) / "votes.parquet"))
    return None


def _export(store: Store, config: LabelConfig, target: Path) -> str | None:
    """The votes of all projects into a file or a run, or one project into a folder."""
    if target.suffix in (".parquet", ".jsonl") or (target / "run.json").exists():
        _tell(export_votes(store, target))
        return None
    with store.read() as connection:
        there = list_projects(connection)
    found = [project for project in there if project.name == config.project] or (there if len(there) == 1 else [])
    if not found:
        names = ", ".join(project.name for project in there) or "none"
        raise InputError(f"there is no project {config.project!r}; give one with --project, out of {names}")
    done = export_study(store, found[0], target, config.pairs)
    left_out = "".join(f"\nleft out {name}: {why}" for name, why in done["excluded"].items())
    unreadable = "".join(f"\nleft out a pair: {why}" for why in done["unreadable"])
    counts = f"{done['votes']} votes, {done['pairs']} pairs, flaw maps of {done['flaw_maps']} images"
    return f"{counts} written to {target}{left_out}{unreadable}"


def _place(config: LabelConfig, arms: Arms | None) -> str:
    if config.db is not None:
        return str(config.db)
    if arms is None:
        raise InputError("give two runs to compare, or the database of a study with --db")
    return str(_home(arms) / "votes.sqlite3")


def _home(arms: Arms) -> Path:
    """Where a study keeps its files: within the first run, but beside a folder of images, which is left as it is."""
    if (arms.first_run / "run.json").exists():
        return arms.first_run / "votes"
    return Path(f"{arms.first_run.resolve().name}-votes")


def set_up(store: Store, arms: Arms, config: LabelConfig, guideline: str | None = None) -> Project:
    """The project of a command line, made or brought up to date; ``guideline`` comes before that of the file."""
    matchups = match_samples(arms.groups)
    asked = tuple(q for q in QUESTIONS if q in config.questions)
    design = Design(
        questions=asked,
        seed=config.seed,
        votes_per_pair=settle_overlap(config.votes_per_pair, len(matchups)),
        active=config.active,
        random_share=config.random_share,
        repeats=config.repeats,
        gold=config.gold,
        lease_minutes=config.lease_minutes,
    )
    if config.stopping.kind != "none":
        fit_rule(config.stopping, tuple(sorted(arms.groups)), design)
    known = [
        *(read_known(config.known) if config.known is not None else []),
        *planted_pairs(arms, matchups, config.planted_gold, "gold", _home(arms) / "planted", config.seed),
        *planted_pairs(arms, matchups, config.planted_training, "training", _home(arms) / "planted", config.seed),
    ]
    guideline = _guideline(config.guideline) if guideline is None else guideline
    project = open_study(store, arms, design, config.project, config.title, guideline, known)
    with store.write() as connection:
        # A project that is gone on with keeps the rules it was started with.
        if config.stopping.kind != "none":
            declare(connection, project, config.stopping)
        if config.exclusion.excludes:
            declare_exclusion(connection, project, config.exclusion)
    overlap = design.votes_per_pair
    people = "everybody judges all of them" if overlap is None else f"{overlap} votes per pair and question"
    print(f"{len(matchups)} pairs, questions: {', '.join(asked)}; {people}", file=sys.stderr)
    return project


def _guideline(file: Path | None) -> str:
    if file is None:
        return ""
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"the guideline {file} cannot be read as text ({error})") from error


def _serve(store: Store, config: LabelConfig) -> None:
    """Print the addresses and serve until Ctrl-C."""
    # Set before gradio is imported, which reads it: nothing is sent anywhere.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    listener = _listen(config.host, config.port)
    import uvicorn

    from human_eval_app.ui import create_app

    address = (config.public_url or f"http://{_in_url(config.host)}:{config.port}").rstrip("/")
    images = ImageCache.of(store.secret)
    with store.read() as connection:
        images.encode_ahead(open_images(connection))
    app = create_app(store, images, _hosts(config), secure=address.startswith("https://"))
    print(f"votes are kept in {store.shown_url}", file=sys.stderr)
    for line in addresses(store, address, config.project, config.invite):
        print(line, flush=True)
    print("Ctrl-C stops", file=sys.stderr, flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, server_header=False))
    try:
        server.run(sockets=[listener])
    except KeyboardInterrupt:
        pass
    finally:
        listener.close()


def addresses(store: Store, address: str, project_name: str, names: tuple[str, ...] = ()) -> list[str]:
    """What to give to whom: the open link of every project, one-time links of named people, the lead's own."""
    lines = []
    with store.write() as connection:
        there = list_projects(connection)
        if not there:
            raise InputError(f"{store.shown_url} has no projects; give two runs to compare")
        for project in there:
            name = f" of {project.name}" if len(there) > 1 else ""
            lines.append(f"annotators{name}: {address}/#join={enrolment_token(store.secret, project)}")
        chosen = next((p for p in there if p.name == project_name), there[0])
        for name in names:
            user = find_user(connection, name) or add_user(connection, store.secret, name)
            token = invite(connection, user.role, chosen.id, user.id)
            lines.append(f"{name}: {address}/#join={token}&name={quote(name)}")
        lead = find_user(connection, LEAD) or add_user(connection, store.secret, LEAD, "admin")
        withdraw_invitations(connection, lead.id)
        lines.append(f"lead: {address}/#join={invite(connection, 'admin', None, lead.id, LINK_HOURS / 24)}&name={LEAD}")
    return lines


def _verify(store: Store) -> str:
    """What checking every project's chain found.

    Raises:
        InputError: naming the first broken row.
    """
    lines = []
    with store.read() as connection:
        for project in list_projects(connection):
            broken = verify(connection, store.secret, project.id)
            if broken is not None:
                raise InputError(
                    f"{store.shown_url}: answer {broken.number} of project {project.name!r} is broken: {broken.why}. "
                    "Answers up to the one before are as they were given; restore the rest from a backup"
                )
            count, head = connection.execute(
                sa.select(projects.c.answers, projects.c.head).where(projects.c.id == project.id)
            ).one()
            lines.append(f"{project.name}: all {count} answers are as they were given; the chain ends in {head}")
    return "\n".join(lines) or f"{store.shown_url} has no projects"


def _hosts(config: LabelConfig) -> frozenset[str] | None:
    """Names under which the app may be called; any when it listens to everybody and has no public name."""
    if config.host in ("0.0.0.0", "::") and config.public_url is None:
        return None
    public = urlsplit(config.public_url).hostname if config.public_url else None
    return frozenset({"localhost", "127.0.0.1", "::1", config.host} | ({public} if public else set()))


def _in_url(host: str) -> str:
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, so that a port in use is found before anything is loaded."""
    if not 0 < port < 65536:
        raise InputError(f"--port must be 1 to 65535, got {port}")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise InputError(f"cannot listen on {host}:{port} ({error.strerror}); give another --port or --host") from error
    return listener


def _tell(files: list[Path]) -> None:
    for file in files:
        print(f"votes written to {file}", file=sys.stderr)
