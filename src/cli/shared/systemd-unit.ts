/** The systemd unit of the daemon. */

import { DAEMON_MEMORY } from '../../client/daemon-env.ts';
import { EXIT_START_REFUSED } from '../../client/daemon-start.ts';
import type { Argv } from '../../system/runner.ts';

/** Variables that decide which banger it is, besides those of the user. */
const KEPT = /^BANGER_|^XDG_(STATE|CACHE|CONFIG)_HOME$/;

/**
 * The unit as text. `KillMode=process` is what it is about: VMs belong to the daemon's control group and must
 * outlive it.
 */
export function renderUnit(self: Argv, env: NodeJS.ProcessEnv, user: boolean): string {
  const variables = Object.entries(env).filter(([name, value]) => KEPT.test(name) && value !== undefined);
  return `[Unit]
Description=banger daemon, which runs microVMs
${user ? '' : 'After=network-online.target\nWants=network-online.target\n'}
[Service]
ExecStart=${[...self, 'daemon', 'run'].map((word) => quote(word.replaceAll('$', '$$$$'))).join(' ')}
${[...Object.entries(DAEMON_MEMORY), ...variables].map(([name, value]) => `Environment=${quote(`${name}=${value}`)}\n`).join('')}KillMode=process
Restart=on-failure
RestartSec=2
RestartPreventExitStatus=${EXIT_START_REFUSED}
LimitNOFILE=65536

[Install]
WantedBy=${user ? 'default.target' : 'multi-user.target'}
`;
}

/** systemd.syntax(7): quotes, backslashes and specifiers mean something; `$` does in command lines only. */
function quote(word: string): string {
  const escaped = word.replaceAll('%', '%%');
  if (/^[\w@+=:,./%-]+$/.test(escaped)) return escaped;
  return `"${escaped.replaceAll('\\', '\\\\').replaceAll('"', '\\"')}"`;
}
