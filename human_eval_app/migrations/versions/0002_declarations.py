"""What was decided before a study: when it stops, and whose votes do not count."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From accounts and projects."""
    op.create_table(
        "declarations",
        sa.Column("project", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("rule", sa.Text(), nullable=False),
        sa.Column("declared_at", sa.String(length=40), nullable=False),
        sa.Column("reached_at", sa.String(length=40), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["project"], ["projects.id"], name=op.f("fk_declarations_project")),
        sa.PrimaryKeyConstraint("project", "kind", name=op.f("pk_declarations")),
    )
