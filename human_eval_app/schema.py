"""The tables of a labelling database, the same in SQLite and PostgreSQL.

The folder ``migrations`` brings a database here step by step; a test holds the two against each other. What is
derived from answers and kept for speed is marked so; everything else is written once.
"""

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

settings = sa.Table(
    "settings",
    metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

users = sa.Table(
    "users",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("name", sa.String(64), nullable=False),
    # Without case and compatibility forms, so that nobody can pass for somebody else.
    sa.Column("folded", sa.String(256), nullable=False, unique=True),
    sa.Column("role", sa.String(16), nullable=False),
    sa.Column("password", sa.Text),
    sa.Column("simulated", sa.Boolean, nullable=False),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
)

projects = sa.Table(
    "projects",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    # What the lead calls it; annotators see the title.
    sa.Column("name", sa.String(128), nullable=False, unique=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("guideline", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    # JSON of schedule.Design: questions, votes per pair, shares of repeats and gold pairs, ...
    sa.Column("design", sa.Text, nullable=False),
    sa.Column("enrolment", sa.Integer, nullable=False),
    sa.Column("created_at", sa.String(40), nullable=False),
    # Length and end of the chain of answers. Its row is what writers of a project wait for.
    sa.Column("answers", sa.Integer, nullable=False),
    sa.Column("head", sa.String(64), nullable=False),
    # Derived: rows of tasks of purpose work, and the sum of their claims.
    sa.Column("tasks", sa.Integer, nullable=False),
    sa.Column("claims", sa.Integer, nullable=False),
)

images = sa.Table(
    "images",
    metadata,
    sa.Column("key", sa.String(32), primary_key=True),
    sa.Column("project", sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("sample", sa.String(64), nullable=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),
    sa.Column("height", sa.Integer, nullable=False),
    sa.UniqueConstraint("project", "sample"),
)

pairs = sa.Table(
    "pairs",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("project", sa.ForeignKey("projects.id"), nullable=False),
    sa.Column("prompt_id", sa.Text, nullable=False),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("checks", sa.Text, nullable=False),
    # Sample ids and labels, in the order of the labels; sides are decided for each annotator.
    sa.Column("first", sa.String(64), nullable=False),
    sa.Column("second", sa.String(64), nullable=False),
    sa.Column("first_label", sa.Text, nullable=False),
    sa.Column("second_label", sa.Text, nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),
    # Random, so that a window of pairs by this number is a random sample of them.
    sa.Column("shuffle", sa.Integer, nullable=False),
    sa.Index("ix_pairs_order", "project", "purpose", "shuffle"),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("pair", sa.ForeignKey("pairs.id"), primary_key=True),
    sa.Column("question", sa.String(16), primary_key=True),
    # The known answer of gold and training pairs: first, second or tie; and why, shown in training.
    sa.Column("known", sa.String(16)),
    sa.Column("why", sa.Text, nullable=False),
    # Derived: annotators who have it or answered it, standing answers, and what they gave the first image.
    sa.Column("claims", sa.Integer, nullable=False),
    sa.Column("votes", sa.Integer, nullable=False),
    sa.Column("first_score", sa.Float, nullable=False),
)

members = sa.Table(
    "members",
    metadata,
    sa.Column("project", sa.ForeignKey("projects.id"), primary_key=True),
    sa.Column("annotator", sa.ForeignKey("users.id"), primary_key=True),
    sa.Column("joined_at", sa.String(40), nullable=False),
    # When the introduction had been read.
    sa.Column("begun_at", sa.String(40)),
    sa.Column("batches", sa.Integer, nullable=False),
    # Seconds since 1970 of the latest batch, and how many answers may come after it, by an estimate made then.
    sa.Column("seen", sa.Float, nullable=False),
    sa.Column("remaining", sa.Integer, nullable=False),
)

assignments = sa.Table(
    "assignments",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("project", sa.String(32), nullable=False),
    sa.Column("annotator", sa.String(32), nullable=False),
    sa.Column("pair", sa.ForeignKey("pairs.id"), nullable=False),
    sa.Column("question", sa.String(16), nullable=False),
    sa.Column("purpose", sa.String(16), nullable=False),
    sa.Column("batch", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("left", sa.String(64), nullable=False),
    sa.Column("right", sa.String(64), nullable=False),
    sa.Column("propensity", sa.Float, nullable=False),
    # Seconds since 1970; what nobody answered until then may be given to others.
    sa.Column("leased_until", sa.Float, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
    # Derived: number of rows in answers, and the number of the answer that stands, if one does.
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("answer", sa.Integer),
    sa.ForeignKeyConstraint(["project", "annotator"], ["members.project", "members.annotator"]),
    sa.UniqueConstraint("project", "annotator", "position"),
    sa.UniqueConstraint("annotator", "pair", "question", "purpose"),
    sa.Index("ix_assignments_standing", "project", "annotator", "answer"),
    sa.Index("ix_assignments_lease", "project", "released", "answer", "leased_until"),
)

answers = sa.Table(
    "answers",
    metadata,
    sa.Column("project", sa.ForeignKey("projects.id"), primary_key=True),
    # From 1, without gaps, in the order in which answers were stored.
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("assignment", sa.ForeignKey("assignments.id"), nullable=False),
    sa.Column("revision", sa.Integer, nullable=False),
    sa.Column("choice", sa.String(16), nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("answered_at", sa.String(40), nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("marks", sa.Text, nullable=False),
    sa.Column("words", sa.Text, nullable=False),
    sa.Column("checks", sa.Text, nullable=False),
    # SHA-256 of the hash before and of the whole vote; see answers.link.
    sa.Column("hash", sa.String(64), nullable=False),
    sa.UniqueConstraint("assignment", "revision"),
)

declarations = sa.Table(
    "declarations",
    metadata,
    sa.Column("project", sa.ForeignKey("projects.id"), primary_key=True),
    # stopping or exclusion; written before the first answer of a project and never changed after it.
    sa.Column("kind", sa.String(16), primary_key=True),
    # JSON of stopping.StoppingRule or exclusion.ExclusionRule.
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("declared_at", sa.String(40), nullable=False),
    # When a stopping rule paused the project, and JSON of the stopping.Look that did.
    sa.Column("reached_at", sa.String(40)),
    sa.Column("outcome", sa.Text),
)

invitations = sa.Table(
    "invitations",
    metadata,
    # SHA-256 of the token, which is kept nowhere.
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("project", sa.ForeignKey("projects.id")),
    sa.Column("role", sa.String(16), nullable=False),
    # Signs in this user; None makes a new one.
    sa.Column("user", sa.ForeignKey("users.id")),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Column("used_at", sa.String(40)),
)

sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("token", sa.String(64), primary_key=True),
    sa.Column("user", sa.ForeignKey("users.id"), nullable=False),
    sa.Column("expires", sa.Float, nullable=False),
    sa.Index("ix_sessions_user", "user"),
)

failures = sa.Table(
    "failures",
    metadata,
    # Refused sign-ins; who is a hash of a name or of a network address.
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("who", sa.String(64), nullable=False),
    sa.Column("at", sa.Float, nullable=False),
    sa.Index("ix_failures_who", "who", "at"),
)
