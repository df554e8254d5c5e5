/** How people write the names of VMs: as DNS has them, in any case, with the zone behind. */
import type { CommandShape, RawInput } from '../command-shape.ts';
import { positionalName } from '../parse.ts';
import type { Terminal } from '../terminal.ts';

/** Every name below a VM's is that VM, as in DNS: `www.web.vm` is `web`. */
export function vmOfName(name: string, zone: string): string {
  const lower = name.toLowerCase().replace(/\.$/, '');
  const suffix = `.${zone}`;
  return lower.endsWith(suffix) ? (lower.slice(0, -suffix.length).split('.').at(-1) ?? '') : lower;
}

/** The same for a word that may have a user before the name. */
export async function vmOfWord(word: string, terminal: Terminal): Promise<string> {
  const at = word.lastIndexOf('@') + 1;
  return word.slice(0, at) + vmOfName(word.slice(at), await zoneFor(word, terminal));
}

/** Arguments with every name of a VM in the form the daemon has it. */
export async function withVmNames(
  command: CommandShape,
  args: RawInput['args'],
  terminal: Terminal,
): Promise<RawInput['args']> {
  const named = { ...args };
  for (const positional of command.positionals) {
    const name = positionalName(positional);
    const value = args[name];
    const completes = command.completes[name];
    if (value === undefined || completes === undefined || 'words' in completes || !completes.includes('vm')) continue;
    named[name] = Array.isArray(value)
      ? await Promise.all(value.map((word) => vmOfWord(word, terminal)))
      : await vmOfWord(value, terminal);
  }
  return named;
}

/** The configuration is read for a name with a dot in it alone: most have none. */
async function zoneFor(word: string, terminal: Terminal): Promise<string> {
  if (!word.includes('.')) return 'vm';
  const { loadConfig } = await import('../../config/load.ts');
  return (await loadConfig({ env: terminal.env, uid: terminal.uid })).config.dns.zone;
}
