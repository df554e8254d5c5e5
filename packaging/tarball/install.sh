#!/bin/sh
# Puts banger where it belongs, or takes it away: install.sh [--prefix DIR] [--destdir DIR] [--uninstall]
set -eu

usage() {
	echo "usage: $0 [--prefix DIR] [--destdir DIR] [--uninstall]" >&2
	exit 2
}

here=$(cd "$(dirname "$0")" && pwd)
prefix=/usr/local
destdir=
undo=
while [ $# -gt 0 ]; do
	case "$1" in
	--prefix | --destdir) [ $# -ge 2 ] || usage ;;
	--uninstall) ;;
	*) usage ;;
	esac
	case "$1" in
	--prefix) prefix=$2 ;;
	--destdir) destdir=$2 ;;
	--uninstall) undo=1 ;;
	esac
	[ "$1" = --uninstall ] || shift
	shift
done
case "$prefix" in
/*) ;;
*) usage ;;
esac
# what belongs to the system is configured in /etc; a prefix of somebody's own keeps everything
case "$prefix" in
/usr | /usr/local) etc=/etc ;;
*) etc=$prefix/etc ;;
esac

# where a file of the list goes
place() {
	case "$1" in
	prefix/*) echo "$destdir$prefix/${1#prefix/}" ;;
	/etc/*) echo "$destdir$etc/${1#/etc/}" ;;
	esac
}

if [ -n "$undo" ]; then
	while read -r file; do rm -f "$(place "$file")"; done <"$here/files"
	rmdir "$destdir$prefix/share/doc/banger" 2>/dev/null || true
	echo "Removed banger from $destdir$prefix. VMs and their disks are where they were."
	exit 0
fi

while read -r file; do
	target=$(place "$file")
	case "$file" in
	/etc/*) source=$here/etc/${file#/etc/} ;;
	*) source=$here/$file ;;
	esac
	mkdir -p "$(dirname "$target")"
	# a program that runs keeps its file
	rm -f "$target"
	case "$file" in
	prefix/bin/fcqemu) ln "$destdir$prefix/bin/banger" "$target" 2>/dev/null || ln -s banger "$target" ;;
	*.service | */apparmor-profile) sed -E "s#/usr/local/(bin|lib)/#$prefix/\1/#" "$source" >"$target" ;;
	*) cp -P -p "$source" "$target" ;;
	esac
done <"$here/files"

echo "Installed banger in $destdir$prefix."
if [ -z "$destdir" ] && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]; then
	systemd-sysusers banger.conf || true
	systemctl daemon-reload || true
	systemctl enable --now bangernet.socket || true
	echo "Members of the group banger may use the network helper: usermod -aG banger USER"
	echo "For a daemon that starts with the first command of each user: systemctl --global enable bangerd.socket"
fi
echo "Next: banger setup"
