"""Alembic's environment and the steps that bring a database to :mod:`human_eval_app.schema`."""
