"""The HTML pages of the service. They are not part of the OpenAPI description."""

from __future__ import annotations

from fastapi import APIRouter

from fusion_diff.service.pages import enrolling, files, history, home, references, signing, verdict

router = APIRouter(include_in_schema=False)
for _module in (files, signing, home, verdict, references, enrolling, history):
    router.include_router(_module.router)
