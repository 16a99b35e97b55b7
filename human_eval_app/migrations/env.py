"""Run by Alembic, on the connection that :func:`human_eval_app.store.upgrade` hands over."""

from alembic import context

from human_eval_app.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
