"""What a gateway has found out about the work of the providers that it pays, over HTTP; no key."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, HTTPException

from mesh.client.backend import SwarmBackend


def verification_routes(backend: SwarmBackend) -> APIRouter:
    """`GET /mesh/verification`: each provider's standing, and what the gateway's own sessions for it have cost."""
    router = APIRouter(prefix="/mesh", redirect_slashes=False)

    @router.get("/verification", response_model=None)
    def verification() -> dict[str, Any]:
        """Units are blocks times weighted tokens: what a provider's trials are worth, once it has passed."""
        trials = backend.trials
        if trials is None:
            raise HTTPException(404, "This gateway verifies nothing.")
        providers = [
            {
                "provider": subject.provider,
                "digest": subject.digest,
                "blocks": f"{subject.first}:{subject.last}",
                "state": "barred" if found.is_barred else "verified" if found.has_passed else "not verified",
                "audits": found.audits,
                "differing": found.differing,
                "last": found.why,
            }
            for subject, found in sorted(trials.histories().items(), key=lambda each: str(each[0]))
        ]
        spent = [
            {"digest": digest, "sessions": each.sessions, "units": dict(each.units)}
            for digest, each in trials.spent.items()
        ]
        return {"object": "mesh.verification", "providers": providers, "trials": spent}

    return router
