/** What an image must not carry over from the VM it was built in: identity, keys, logs, caches, traces of the build. */
import type { PackageManager } from './package-managers.ts';

/** Where packages put in by the host wait in the guest. */
export const DEB_DIRECTORY = '/var/cache/banger-debs';

/** Keeps packages from starting their services while an image is built (Debian's invoke-rc.d asks it). */
const POLICY_FILE = '/usr/sbin/policy-rc.d';
const POLICY_MARK = '# banger image build';

/** Shell commands before the first step. */
export function prepareScript(): string {
  return [
    'set -e',
    'mkdir -p /run/lock /run/user',
    // systemd's own, and what a boot that stops short of it has not made
    '[ -e /run/shm ] || ln -s /dev/shm /run/shm 2>/dev/null || true',
    `if [ -d /etc/apt ] && [ ! -e ${POLICY_FILE} ]; then`,
    `  printf '#!/bin/sh\\n${POLICY_MARK}\\nexit 101\\n' > ${POLICY_FILE}`,
    `  chmod 755 ${POLICY_FILE}`,
    'fi',
    // images of one program have none
    'cat /etc/os-release 2> /dev/null || cat /usr/lib/os-release 2> /dev/null || true',
  ].join('\n');
}

export interface CleanOptions {
  manager: PackageManager | undefined;
  keepCaches: boolean;
  /** lines the seed added to authorized_keys */
  authorizedKeys: readonly string[];
  /** name the build VM had */
  hostname: string;
}

/** Removed wherever it is: identity, logs that are nobody's, histories, backups of account files, temporary files. */
const REMOVED: readonly string[] = [
  ...['/var/lib/dbus/machine-id', '/var/lib/systemd/random-seed', '/var/lib/systemd/credential.secret'],
  ...['/etc/ssh/ssh_host_*_key', '/etc/ssh/ssh_host_*_key.pub'],
  ...['/var/log/journal/*', '/var/log/apt/*', '/var/log/installer', '/var/log/dpkg.log', '/var/log/alternatives.log'],
  ...['/var/log/bootstrap.log', '/var/log/faillog'],
  ...['bash', 'ash', 'python'].flatMap((name) => [`/root/.${name}_history`, `/home/*/.${name}_history`]),
  ...['/root/.viminfo', '/root/.lesshst', '/root/.wget-hsts'],
  ...['passwd', 'group', 'shadow', 'gshadow', 'subuid', 'subgid'].map((name) => `/etc/${name}-`),
  ...['/tmp/*', '/tmp/.[!.]*', '/var/tmp/*', '/var/tmp/.[!.]*'],
];

const KEYS_DIRECTORY = '/root/.ssh';
const KEYS_FILE = `${KEYS_DIRECTORY}/authorized_keys`;

/**
 * POSIX shell script that cleans the guest's root; whatever is not there is no error. It starts as few programs as it can:
 * each costs an emulated guest as much as what it does.
 */
export function cleanScript({ manager, keepCaches, authorizedKeys, hostname }: CleanOptions): string {
  const caches = manager && !keepCaches ? manager.caches : [];
  const command = keepCaches ? undefined : manager?.clean;
  return [
    // prints a file without the lines that are given
    'without() {',
    '  file=$1',
    '  shift',
    '  while IFS= read -r line || [ -n "$line" ]; do',
    '    for each; do [ "$line" != "$each" ] || continue 2; done',
    `    printf '%s\\n' "$line"`,
    '  done < "$file"',
    '}',
    ...(command === undefined ? [] : [command]),
    `gone='${[DEB_DIRECTORY, ...caches, ...REMOVED].join(' ')}'`,
    `mark=`,
    `[ ! -f ${POLICY_FILE} ] || { read -r mark; read -r mark; } < ${POLICY_FILE}`,
    `[ "$mark" != '${POLICY_MARK}' ] || gone="$gone ${POLICY_FILE}"`,
    `if [ -f ${KEYS_FILE} ]; then`,
    `  kept=$(without ${KEYS_FILE} ${authorizedKeys.map((key) => `'${key}'`).join(' ')})`,
    `  if [ -n "$kept" ]; then printf '%s\\n' "$kept" > ${KEYS_FILE}; else gone="$gone ${KEYS_FILE}"; fi`,
    '  others=$kept',
    `  for each in ${KEYS_DIRECTORY}/* ${KEYS_DIRECTORY}/.[!.]*; do`,
    `    [ "$each" = ${KEYS_FILE} ] || { [ ! -e "$each" ] && [ ! -h "$each" ]; } || others=$each`,
    '  done',
    `  [ -n "$others" ] || gone="$gone ${KEYS_DIRECTORY}"`,
    'fi',
    'rm -rf $gone',
    // empty, not missing: systemd makes a new one at the first boot, and a missing one would mean a factory reset
    '[ ! -e /etc/machine-id ] || : > /etc/machine-id',
    // logs are emptied, not removed: their owners and modes belong to packages
    "find /var/log -type f \\( \\( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' \\) -exec rm -f {} + \\" +
      '\n  -o -size +0 -exec sh -c \'for log; do : > "$log"; done\' sh {} + \\)',
    'echo localhost > /etc/hostname',
    'if [ -f /etc/hosts ]; then',
    `  hosts=$(without /etc/hosts '127.0.1.1 ${hostname}')`,
    `  printf '%s\\n' "$hosts" > /etc/hosts`,
    'fi',
    '[ -h /etc/resolv.conf ] || : > /etc/resolv.conf',
    'true',
  ].join('\n');
}
