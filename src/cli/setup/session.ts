/** The parts of `banger setup` about the user's own session: completion of their shell, and VMs that outlive the last logout. */
import { mkdir } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { managerDirectory } from '../../config/paths.ts';
import { pathExists, writeFileAtomic } from '../../system/files.ts';
import { completionScript, type Shell } from '../completion/script.ts';
import type { Terminal } from '../terminal.ts';
import { runOnTerminal } from './host.ts';
import { digestOf, type Part, type SetupContext, settled } from './part.ts';

/** Where packages put completions, below the prefix of the program. */
const INSTALLED: Record<Shell, readonly string[]> = {
  bash: ['share/bash-completion/completions/banger'],
  zsh: ['share/zsh/vendor-completions/_banger', 'share/zsh/site-functions/_banger'],
  fish: ['share/fish/vendor_completions.d/banger.fish'],
};

export async function completionPart({ ctx, journal }: SetupContext): Promise<Part> {
  const { terminal } = ctx;
  const name = basename(terminal.env.SHELL ?? '');
  const shell = (Object.keys(INSTALLED) as Shell[]).find((known) => known === name);
  const title = `completion of ${name || 'the shell'}`;
  if (shell === undefined) return settled(title, 'there is none for it');
  const prefix = dirname(dirname(terminal.self[0]));
  for (const path of INSTALLED[shell]) {
    if (await pathExists(join(prefix, path))) return settled(title, 'is installed with banger');
  }
  const path = userFile(shell, terminal);
  if (path === undefined) return settled(title, 'put it into a directory of $fpath: banger completion zsh');
  if (await pathExists(path)) return settled(title, `is there already: ${path}`);
  return {
    title,
    plan: [`write ${path}`],
    async apply() {
      const text = `${(await completionScript(shell, ctx.commands)).trimEnd()}\n`;
      await makeDirectories(dirname(path), journal);
      await journal.add({ did: 'write', path, digest: digestOf(text) });
      await writeFileAtomic(path, text, 0o644);
    },
  };
}

/** Where a shell looks for completions of one user; zsh has no such place unless the user chose one. */
function userFile(shell: Shell, { env }: Terminal): string | undefined {
  const home = env.HOME ?? '/';
  const data = env.XDG_DATA_HOME || join(home, '.local/share');
  const config = env.XDG_CONFIG_HOME || join(home, '.config');
  if (shell === 'bash') return join(data, 'bash-completion/completions/banger');
  return shell === 'fish' ? join(config, 'fish/completions/banger.fish') : undefined;
}

async function makeDirectories(path: string, journal: SetupContext['journal']): Promise<void> {
  if (await pathExists(path)) return;
  await makeDirectories(dirname(path), journal);
  await journal.add({ did: 'make-directory', path });
  // the journal's own directory may be below the same one
  await mkdir(path, { recursive: true });
}

/** Without it systemd ends everything of a user with their last session, VMs too. */
export async function lingerPart({ ctx, runner, journal }: SetupContext): Promise<Part> {
  const title = 'VMs after logout';
  const { terminal } = ctx;
  const manager = managerDirectory(terminal.env, terminal.uid);
  if (terminal.uid === 0) return settled(title, "root's go on");
  if (manager === undefined || !(await pathExists(manager))) return settled(title, 'no systemd manages this session');
  const user = userInfo().username;
  const shown = await runner.run(['loginctl', 'show-user', user, '--property=Linger']).catch(() => undefined);
  if (shown === undefined) return settled(title, 'no systemd manages this session');
  if (shown.stdout.includes('Linger=yes')) return settled(title, 'go on already');
  return {
    title,
    plan: [`run loginctl enable-linger ${user}`],
    async apply() {
      await journal.add({ did: 'linger', user });
      await runOnTerminal(ctx, ['loginctl', 'enable-linger', user]);
    },
  };
}
