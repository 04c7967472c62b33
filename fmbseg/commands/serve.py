"""`fmbseg serve`: a logged model over HTTP."""

from __future__ import annotations

from typing import Annotated

import typer

from fmbseg.commands.options import (
    DEFAULT_PARAMS,
    Host,
    Names,
    Params,
    Port,
    WeightsDir,
    lenient_config,
    use_weights,
)


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            metavar="URI", help="Of MLflow. Default: the champion of tracking.model in params.yaml."
        ),
    ] = None,
    host: Host = "127.0.0.1",
    name: Names = None,
    port: Port = 5001,
    weights_dir: WeightsDir = None,
    params: Params = DEFAULT_PARAMS,
) -> None:
    """Serve a trained head over HTTP: pictures in, label maps and scores out.

    Requests and answers are those of `mlflow models serve`, which answers whoever reaches it; this
    one answers its own names and, where other machines reach it, who knows the password.
    """
    use_weights(weights_dir)
    section = lenient_config(params, None).tracking
    from fmbseg.tracking.served_model import scoring_app
    from fmbseg.web.serve import open_door

    door = open_door(host, port, name or ())
    app = scoring_app(model or f"models:/{section.model}@champion", section)
    print(f"{door.address}/invocations (Ctrl-C ends it)", flush=True)
    door.serve(app)
