#!/usr/bin/env bash
# Inside the pristine root; see run.sh.
set -euo pipefail
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
unset PIP_FIND_LINKS

alive() { # ids of processes other than this script's own, zombies left out
    for stat in /proc/[0-9]*/stat; do
        pid=${stat#/proc/}; pid=${pid%/stat}
        [ "$pid" -gt 1 ] && [ "$pid" != "$$" ] && [ "$pid" != "$BASHPID" ] && ! grep -q ') Z ' "$stat" 2>/dev/null && [ -e "$stat" ] && echo "$pid"
    done || true
}

run_demo() { # as whom, where
    local who=$1 where=$2 out=/tmp/$1.json err=/tmp/$1.err start=$SECONDS
    : >"$out"
    # shellcheck disable=SC2024  # the redirections are ours on purpose
    setpriv --reuid "$who" --regid "$who" --init-groups env HOME="$(getent passwd "$who" | cut -d: -f6)" \
        sh -c "cd '$where' && make venv && exec .venv/bin/gw demo --json" >"$out" 2>"$err" &
    local pid=$!
    while ! grep -q '"audit_key"' "$out"; do
        kill -0 "$pid" 2>/dev/null || { cat "$err"; tail -n 20 "$where"/.gw-demo/log/*; echo "FAILED as $who"; exit 1; }
        sleep 0.2
    done
    echo "== as $who: ready after $((SECONDS - start)) s"
    cat "$err"
    python3 - "$out" "$where" <<'PY'
import json, os, subprocess, sys
facts = json.loads(open(sys.argv[1]).readlines()[-1])
env = {**os.environ, **facts["accounts"]["oncall"]["env"]}
def gw(*words):
    done = subprocess.run([f"{sys.argv[2]}/.venv/bin/gw", *words], env=env, capture_output=True, text=True, timeout=120)
    print(f"$ gw {' '.join(words)}\n{done.stdout}{done.stderr}", end="")
    assert done.returncode == 0, done.returncode
gw("whoami")
ask = ("--incident", "INC-1042", "--reason", "fresh machine", "--for", "10m")
gw("request", "orders-db", "--level", "read", *ask)
gw("psql", "orders-db", "--", "-XAtc", "SELECT count(*) FROM orders")
names = {t["name"] for t in json.loads(subprocess.check_output([f"{sys.argv[2]}/.venv/bin/gw", "targets", "--json"], env=env))}
if "web-1" in names:
    gw("request", "web-1", "--level", "shell", *ask)
    gw("ssh", "web-1", "--", "id -un")
PY
    kill -TERM "$pid"
    wait "$pid" || { echo "FAILED: exit $? after SIGTERM"; exit 1; }
    local left
    left=$(alive)
    [ -z "$left" ] || { for p in $left; do tr '\0' ' ' <"/proc/$p/cmdline" || true; echo; done; echo "FAILED: left behind"; exit 1; }
    echo "== as $who: stopped, nothing left behind"
}

useradd --create-home --shell /bin/bash somebody
cp -a /srv/gateway /home/somebody/gateway
chown -R somebody:somebody /home/somebody/gateway
cp -a /srv/gateway /root/gateway
run_demo somebody /home/somebody/gateway
run_demo somebody /home/somebody/gateway   # the second time is quick
run_demo root /root/gateway
