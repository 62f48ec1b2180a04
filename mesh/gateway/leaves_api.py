"""What a gateway publishes about its epochs, over HTTP: leaves of checkpoints and service-level reports; no key."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Path
from fastapi.responses import Response

from mesh.payment.settlement.leaves import LeavesService

MAX_NUMBER = 2**63 - 1


def leaves_routes(service: LeavesService) -> APIRouter:
    """`GET /mesh/leaves/{model}/{epoch}` and `GET /mesh/reports/{epoch}`: the bytes that the mesh serves too."""
    router = APIRouter(prefix="/mesh", redirect_slashes=False)

    @router.get("/leaves/{model_id}/{epoch}", response_model=None)
    def leaves(model_id: int = Path(ge=1, le=MAX_NUMBER), epoch: int = Path(ge=1, le=MAX_NUMBER)) -> Response:
        """The canonical text whose hash is on the chain."""
        return _document(service.leaves(model_id, epoch), "No checkpoint of this model and epoch was posted here.")

    @router.get("/reports/{epoch}", response_model=None)
    def reports(epoch: int = Path(ge=1, le=MAX_NUMBER)) -> Response:
        return _document(service.reports(epoch), "There are no reports of this epoch.")

    return router


def _document(body: bytes | None, missing: str) -> Response:
    if body is None:
        raise HTTPException(404, missing)
    return Response(body, media_type="application/json")
