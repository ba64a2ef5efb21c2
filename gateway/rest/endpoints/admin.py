"""What the machine's own operator may ask for."""

from fastapi import APIRouter, HTTPException, Request, Response

from gateway.access.hosts import means_loopback, name_of
from gateway.models.registry import Models
from gateway.operations.updates import Updates
from gateway.rest import convert
from gateway.rest.problems import problem

_PROXIES = frozenset({"via", "x-real-ip"})  # headers that proxies add, beside all `forwarded` ones


def router(models: Models, updates: Updates) -> APIRouter:
    """`/v1/admin/...` for callers on this machine; not part of the documented API."""
    made = APIRouter(include_in_schema=False)

    @made.post("/v1/admin/reload")
    async def reload(request: Request) -> Response:
        """Serve what the model repository holds now; 409 names what was refused."""
        if not _is_local(request):
            raise HTTPException(404)
        if problems := await updates.reload():
            return problem(409, "; ".join(problems), "refused")
        served = [
            {"id": each.id, "version": each.version, "fingerprint": each.fingerprint}
            for each in (model.manifest for model in models)
        ]
        return convert.plain({"models": served})

    return made


def _is_local(request: Request) -> bool:
    """Whether it comes from this machine, is for this machine, and no proxy has passed it on."""
    peer = request.client.host if request.client else ""
    host = name_of(request.headers.get("host", ""))
    return (
        means_loopback(peer)
        and host is not None
        and means_loopback(host)
        and not any(name in _PROXIES or "forwarded" in name for name in request.headers)
    )
