"""The building blocks of the container."""

import sys

# Importing openvino reports itself over the network through this package, unless it is missing. Here it always is.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
