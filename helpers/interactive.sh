#!/bin/bash
# Boots a copy of a bundle's root file system, gives you a shell in it, and keeps the result as a bundle of its own.
# Takes the options of customize.sh and the directory of the new bundle.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/customize.sh" --interactive "$@"
