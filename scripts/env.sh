# shellcheck shell=bash
# Source this in bash: puts ROS 2, the messages and the code of this checkout on the paths of the calling shell.
# With an apt ROS 2 sourced before, that one is used; else the ROS 2 wheels in .venv. scripts/setup makes both ready.

_easi3r_root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

_easi3r_prepend() { # _easi3r_prepend VARIABLE FOLDER: FOLDER becomes the first entry, once
  local rest=":${!1:-}:"
  rest="${rest//:$2:/:}"
  rest="${rest#:}"
  rest="${rest%:}"
  export "$1=$2${rest:+:$rest}"
}

if [ -f "$_easi3r_root/install/local_setup.bash" ]; then
  case $- in *u*) _easi3r_nounset=-u ;; *) _easi3r_nounset=+u ;; esac
  set +u # colcon's script reads variables that are not set
  # shellcheck disable=SC1091
  . "$_easi3r_root/install/local_setup.bash"
  set $_easi3r_nounset
  unset _easi3r_nounset
fi
if [ -z "${ROS_DISTRO:-}" ]; then
  # The wheels make .venv an ordinary ROS prefix. They also set the library path, but only where nothing says it was done.
  _easi3r_prefixes=":${AMENT_PREFIX_PATH:-}:"
  case "$_easi3r_prefixes" in
    *":$_easi3r_root/.venv:"*) ;;
    *) export AMENT_PREFIX_PATH="${AMENT_PREFIX_PATH:+$AMENT_PREFIX_PATH:}$_easi3r_root/.venv" ;;
  esac
  unset _easi3r_prefixes _ROS_WHEELS_BOOTSTRAP_COMPLETE
fi
export VIRTUAL_ENV="$_easi3r_root/.venv"
_easi3r_prepend PATH "$VIRTUAL_ENV/bin"
# Before the install space, so that an edit of the checkout takes effect without a build.
_easi3r_prepend PYTHONPATH "$_easi3r_root/lab"
_easi3r_prepend PYTHONPATH "$_easi3r_root"

# Demo and tests talk to this machine only; a robot sources install/setup.bash instead and keeps its own settings.
export ROS_AUTOMATIC_DISCOVERY_RANGE="${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}"
if [ "${ROS_DISTRO:-}" = humble ]; then export ROS_LOCALHOST_ONLY="${ROS_LOCALHOST_ONLY:-1}"; fi

unset _easi3r_root
unset -f _easi3r_prepend
