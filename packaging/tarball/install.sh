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

# whether this is about the system that runs, and systemd manages it
managed() {
	[ -z "$destdir" ] && [ -d /run/systemd/system ] && [ "$(id -u)" = 0 ]
}

# whether systemd has its units from these files, and not from another banger's; it may call /usr/lib by its old name
in_use() {
	used=$(systemctl show --value --property=FragmentPath bangernet.socket) || return 1
	ours=$prefix/lib/systemd/system/bangernet.socket
	[ "${used#/usr}" = "${ours#/usr}" ]
}

# whether a package has that file too: it goes with the package
packaged() {
	[ -z "$destdir" ] || return 1
	dpkg -S "$1" >/dev/null 2>&1 || rpm -qf "$1" >/dev/null 2>&1
}

# what systemd made of the units; those of a package are used again when these are gone, and stay enabled
leave_systemd() {
	units='bangernet.socket bangernet.service bangerd.socket bangerd.service'
	if [ -n "$another" ]; then
		# shellcheck disable=SC2086
		systemctl stop $units || true
	else
		# shellcheck disable=SC2086
		systemctl disable --now $units || true
		systemctl --global disable bangerd.socket bangerd.service || true
	fi
}

return_to_package() {
	for socket in bangernet.socket bangerd.socket; do
		if systemctl --quiet is-enabled "$socket"; then systemctl start "$socket" || true; fi
	done
}

if [ -n "$undo" ]; then
	another=
	if [ "$prefix" != /usr ] && [ -e /usr/lib/systemd/system/bangernet.socket ]; then another=1; fi
	known=
	if managed && in_use; then known=1; fi
	[ -z "$known" ] || leave_systemd
	while read -r file; do
		target=$(place "$file")
		case "$file" in
		/etc/*) if packaged "$target"; then continue; fi ;;
		esac
		rm -f "$target"
	done <"$here/files"
	rmdir "$destdir$prefix/share/doc/banger" 2>/dev/null || true
	if [ -n "$known" ]; then
		systemctl daemon-reload || true
		[ -z "$another" ] || return_to_package
	fi
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
if managed; then
	systemd-sysusers banger.conf || true
	systemctl daemon-reload || true
	systemctl enable --now bangernet.socket || true
	echo "Members of the group banger may use the network helper: usermod -aG banger USER"
	echo "For a daemon that starts with the first command of each user: systemctl --global enable bangerd.socket"
fi
echo "Next: banger setup"
