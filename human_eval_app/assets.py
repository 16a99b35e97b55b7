"""The annotator's page as files: ES modules and style sheets in ``page/``, without a build step.

The modules are served as they are, under a digest of their content, so a browser keeps them for good and a new version
has new addresses. They hold nothing of any study, so everybody may load them.
"""

import hashlib
from pathlib import Path

from fastapi import APIRouter, HTTPException, Response

_FOLDER = Path(__file__).parent / "page"


def _files(suffix: str) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(_FOLDER.glob(f"*{suffix}"))}


class Assets:
    """The files of one version of the page, read once."""

    def __init__(self) -> None:
        self._modules = _files(".js")
        self._styles = _files(".css")
        content = repr((self._modules, self._styles)).encode()
        self._digest = hashlib.sha256(content).hexdigest()[:16]

    def routes(self) -> APIRouter:
        """``GET /page/DIGEST/NAME.js``: one module, to be kept for good."""
        router = APIRouter()

        @router.get("/page/{digest}/{name}", include_in_schema=False)
        def module(digest: str, name: str) -> Response:
            if digest != self._digest or name not in self._modules:
                raise HTTPException(404, "no such file")
            headers = {"Cache-Control": "public, max-age=31536000, immutable", "X-Content-Type-Options": "nosniff"}
            return Response(self._modules[name], media_type="text/javascript; charset=utf-8", headers=headers)

        return router

    def head(self) -> str:
        """For the page's head: its styles, and its modules ahead of the component that starts them."""
        links = "".join(f'<link rel="modulepreload" href="./page/{self._digest}/{name}">' for name in self._modules)
        return f"{links}<style>{''.join(self._styles.values())}</style>"

    def start(self) -> str:
        """JavaScript that builds the page within ``element``.

        Its address is relative to the page, so that a reverse proxy may add a path (a bare relative import would be
        relative to Gradio's own script).
        """
        module = f'new URL("./page/{self._digest}/comparator.js", document.baseURI).href'
        return f"import({module}).then((page) => page.comparator(element));"
