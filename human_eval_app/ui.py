"""The Gradio page, which hosts the comparator, in one application with the REST API."""

import gradio as gr
from fastapi import FastAPI
from fastapi.responses import RedirectResponse

from human_eval_app import lead_api
from human_eval_app.assets import Assets
from human_eval_app.images import ImageCache
from human_eval_app.lead_page import lead_head, lead_page
from human_eval_app.rest import create_rest, guard
from human_eval_app.store import Store
from human_eval_app.web import Server


def create_app(
    store: Store, images: ImageCache | None = None, hosts: frozenset[str] | None = None, secure: bool = False
) -> FastAPI:
    """Page and API of all projects in ``store``.

    The page itself is the same for everyone and knows nothing of any study; all it shows comes from the API.

    Args:
        images: where encoded images are kept; default: pixeval's cache folder.
        hosts: names under which the app may be called; None for any.
        secure: cookies are for https only.
    """
    server = Server(store, images or ImageCache.of(store.secret), secure)
    rest = create_rest(server)
    rest.include_router(lead_api.routes)
    assets = Assets()
    rest.include_router(assets.routes())
    with gr.Blocks(title="Compare images", analytics_enabled=False) as page:
        gr.HTML("", html_template="<div></div>", js_on_load=assets.start(), apply_default_css=False)
    rest.add_api_route("/admin", _to_lead_page, include_in_schema=False)
    rest = _mount(rest, lead_page(server), "/admin", lead_head())
    app = _mount(rest, page, "/", assets.head())
    guard(app, server, hosts)
    return app


def _theme() -> gr.themes.Base:
    """Gradio's, with fonts of the system and with the contrast that WCAG AA asks of text and of fields' borders."""
    theme: gr.themes.Base = gr.themes.Base(font=("system-ui", "sans-serif"), font_mono=("ui-monospace", "monospace"))
    return theme.set(
        body_text_color_subdued="*neutral_600",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        input_border_width="1px",
        input_border_color="*neutral_500",
        input_border_color_dark="*neutral_500",
        input_placeholder_color="*neutral_600",
        input_placeholder_color_dark="*neutral_400",
    )


def _mount(app: FastAPI, page: gr.Blocks, path: str, head: str) -> FastAPI:
    mounted: FastAPI = gr.mount_gradio_app(
        app,
        page,
        path=path,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        theme=_theme(),
        # In the head and not as css=, which Gradio would rewrite to its own scope.
        head=head,
        app_kwargs={"docs_url": None, "redoc_url": None, "openapi_url": None},
    )
    return mounted


async def _to_lead_page() -> RedirectResponse:
    """With the slash that its relative addresses count on; relative, for a reverse proxy that adds a path."""
    return RedirectResponse("./admin/")
