"""What was asked and declared in a study, as it is written beside its votes."""

from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from human_eval_app.exclusion import declared_exclusion
from human_eval_app.projects import Project
from human_eval_app.schema import projects
from human_eval_app.stopping import declared
from human_eval_app.texts import GUIDELINE


def study_facts(connection: sa.Connection, project: Project) -> dict[str, Any]:
    """JSON-ready: what annotators were told, how pairs were given out, the rules declared, the end of the chain."""
    chain = connection.execute(sa.select(projects.c.answers, projects.c.head).where(projects.c.id == project.id)).one()
    rule, stopping = declared_exclusion(connection, project.id), declared(connection, project.id)
    return {
        "name": project.name,
        "title": project.title,
        "guideline": project.guideline or GUIDELINE,
        "design": asdict(project.design),
        "answers": chain.answers,
        "chain_ends_in": chain.head,
        "stopping": None if stopping is None else asdict(stopping),
        "exclusion": None if rule is None else asdict(rule),
    }
