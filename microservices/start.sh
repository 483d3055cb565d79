#!/bin/sh
# The three services on this machine; `serve --help` lists the settings. The supervisor behind it waits on health,
# restarts what dies, and passes signals on, which is why it takes this shell's place.
exec "${PYTHON:-python3}" "$(dirname "$0")/../serve" --variant microservices "$@"
