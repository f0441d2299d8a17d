#!/bin/sh
# Runs a deploy verb from a CI job: docs/ci/gw-deploy.sh VERB TARGET… [--param NAME=VALUE]…
# Needs gw on the PATH (or GW=/path/to/gw) and GW_URL, the gateway's address; the job's own identity does the rest.
# Ends with the exit status of the verb.
set -eu

: "${GW_URL:?set GW_URL to the gateway address, for example https://gw.example.org}"
export GW_URL

if [ -z "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ] && [ -z "${GW_ID_TOKEN:-}" ]; then
    echo "This job has no identity. GitHub Actions: permissions: {id-token: write}. GitLab: id_tokens: {GW_ID_TOKEN: {aud: \"$GW_URL\"}}." >&2
    exit 2
fi

# A job has no home to keep anything in, and signs in nowhere.
GW_HOME="$(mktemp -d)"
GW_KEYRING=off
export GW_HOME GW_KEYRING
trap 'rm -rf "$GW_HOME"' EXIT

status=0
"${GW:-gw}" deploy "$@" || status=$?
exit "$status"
