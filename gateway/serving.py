"""How uvicorn takes the application, which for worker processes is made in each of them.

Imports next to nothing: a worker that has not read this within seconds is taken for hung.
"""

from typing import TYPE_CHECKING

import uvicorn

if TYPE_CHECKING:
    from fastapi import FastAPI

    from gateway.tls import Tls


class Config(uvicorn.Config):
    """Takes the certificate from the application, whose two protocols are served with one."""

    def load_app(self) -> "FastAPI":
        """The application, or what the named function makes; its context is the server's."""
        found = super().load_app()
        app: FastAPI = found() if isinstance(self.app, str) else found
        tls: Tls | None = app.state.tls
        self.ssl = tls.context if tls else None
        return app
