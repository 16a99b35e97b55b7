"""The Gradio page, which hosts the comparator, in one application with the REST API."""

from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from human_eval_app.api import create_api
from human_eval_app.study import Study

_HERE = Path(__file__).parent


def create_app(study: Study, export_token: str) -> FastAPI:
    """Page and API of ``study``; ``export_token`` opens ``/api/export``.

    The page itself is the same for everyone and knows nothing of the study; all it shows comes from the API.
    """
    script = (_HERE / "comparator.js").read_text(encoding="utf-8") + "\ncomparator(element);\n"
    style = (_HERE / "comparator.css").read_text(encoding="utf-8")
    with gr.Blocks(title="Compare images", analytics_enabled=False) as page:
        gr.HTML("", html_template="<div></div>", js_on_load=script, apply_default_css=False)
    fonts = ("system-ui", "sans-serif")
    app: FastAPI = gr.mount_gradio_app(
        create_api(study, export_token),
        page,
        path="/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=gr.themes.Base(font=fonts, font_mono=("ui-monospace", "monospace")),
        # In the head and not as css=, which Gradio would rewrite to its own scope.
        head=f"<style>{style}</style>",
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    return app
