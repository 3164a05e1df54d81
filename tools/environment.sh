#!/usr/bin/env bash
# Make the virtual environment and what the tests need of the system.
#
#   tools/environment.sh venv DIR         a virtual environment with pip
#   tools/environment.sh torch DIR        the pinned torch in it, without CUDA where there is no card
#   tools/environment.sh package DIR X    this package with extras X ("" for none), editable
#   tools/environment.sh system           Xvfb, OpenGL and the X libraries that Qt opens a window with
#
# Settings: PYTHON (an interpreter from 3.11 on), TORCH_VERSION, TORCH_INDEX_URL (an index for torch alone, for
# instance the one for CPU builds that torch's own installation page names).
set -euo pipefail

here="$(cd "$(dirname "$0")/.." && pwd)"
torch_version="${TORCH_VERSION:-2.13.0}"
debian_packages=(
  xvfb xauth libgl1 libegl1 libgl1-mesa-dri libglib2.0-0 libfontconfig1 libdbus-1-3 libxkbcommon-x11-0
  libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0
  libxcb-sync1 libxcb-xfixes0 libxcb-xinerama0 libxcb-xkb1
)

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi
}

apt_install() {
  command -v apt-get >/dev/null || return 1
  as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
    --no-install-recommends "$@" >/dev/null
}

find_python() {
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "Python 3.11, 3.12 or 3.13 is needed; name it with PYTHON=…" >&2
  return 1
}

make_venv() {
  local folder="$1" python
  [ -x "$folder/bin/python" ] && "$folder/bin/python" -m pip --version >/dev/null 2>&1 && return
  python="$(find_python)"
  if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    # Debian keeps this part of Python in a package of its own.
    local version
    version="$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
    apt_install "python${version}-venv" || {
      echo "'$python -m venv' does not work here: install python${version}-venv" >&2
      return 1
    }
  fi
  "$python" -m venv "$folder"
}

install_torch() {
  local pip=("$1/bin/python" -m pip install --disable-pip-version-check --quiet)
  [ -n "${TORCH_INDEX_URL:-}" ] && pip+=(--index-url "$TORCH_INDEX_URL")
  "$1/bin/python" - "$torch_version" <<'PY' && return
import sys
from importlib.metadata import PackageNotFoundError, version
try:
    sys.exit(version("torch").split("+")[0] != sys.argv[1])
except PackageNotFoundError:
    sys.exit(1)
PY
  if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then
    # Without a card the CUDA build would be gigabytes of dead weight: ask for the CPU build by name first.
    "${pip[@]}" "torch==$torch_version+cpu" 2>/dev/null && return
    echo "No CPU build of torch under that name here; if a CUDA build is pulled next, set TORCH_INDEX_URL." >&2
  fi
  "${pip[@]}" "torch==$torch_version"
}

install_package() {
  local extras="${2:+[$2]}"
  "$1/bin/python" -m pip install --disable-pip-version-check --quiet --editable "$here$extras"
}

install_system() {
  local missing=() name
  if ! command -v dpkg-query >/dev/null; then
    command -v xvfb-run >/dev/null || echo "Not Debian: xvfb-run and OpenGL must be installed by hand." >&2
    return
  fi
  for name in "${debian_packages[@]}"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q "ok installed" && continue
    # Newer releases carry some libraries under a name with a suffix.
    dpkg-query -W -f='${Status}' "${name}t64" 2>/dev/null | grep -q "ok installed" || missing+=("$name")
  done
  [ ${#missing[@]} = 0 ] && return
  apt_install "${missing[@]}" || {
    echo "The tests need packages that could not be installed; as root: apt-get install ${missing[*]}" >&2
    return 1
  }
}

case "${1:-}" in
  venv) make_venv "$2" ;;
  torch) install_torch "$2" ;;
  package) install_package "$2" "${3:-}" ;;
  system) install_system ;;
  *) sed -n '2,10p' "$0" >&2; exit 2 ;;
esac
