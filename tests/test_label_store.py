"""The database of the labelling app, on SQLite and on a real PostgreSQL server: answers, chain, desk, migrations."""

import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from label_study import make_run, two_runs

from human_eval_app import desk, schema
from human_eval_app.accounts import add_user
from human_eval_app.answers import Answer, append, undo_of, verify
from human_eval_app.desk import begin
from human_eval_app.projects import Project, add_member, list_projects
from human_eval_app.schedule import BATCH, Design
from human_eval_app.session import Standing, standing
from human_eval_app.store import Store
from human_eval_app.study import open_study, read_arms
from pixeval.errors import InputError
from pixeval.records import CheckAnswer, FlawMark, counted_votes, current_votes

NOW = "2026-01-01T00:00:00.000+00:00"


class Study:
    """A store with a project of two runs, and shortcuts."""

    def __init__(self, place: str, folder: Path, design: Design, prompts: int = 12) -> None:
        self.runs = two_runs(folder, prompts)
        self.store = Store.at(place)
        self.project = open_study(self.store, read_arms(self.runs), design)
        self.people: dict[str, str] = {}

    def join(self, name: str) -> str:
        with self.store.write() as connection:
            user = add_user(connection, self.store.secret, name)
            add_member(connection, self.project.id, user.id)
            begin(connection, self.store.secret, self.project, user.id)
        self.people[name] = user.id
        return user.id

    def standing(self, user: str, ahead: int = 3) -> Standing:
        with self.store.write() as connection:
            return standing(connection, self.store.secret, self.project, user, ahead)

    def append(self, answer: Answer) -> bool:
        with self.store.write() as connection:
            return append(connection, self.store.secret, self.project.id, answer)

    def vote(self, user: str, choice: Any = "left", **more: Any) -> str:
        item = self.standing(user).queue[0]
        assert self.append(Answer(item.assignment, item.revision, choice, 1.5, NOW, **more))
        return item.assignment

    def finish(self, user: str, choice: Any = "left") -> int:
        count = 0
        while queue := self.standing(user, ahead=100).queue:
            for item in queue:
                assert self.append(Answer(item.assignment, item.revision, choice, 1.0, NOW))
            count += len(queue)
        return count

    def verify(self) -> Any:
        with self.store.read() as connection:
            return verify(connection, self.store.secret, self.project.id)

    def broken_by(self, statement: str) -> Any:
        """What checking finds after a change, which is then undone."""
        with self.store.write() as connection:
            connection.execute(sa.text(statement))
            broken = verify(connection, self.store.secret, self.project.id)
            connection.rollback()
        return broken

    def rows(self, query: str) -> list[Any]:
        with self.store.read() as connection:
            return list(connection.execute(sa.text(query)))


@pytest.fixture
def make(database: str, tmp_path: Path) -> Iterator[Callable[..., Study]]:
    made: list[Study] = []

    def make(design: Design = Design(), prompts: int = 12) -> Study:  # noqa: B008
        made.append(Study(database, tmp_path, design, prompts))
        return made[-1]

    yield make
    for study in made:
        study.store.close()


def together(work: Callable[[int], None], count: int) -> None:
    """Call ``work`` in as many threads at once."""
    failed: list[BaseException] = []
    barrier = threading.Barrier(count)

    def one(i: int) -> None:
        try:
            barrier.wait(10)
            work(i)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


# ---- answers and their chain -----------------------------------------------------------------------------------------


def test_migrations_lead_to_the_schema(database: str) -> None:
    store = Store.at(database)
    with store.write() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    secret = store.secret
    store.close()
    again = Store.at(database, secret="another")
    assert again.secret == secret
    again.close()


def test_an_answer_is_stored_once_and_an_undo_supersedes_it(make: Callable[..., Study]) -> None:
    study = make(Design(repeats=0))
    anna = study.join("anna")
    first = study.standing(anna).queue[0]
    mark = FlawMark("left", "anatomy", "major", 0.25, 0.1, 0.2, 1 / 3)
    answer = Answer(first.assignment, 0, "left", 1.1, NOW, "why", (mark,), (0, 2), (CheckAnswer("q?", "yes", "no"),))
    assert study.append(answer) is True
    assert study.append(answer) is False
    assert study.append(Answer(first.assignment, 0, "right", 1.0, NOW)) is False
    assert study.append(Answer(first.assignment, 2, "right", 1.0, NOW)) is False
    assert study.append(Answer("nothing", 0, "right", 1.0, NOW)) is False
    now = study.standing(anna)
    assert (now.done, now.total, now.queue[0].assignment != first.assignment) == (1, 36, True)
    assert now.last is not None and (now.last.assignment, now.last.revision) == (first.assignment, 0)
    (vote,) = study.store.votes()
    assert (vote.marks, vote.words, vote.checks, vote.reason) == ((mark,), (0, 2), answer.checks, "why")

    assert study.append(undo_of(first.assignment, 0, NOW)) is True
    assert study.append(undo_of(first.assignment, 0, NOW)) is False
    now = study.standing(anna)
    assert (now.done, now.last, now.queue[0].assignment, now.queue[0].revision) == (0, None, first.assignment, 2)
    assert [v.choice for v in current_votes(study.store.votes())] == ["skip"]
    assert study.append(Answer(first.assignment, 2, "right", 2.0, NOW))
    votes = study.store.votes()
    assert len(votes) == 3 and [v.supersedes for v in votes] == [None, votes[0].id, votes[1].id]
    assert [v.choice for v in current_votes(votes)] == ["right"] and study.verify() is None
    task = study.rows("SELECT SUM(votes), SUM(first_score), SUM(claims) FROM tasks")[0]
    left_is_first = votes[0].left_label == "basemodel"
    assert (int(task[0]), float(task[1]), int(task[2])) == (1, 0.0 if left_is_first else 1.0, 30)


def test_every_change_of_a_stored_vote_breaks_the_chain_at_its_row(make: Callable[..., Study]) -> None:
    study = make()
    anna = study.join("anna")
    given = [study.vote(anna) for _ in range(6)]
    assert study.verify() is None
    third = f"'{given[2]}'"
    pair = f"(SELECT pair FROM assignments WHERE id = {third})"
    swap = 'SET "left" = "right", "right" = "left"'
    tampering = {
        "UPDATE answers SET choice = 'right' WHERE number = 3": 3,
        "UPDATE answers SET seconds = 1.25 WHERE number = 3": 3,
        "UPDATE answers SET answered_at = '2027' WHERE number = 3": 3,
        "UPDATE answers SET marks = '[]', words = '[1]' WHERE number = 3": 3,
        f"UPDATE assignments {swap} WHERE id = {third}": 3,
        f"UPDATE assignments SET purpose = 'gold' WHERE id = {third}": 3,
        f"UPDATE assignments SET propensity = 0.5 WHERE id = {third}": 3,
        f"UPDATE assignments SET answer = NULL WHERE id = {third}": 3,
        f"UPDATE pairs SET first_label = 'x' WHERE id = {pair}": 3,
        f"UPDATE pairs SET prompt = 'x' WHERE id = {pair}": 3,
        "UPDATE users SET name = 'bert'": 1,
        "UPDATE users SET simulated = (1 = 1)": 1,
        "DELETE FROM answers WHERE number = 3": 3,
        "DELETE FROM answers WHERE number = 6": 6,
    }
    for statement, row in tampering.items():
        broken = study.broken_by(statement)
        assert broken is not None and broken.number == row, statement
    assert study.verify() is None


def test_concurrent_writers_make_one_chain(make: Callable[..., Study]) -> None:
    study = make()
    people = [study.join(f"person {i}") for i in range(6)]

    def work(i: int) -> None:
        for _ in range(5):
            study.vote(people[i % 6])

    # Everybody twice: as two tabs of one browser do, both may try the same answer, and one of them is refused.
    def tab(i: int) -> None:
        for _ in range(5):
            item = study.standing(people[i % 6]).queue[0]
            study.append(Answer(item.assignment, item.revision, "tie", 1.0, NOW))

    together(work, 6)
    assert study.verify() is None and len(study.store.votes()) == 30
    together(tab, 12)
    votes = study.store.votes()
    assert study.verify() is None and 60 <= len(votes) <= 90
    assert len({vote.id for vote in votes}) == len(votes) and all(vote.supersedes is None for vote in votes)


# ---- the desk --------------------------------------------------------------------------------------------------------


def test_everybody_judges_everything_with_balanced_sides_and_repeats(make: Callable[..., Study]) -> None:
    study = make()
    for name in ("anna", "bert"):
        assert study.finish(study.join(name), "left" if name == "anna" else "tie") == 36 + 2
    votes = study.store.votes()
    for name in ("anna", "bert"):
        own = [v for v in votes if v.annotator == name]
        work = [v for v in own if v.purpose == "work"]
        assert set(Counter((v.question, v.left_label) for v in work).values()) == {6}
        assert [v.question for v in work[: BATCH + 1]] == ["flaws"] * BATCH + ["appeal"]
        sides = {(v.question, frozenset((v.left, v.right))): v.left for v in work}
        repeats = [v for v in own if v.purpose == "repeat"]
        assert len(repeats) / len(own) >= 0.05
        assert all(sides[v.question, frozenset((v.left, v.right))] == v.right for v in repeats)
        seen: set[str] = set()
        for vote in work:
            assert vote.question != "flaws" or vote.prompt_id not in seen
            seen.add(vote.prompt_id)
    order = {name: [v.left for v in votes if v.annotator == name][:10] for name in ("anna", "bert")}
    assert order["anna"] != order["bert"] and {v.propensity for v in votes} == {1.0}


def test_every_pair_gets_as_many_votes_as_asked_for(make: Callable[..., Study]) -> None:
    study = make(Design(votes_per_pair=2, repeats=0))
    people = [study.join(f"person {i}") for i in range(5)]

    def work(i: int) -> None:
        study.finish(people[i])

    together(work, 5)
    votes = study.store.votes()
    counts = Counter((v.question, frozenset((v.left, v.right))) for v in votes)
    assert len(counts) == 36 and set(counts.values()) == {2}
    assert len({(v.annotator, v.question, frozenset((v.left, v.right))) for v in votes}) == len(votes) == 72
    assert study.verify() is None
    assert {study.standing(p).phase for p in people} == {"finished"}


def test_leases_run_out_and_others_get_the_pairs(make: Callable[..., Study], monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(Design(votes_per_pair=1, repeats=0, lease_minutes=10), prompts=5)
    clock = [1000.0]
    monkeypatch.setattr(desk.time, "time", lambda: clock[0])
    anna, bert = study.join("anna"), study.join("bert")
    mine = study.standing(anna, ahead=100).queue
    assert len(mine) == 15 and study.standing(bert).phase == "finished"
    study.vote(anna)
    clock[0] += 9 * 60
    study.vote(anna)
    clock[0] += 9 * 60
    # At work all the time, so nothing is taken away.
    assert study.standing(bert).phase == "finished"
    clock[0] += 11 * 60
    assert len(study.standing(bert, ahead=100).queue) == 13
    study.vote(bert)
    # What anna still had in hand counts all the same; of the rest she is asked nothing that bert has.
    late = next(i for i in mine if i.assignment != mine[0].assignment and i.assignment != mine[1].assignment)
    assert study.append(Answer(late.assignment, late.revision, "tie", 1.0, NOW))
    assert study.standing(anna).phase == "finished"
    clock[0] += 11 * 60
    again = study.standing(anna, ahead=100).queue
    assert len(again) in (11, 12) and {i.assignment for i in again} < {i.assignment for i in mine}
    study.finish(anna)
    votes = counted_votes(study.store.votes())
    counts = Counter((v.question, frozenset((v.left, v.right))) for v in votes)
    assert len(counts) == 15 and sorted(counts.values())[-2] == 1 and study.verify() is None
    claims = study.rows("SELECT (SELECT SUM(claims) FROM tasks), (SELECT claims FROM projects)")[0]
    assert int(claims[0]) == int(claims[1]) == len(votes)


def test_a_pair_of_three_models_is_chosen_evenly(make: Callable[..., Study], tmp_path: Path) -> None:
    study = make(Design(repeats=0))
    third = make_run(tmp_path / "third", "third", 12, 0.5)
    anna = study.join("anna")
    study.vote(anna)
    larger = open_study(study.store, read_arms([*study.runs, third.path]), Design(seed=99, repeats=0))
    assert larger.design.seed == 0
    study.finish(anna)
    votes = study.store.votes()
    cells = Counter(frozenset((v.left_label, v.right_label)) for v in votes)
    assert len(votes) == 3 * 36 and set(cells.values()) == {36}
    sides = Counter((v.question, v.left_label, v.right_label) for v in votes)
    assert set(sides.values()) == {6}


def test_active_selection_logs_propensities(make: Callable[..., Study]) -> None:
    study = make(Design(active=True, votes_per_pair=2, repeats=0), prompts=20)
    for name in ("anna", "bert"):
        study.finish(study.join(name))
    propensities = {v.propensity for v in study.store.votes()}
    assert len(propensities) > 3 and all(0.2 / 20 <= p <= 1 for p in propensities)


# ---- opening ---------------------------------------------------------------------------------------------------------


def test_projects_of_one_database_are_apart(make: Callable[..., Study]) -> None:
    study = make()
    other: Project = open_study(study.store, read_arms(study.runs), Design(), name="second", title="Second")
    anna = study.join("anna")
    study.vote(anna)
    with study.store.read() as connection:
        assert [p.name for p in list_projects(connection)] == ["study", "second"]
        assert [p.name for p in list_projects(connection, anna)] == ["study"]
    assert len(study.store.votes(study.project.id)) == 1 and study.store.votes(other.id) == []
    keys = study.rows("SELECT COUNT(*), COUNT(DISTINCT key), COUNT(DISTINCT sample) FROM images")[0]
    assert tuple(map(int, keys)) == (48, 48, 24)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no database " * 100)
    with pytest.raises(InputError, match="cannot be used"):
        Store.at(tmp_path / "notes.txt")
    with pytest.raises(InputError, match="cannot be used"):
        Store.at(f"postgresql://nobody:word@/none?host={tmp_path}")
    with pytest.raises(InputError, match=r"no_such_host|cannot be used") as caught:
        Store.at("postgresql://nobody:word@127.0.0.1:1/none")
    assert "word@" not in str(caught.value)


def test_a_database_of_the_first_format_is_refused_with_a_remedy(tmp_path: Path) -> None:
    file = tmp_path / "votes.sqlite3"
    with sqlite3.connect(file) as connection:
        for table in ("settings (name, value)", "assignments (id)", "answers (number)"):
            connection.execute(f"CREATE TABLE {table}")
    with pytest.raises(InputError, match=r"format 1.*give a new database with --db"):
        Store.at(file)
