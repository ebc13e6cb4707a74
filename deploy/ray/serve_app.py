"""The service as a Ray Serve application, which scales the number of replicas with the load.

Each replica is a whole service with its own copy of the model. Replicas share the database, the store and the folder of
models, which the environment names as for `fusion-diff serve`. Run it on a cluster: serve run serve_app:app
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ray import serve

if TYPE_CHECKING:
    from fastapi import FastAPI


def build() -> FastAPI:
    """Return the app with the settings of the environment. Called in the replica, so its environment is used."""
    from fusion_diff.service import logs
    from fusion_diff.service.app import create_app
    from fusion_diff.service.settings import read_settings

    os.umask(0o077)  # what a replica writes is for its user alone
    logs.configure()
    return create_app(read_settings())


@serve.deployment(name="FusionDiff")
@serve.ingress(build)
class FusionDiff:
    """A replica."""

    async def check_health(self) -> None:
        """Raise unless `/healthz` answers that all is well. Ray Serve then replaces the replica."""
        from fusion_diff.service.routes.health import health

        await health(self.app.state.service)  # Ray Serve sets `app`


app = FusionDiff.bind()
