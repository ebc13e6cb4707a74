"""The service as an application of Ray Serve, which runs as many replicas of it as there is work for.

Each replica is the whole service with a model of its own; they share the database, the store and the models' folder,
which the environment names as it does for `fusion-diff serve`. Run it on a cluster: serve run serve_app:app
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve

if TYPE_CHECKING:
    from fastapi import FastAPI


def build() -> FastAPI:
    """Return the app with the settings of the environment; called in the replica, whose environment counts."""
    from fusion_diff.service import logs
    from fusion_diff.service.app import create_app
    from fusion_diff.service.settings import read_settings

    logs.configure()
    return create_app(read_settings())


@serve.deployment(name="FusionDiff")
@serve.ingress(build)
class FusionDiff:
    """A replica."""


app = FusionDiff.bind()
