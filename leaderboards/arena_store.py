"""The arena's database: videos, pairs, questions that were asked, answers. SQLite (WAL) or any SQLAlchemy URL.

A question is a row before it is shown: its token makes the vote idempotent, (rater, pair) is unique, and a vote is one
transaction that is on disk before it is acknowledged.
"""
from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Engine,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)
from sqlalchemy.exc import IntegrityError

from evalkit.errors import UsageError

DIMENSIONS = ("visual", "motion", "text", "overall")
ANSWERS = ("left", "right", "tie", "bad")  # the left one is better, the right one, neither, both are bad
HELD_S = 600.0  # an open question younger than this is being answered: others are asked something else

_TABLES = MetaData()
_SETTINGS = Table("settings", _TABLES, Column("name", String(40), primary_key=True), Column("value", JSON))
_VIDEOS = Table(
    "videos", _TABLES, Column("id", String(32), primary_key=True), Column("model", String(200), nullable=False),
    Column("prompt", Text, nullable=False), Column("name", Text, nullable=False), Column("seed", Text),
    Column("path", Text, nullable=False), Column("digest", String(64), nullable=False),
    Column("playable", Text, nullable=False))
_PAIRS = Table(
    "pairs", _TABLES, Column("id", Integer, primary_key=True), Column("a", ForeignKey("videos.id"), nullable=False),
    Column("b", ForeignKey("videos.id"), nullable=False), Column("gold", JSON(none_as_null=True)),
    UniqueConstraint("a", "b"))
_TASKS = Table(
    "tasks", _TABLES, Column("token", String(40), primary_key=True), Column("rater", String(64), nullable=False),
    Column("pair", ForeignKey("pairs.id"), nullable=False), Column("a_left", Boolean, nullable=False),
    Column("issued", Float, nullable=False), Column("answered", Float), Column("seconds", Float),
    Column("preference", Float), UniqueConstraint("rater", "pair"))
_ANSWERS = Table(
    "answers", _TABLES, Column("token", ForeignKey("tasks.token"), primary_key=True),
    Column("dimension", String(20), primary_key=True), Column("answer", String(8), nullable=False))


class UnknownTask(LookupError):
    """No question of this token was put to this rater."""


class AlreadyAnswered(ValueError):
    """The question has another answer already; the first stands."""


@dataclass(frozen=True)
class Video:
    """A sample of a model; `playable` is the file that browsers get."""

    model: str
    prompt: str
    name: str
    path: str
    digest: str  # sha256
    playable: str
    seed: int | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(16))  # tells nothing of the model


@dataclass(frozen=True)
class Pair:
    """Two videos of one prompt; gold: the known answers, dimension -> 1 (a is better), -1 (b) or 0."""

    id: int
    a: Video
    b: Video
    gold: Mapping[str, float] | None


@dataclass(frozen=True)
class Task:
    """A question as it was put to a rater."""

    token: str
    rater: str
    pair: int
    a_left: bool


@dataclass(frozen=True)
class Vote:
    """An answered question. answers: dimension -> one of ANSWERS, none where it was skipped; seconds: as the page saw.

    preference: 1 where a is better over all, -1 where b is, 0 for a tie, None where it was skipped.
    """

    token: str
    rater: str
    pair: int
    a_left: bool
    answered: float
    seconds: float
    preference: float | None
    answers: Mapping[str, str]

    def side(self, dimension: str) -> float:
        """1 where a is better in a dimension that was asked, -1 where b is, else 0; "overall" is always known."""
        if dimension == "overall":
            return self.preference or 0.0
        return toward_a(self.answers[dimension], self.a_left)


def toward_a(answer: str, a_left: bool) -> float:
    """1 where the answer prefers a, -1 where b, 0 where neither."""
    return {"left": 1.0, "right": -1.0}.get(answer, 0.0) * (1 if a_left else -1)


def overall(answers: Mapping[str, str], a_left: bool) -> float | None:
    """The answer to "overall" where it was asked, else the side that more dimensions prefer; None without answers."""
    if not answers:
        return None
    asked = [answers["overall"]] if "overall" in answers else list(answers.values())
    return float(np.sign(sum(toward_a(answer, a_left) for answer in asked)))


def open_engine(where: str) -> Engine:
    """An engine of a file of SQLite (made where it is missing) or of an SQLAlchemy URL."""
    if "://" not in where:
        Path(where).resolve().parent.mkdir(parents=True, exist_ok=True)
        where = f"sqlite:///{Path(where).resolve()}"
    engine = create_engine(where, pool_pre_ping=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver's own BEGIN comes too late: see _begin_sqlite
    for pragma in ("busy_timeout = 30000", "journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    """Writers queue at the start: two that read first and write later would both be refused."""
    connection.exec_driver_sql(f"BEGIN {connection.get_execution_options().get('sqlite_begin', 'IMMEDIATE')}")


class ArenaStore:
    """What is compared, asked and answered; safe for many threads, and for many processes."""

    def __init__(self, where: str, dimensions: Sequence[str] | None = None) -> None:
        """dimensions: those that raters are asked; None: as the database was made. UsageError where they differ."""
        self.engine = open_engine(where)
        self._reader = self.engine.execution_options(sqlite_begin="DEFERRED")
        _TABLES.create_all(self.engine)
        stored = self._setting("dimensions", list(dimensions or DIMENSIONS[:3]))
        if dimensions and list(dimensions) != stored:
            raise UsageError(f"{where} asks for {', '.join(stored)}: expected the same --dimensions, got "
                             f"{', '.join(dimensions)}; another --out begins anew")
        self.dimensions = tuple(stored)
        self.load()

    def _setting(self, name: str, default: Any) -> Any:
        with self.engine.begin() as connection:
            stored = connection.scalar(select(_SETTINGS.c.value).where(_SETTINGS.c.name == name))
            if stored is None:
                connection.execute(insert(_SETTINGS).values(name=name, value=default))
            return default if stored is None else stored

    def reading(self) -> Connection:
        """A connection for `with`, whose reads see one moment and keep no writer waiting."""
        return self._reader.connect()

    def load(self) -> None:
        """Read the videos and pairs, which do not change while the arena is open."""
        with self.reading() as connection:
            self.videos = {row.id: Video(**{**row._mapping, "seed": None if row.seed is None else int(row.seed)})
                           for row in connection.execute(select(_VIDEOS))}
            self.pairs = {row.id: Pair(row.id, self.videos[row.a], self.videos[row.b], row.gold)
                          for row in connection.execute(select(_PAIRS).order_by(_PAIRS.c.id))}

    def add(self, pairs: Iterable[tuple[Video, Video, Mapping[str, float] | None]]) -> None:
        """Add what is not there yet. UsageError where a video's content is no longer what was voted on."""
        known = {(video.model, video.path): video for video in self.videos.values()}
        have = {(pair.a.id, pair.b.id) for pair in self.pairs.values()}
        with self.engine.begin() as connection:
            for a, b, gold in pairs:
                a, b = (self._added(connection, known, video) for video in (a, b))
                if (a.id, b.id) not in have:
                    have.add((a.id, b.id))
                    connection.execute(insert(_PAIRS).values(a=a.id, b=b.id, gold=gold))
        self.load()

    def _added(self, connection: Connection, known: dict[tuple[str, str], Video], video: Video) -> Video:
        there = known.setdefault((video.model, video.path), video)
        if there.digest != video.digest:
            raise UsageError(f"{video.path} has changed since it came into the arena: votes would be about another "
                             "video; another --out begins anew")
        if there is video and video.id not in self.videos:
            self.videos[video.id] = video
            row = {**vars(video), "seed": None if video.seed is None else str(video.seed)}  # 64 bits need not fit
            connection.execute(insert(_VIDEOS).values(row))
        return there

    def next_task(self, rater: str, choose: Callable[[dict[int, tuple[int, float]], set[int]], int | None],
                  a_left: Callable[[], bool]) -> Task | None:
        """The rater's open question, else a new one; None where there is none left.

        choose: from the standing (see `standing`) and the pairs that the rater was asked to the next pair, or None.
        """
        for _ in range(3):
            try:
                with self.engine.begin() as connection:
                    if (task := self._open_task(connection, rater)) is not None:
                        return task
                    asked = set(connection.scalars(select(_TASKS.c.pair).where(_TASKS.c.rater == rater)))
                    pair = choose(self.standing(connection), asked)
                    if pair is None:
                        return None
                    task = Task(secrets.token_urlsafe(24), rater, pair, a_left())
                    connection.execute(insert(_TASKS).values(**vars(task), issued=time.time()))
                    return task
            except IntegrityError:  # another window of this rater was quicker; its question is open now
                continue
        raise RuntimeError(f"no question could be put to {rater!r}")

    def _open_task(self, connection: Connection, rater: str) -> Task | None:
        columns = [_TASKS.c[name] for name in Task.__dataclass_fields__]
        row = connection.execute(select(*columns).where(_TASKS.c.rater == rater, _TASKS.c.answered.is_(None))
                                 .order_by(_TASKS.c.issued)).first()
        return None if row is None else Task(**row._mapping)

    def standing(self, connection: Connection) -> dict[int, tuple[int, float]]:
        """Of each pair asked: how many answered or are answering, and the sum of preferences towards a."""
        counted = _TASKS.c.preference.is_not(None) | (_TASKS.c.answered.is_(None)
                                                      & (_TASKS.c.issued > time.time() - HELD_S))
        rows = connection.execute(select(_TASKS.c.pair, func.count(), func.sum(_TASKS.c.preference))
                                  .where(counted).group_by(_TASKS.c.pair))
        return {pair: (count, total or 0.0) for pair, count, total in rows}

    def answer(self, token: str, rater: str, answers: Mapping[str, str], seconds: float) -> bool:
        """Store a vote; True where it is new, False where this very vote is there already. Answers {} skips.

        ValueError where a dimension lacks or an answer is unknown; UnknownTask; AlreadyAnswered.
        """
        if answers and set(answers) != set(self.dimensions):
            raise ValueError(f"answers: expected {', '.join(self.dimensions)}, got {', '.join(sorted(answers))}")
        if unknown := sorted(set(answers.values()) - set(ANSWERS)):
            raise ValueError(f"answers: expected {', '.join(ANSWERS)}, got {unknown[0]!r}")
        mine = (_TASKS.c.token == token) & (_TASKS.c.rater == rater)
        with self.engine.begin() as connection:
            a_left = connection.scalar(select(_TASKS.c.a_left).where(mine))
            if a_left is None:
                raise UnknownTask("no question of this token was put to this rater")
            new = connection.execute(update(_TASKS).where(mine, _TASKS.c.answered.is_(None)).values(
                answered=time.time(), seconds=seconds, preference=overall(answers, a_left))).rowcount
            if new and answers:
                connection.execute(insert(_ANSWERS), [{"token": token, "dimension": name, "answer": answer}
                                                      for name, answer in answers.items()])
            if not new:
                rows = connection.execute(select(_ANSWERS).where(_ANSWERS.c.token == token))
                if {row.dimension: row.answer for row in rows} != answers:
                    raise AlreadyAnswered("this question has another answer already: the first stands")
        return bool(new)

    def votes(self) -> list[Vote]:
        """All answered questions, oldest first."""
        answers: dict[str, dict[str, str]] = {}
        with self.reading() as connection:
            for row in connection.execute(select(_ANSWERS)):
                answers.setdefault(row.token, {})[row.dimension] = row.answer
            columns = [_TASKS.c[name] for name in Vote.__dataclass_fields__ if name != "answers"]
            rows = connection.execute(select(*columns).where(_TASKS.c.answered.is_not(None))
                                      .order_by(_TASKS.c.answered, _TASKS.c.token)).all()
        return [Vote(**row._mapping, answers=answers.get(row.token, {})) for row in rows]

    def count(self, rater: str) -> int:
        """How many questions the rater has answered or skipped."""
        with self.reading() as connection:
            return connection.scalar(select(func.count()).select_from(_TASKS).where(
                _TASKS.c.rater == rater, _TASKS.c.answered.is_not(None)))
