/** How the system's ssh reaches a VM: its own key, its own known host, nothing from the user's files. */
import type { SshAccess } from '../../api/vm.ts';

/** Option names and values as ssh_config(5) has them. */
function sshOptions(access: SshAccess): [string, string][] {
  return [
    ['Port', String(access.port)],
    ['IdentityFile', access.identityFile],
    ['IdentitiesOnly', 'yes'],
    // the host made the guest's keys, so a key it does not know is an attack or a mistake
    ['StrictHostKeyChecking', 'yes'],
    ['UserKnownHostsFile', access.knownHostsFile],
    ['GlobalKnownHostsFile', '/dev/null'],
    ['HostKeyAlias', access.hostKeyAlias],
    ['CheckHostIP', 'no'],
    // there is no password to ask for
    ['PreferredAuthentications', 'publickey'],
    ['LogLevel', 'ERROR'],
  ];
}

/** Arguments for ssh; the user's own configuration is about other machines and stays out. */
export function sshArguments(access: SshAccess): string[] {
  return ['-F', '/dev/null', ...sshOptions(access).flatMap(([name, value]) => ['-o', `${name}=${quoted(value)}`])];
}

/** ssh splits values at spaces and expands % tokens, on its command line as in its files. */
function quoted(value: string): string {
  const literal = value.replaceAll('%', '%%');
  return /[\s"#]/.test(literal) ? `"${literal.replaceAll('"', '\\"')}"` : literal;
}

/** Options of ssh(1) that take a value, which may be the next word. */
const SSH_VALUE_OPTIONS = 'BbcDEeFIiJLlmOoPpQRSWw';

/** Whether options for ssh name a user; the first word that is no option begins the command. */
export function namesUser(words: readonly string[]): boolean {
  for (let at = 0; at < words.length; at++) {
    const word = words[at] ?? '';
    if (!/^-[^-]/.test(word)) return false;
    const position = [...word].findIndex((letter, index) => index > 0 && SSH_VALUE_OPTIONS.includes(letter));
    if (position < 0) continue;
    const value = word.slice(position + 1) || (words[++at] ?? '');
    if (word[position] === 'l') return true;
    if (word[position] === 'o' && /^\s*user\s*[=\s]/i.test(value)) return true;
  }
  return false;
}
