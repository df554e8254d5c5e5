/**
 * Shell functions of `/init` for images that were OCI images, run inside their root: whatever the image contains, there is a way in,
 * and its process is begun by whoever is process 1. What they use is in `/private` of the image's initrd, and goes to `/run/banger`.
 */

/** Where the tools are in the initrd. */
export const PRIVATE = 'private';

/** Starts the server; also what the server starts itself as when it is told to read its configuration again. */
const START_SSHD = `#!/run/banger/busybox sh
exec /run/banger/ssh/sshd --library-path /run/banger/ssh/lib --argv0 /run/banger/ssh/start /run/banger/ssh/server "$@"
`;

/** In a mount namespace of its own, where /etc has just the users that the server needs, and the keys of the guest. */
const ENTER_SSHD = `mount -o bind /etc/ssh /run/banger/ssh/etc/ssh || exit 1
mount -o rbind /run/banger/ssh/etc /etc || exit 1
exec /run/banger/ssh/start -D -r -f /run/banger/ssh/config
`;

const SSHD_CONFIG = `Port 22
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /root/.ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
StrictModes no
PrintMotd no
PidFile /run/banger/ssh/pid
Subsystem sftp /run/banger/ssh/sftp
`;

const PASSWD = `root:x:0:0:root:/root:/run/banger/ssh/login
sshd:x:74:74:sshd:/run/sshd:/run/banger/ssh/none
`;

/** Root's shell for the server: leads back to the mounts of process 1. */
const LOGIN = `#!/run/banger/busybox sh
exec /run/banger/busybox nsenter -t 1 -m -r /run/banger/busybox sh /run/banger/ssh/session "$@"
`;

/** Root's shell as the image has it, or one of the tools where it has none. */
const SESSION = `shell=/bin/sh
home=/root
while IFS=: read -r name _ _ _ _ there own; do
  [ "$name" = root ] && shell=$own && home=$there && break
done 2> /dev/null < /etc/passwd
[ -x "$shell" ] || shell=/bin/sh
[ -x "$shell" ] || shell=/run/banger/bin/sh
HOME=$home SHELL=$shell
export HOME SHELL
[ -r /run/banger/environment ] && . /run/banger/environment
PATH=$PATH:/run/banger/bin
export PATH
cd "$HOME" 2> /dev/null || cd /
[ $# -eq 0 ] && exec "$shell" -l
exec "$shell" "$@"
`;

/** It serves nobody whom the image does not know; where that is root, it sees the server's own /etc. */
const SFTP = `#!/run/banger/busybox sh
if [ -z "$1" ] && ! grep -qs '^[^:]*:[^:]*:0:' /etc/passwd; then
  exec /run/banger/busybox unshare -m /run/banger/busybox sh -c 'mount -o bind /run/banger/ssh/etc /etc && exec /run/banger/ssh/sftp own'
fi
exec /run/banger/ssh/sshd --library-path /run/banger/ssh/lib /run/banger/ssh/sftp-server
`;

/** Texts beside the server, by their names there; the first word of a line begins no shell's heredoc. */
export const SSHD_FILES: Readonly<Record<string, { text: string; mode: number }>> = {
  start: { text: START_SSHD, mode: 0o755 },
  enter: { text: ENTER_SSHD, mode: 0o644 },
  config: { text: SSHD_CONFIG, mode: 0o600 },
  login: { text: LOGIN, mode: 0o755 },
  session: { text: SESSION, mode: 0o644 },
  sftp: { text: SFTP, mode: 0o755 },
  'etc/passwd': { text: PASSWD, mode: 0o644 },
  'etc/group': { text: 'root:x:0:\nsshd:x:74:\n', mode: 0o644 },
};

/** Needs `fail` and `$here` of the script it becomes part of. */
export const PROCESS_FUNCTIONS = `# Tools for images that lack them, and what runs in the image.
place_tools() {
  [ -d "$here/${PRIVATE}" ] || return 0
  mkdir -p /run/banger/bin
  cp "$here/bin/busybox" /run/banger/busybox
  /run/banger/busybox --install -s /run/banger/bin
  for link in fd:/proc/self/fd stdin:/proc/self/fd/0 stdout:/proc/self/fd/1 stderr:/proc/self/fd/2; do
    [ -e "/dev/\${link%%:*}" ] || ln -s "\${link#*:}" "/dev/\${link%%:*}"
  done
  grep -qs localhost /etc/hosts || printf '127.0.0.1 localhost\\n::1 localhost\\n' >> /etc/hosts
  for name in service service.unit health.unit environment; do
    [ -e "$here/seed/$name" ] && cp "$here/seed/$name" "/run/banger/$name"
  done
  keep_volumes
  choose_init
}

# What the image wants kept is on the work disk: a copy of the image's own to begin with, which has its name when it is complete.
keep_volumes() {
  [ -s "$here/seed/volumes" ] && [ -e "$WORK_DIR/lost+found/.banger-seeded" ] || return 0
  while read -r path; do
    store=$WORK_DIR/.volumes$path
    mkdir -p "$path" "\${store%/*}" || fail "make $path"
    path=$(readlink -f "$path")
    if [ ! -d "$store" ]; then
      rm -rf "$store.part"
      cp -a "$path" "$store.part" || fail "copy the image's $path to the work disk"
      sync
      /run/banger/busybox mv "$store.part" "$store" || fail "keep the image's $path on the work disk"
    fi
    mount -o bind "$store" "$path" || fail "mount $path"
  done < "$here/seed/volumes"
}

# Whether the image brings an init that knows what to do: busybox without anything to begin is none.
own_init() {
  for init in /sbin/init /lib/systemd/systemd /bin/init; do
    [ -x "$init" ] || continue
    case $(readlink -f "$init") in
    */busybox*) [ -x /sbin/openrc ] || [ -x /usr/sbin/openrc ] || [ -x /etc/init.d/rcS ] || continue ;;
    */tini* | */dumb-init | */docker-init | */catatonit) continue ;;
    esac
    return 0
  done
  return 1
}

choose_init() {
  if ! own_init; then
    : > /run/banger/supervised
    return 0
  fi
  [ -e /run/banger/service ] || return 0
  if is_systemd; then
    mkdir -p /run/systemd/system/multi-user.target.wants
    cp /run/banger/service.unit /run/systemd/system/banger-process.service
    [ -s /run/banger/health.unit ] && cp /run/banger/health.unit /run/systemd/system/banger-health.service
    ln -s ../banger-process.service /run/systemd/system/multi-user.target.wants/banger-process.service
  else
    : > /run/banger/beside
  fi
}

# A server of ours, for images without one of their own that starts by itself.
start_private_sshd() {
  [ -x "$here/${PRIVATE}/ssh/server" ] || return 0
  mkdir -p /run/sshd /run/banger/ssh
  cp -a "$here/${PRIVATE}/ssh/." /run/banger/ssh/
  PATH=/run/banger/bin /run/banger/busybox unshare -m /run/banger/busybox sh /run/banger/ssh/enter \\
    < /dev/null > /dev/null 2> /run/banger/sshd.err &
}
`;
