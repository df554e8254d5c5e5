/** What an image must not carry over from the VM it was built in: identity, keys, logs, caches, traces of the build. */
import type { PackageManager } from './package-managers.ts';

/** Where packages put in by the host wait in the guest. */
export const DEB_DIRECTORY = '/var/cache/banger-debs';

/** Keeps packages from starting their services while an image is built (Debian's invoke-rc.d asks it). */
export const POLICY_FILE = '/usr/sbin/policy-rc.d';
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
    'cat /etc/os-release || cat /usr/lib/os-release',
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

/** Shell script that cleans the guest's root; whatever is not there is no error. */
export function cleanScript({ manager, keepCaches, authorizedKeys, hostname }: CleanOptions): string {
  return [
    `grep -qsF '${POLICY_MARK}' ${POLICY_FILE} && rm -f ${POLICY_FILE}`,
    ...(manager && !keepCaches ? [manager.clean] : []),
    // one process for all of them: each costs an emulated guest as much as the removal itself
    `rm -rf ${[DEB_DIRECTORY, ...REMOVED].join(' ')}`,
    // empty, not missing: systemd makes a new one at the first boot, and a missing one would mean a factory reset
    '[ ! -e /etc/machine-id ] || : > /etc/machine-id',
    // logs are emptied, not removed: their owners and modes belong to packages
    "find /var/log -type f \\( -name '*.gz' -o -name '*.[0-9]' -o -name '*.old' \\) -exec rm -f {} +",
    'find /var/log -type f -size +0 -exec sh -c \'for log; do : > "$log"; done\' sh {} +',
    ...authorizedKeys.flatMap((key) => [
      `if [ -f /root/.ssh/authorized_keys ]; then grep -vxF '${key}' /root/.ssh/authorized_keys > /root/.ssh/.banger; ` +
        'cat /root/.ssh/.banger > /root/.ssh/authorized_keys; rm -f /root/.ssh/.banger; ' +
        '[ -s /root/.ssh/authorized_keys ] || { rm -f /root/.ssh/authorized_keys; rmdir /root/.ssh 2>/dev/null; }; fi',
    ]),
    'echo localhost > /etc/hostname',
    `grep -v '^127\\.0\\.1\\.1 ${hostname}$' /etc/hosts > /run/banger-hosts; cat /run/banger-hosts > /etc/hosts`,
    '[ -h /etc/resolv.conf ] || : > /etc/resolv.conf',
    'true',
  ].join('\n');
}
