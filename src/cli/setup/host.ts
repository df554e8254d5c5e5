/** The part of `banger setup` about this machine: what `banger doctor --fix` would run, and rights for who is not root. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import type { CheckResult, DoctorReport } from '../../api/system.ts';
import { SUDOERS_DIRECTORY } from '../../config/paths.ts';
import { BangerError } from '../../errors.ts';
import { type Argv, commandLine } from '../../system/runner.ts';
import { withRights } from '../shared/with-rights.ts';
import { type Part, type SetupContext, settled, showFile } from './part.ts';

const MACHINE = 'this machine';
const RIGHTS = 'rights';

/** Members may ask the network helper. */
const HELPER_GROUP = 'banger';

/** Commands that fix what failed, each once. */
export function machinePart({ ctx, runner, journal }: SetupContext, { checks }: DoctorReport): Part {
  const repairs = checks.flatMap(({ status, repair }) => (status === 'failed' && repair ? [repair] : []));
  const unique = new Map(repairs.map((repair) => [commandLine(repair.argv), repair]));
  const commands = [...unique.values()].map(({ argv, asRoot }) => (asRoot ? withRights(ctx.terminal, argv) : argv));
  if (commands.length === 0) {
    const left = checks.filter(({ id, status }) => status === 'failed' && id !== 'privilege');
    return settled(MACHINE, left.length === 0 ? 'has what VMs need' : `lacks what is yours to decide: ${titles(left)}`);
  }
  return {
    title: MACHINE,
    plan: commands.map((argv) => `run ${commandLine(argv)}`),
    async apply() {
      const before = await installedPackages(runner);
      for (const argv of commands) await runOnTerminal(ctx, argv);
      const added = [...(await installedPackages(runner))].filter((name) => !before.has(name));
      if (added.length > 0) await journal.add({ did: 'install', packages: added.sort() });
    },
  };
}

/** What lets this user make networks: the group of the network helper, or else rules for sudo, which are shown whole. */
export async function rightsPart({ ctx, journal }: SetupContext, { checks }: DoctorReport): Promise<Part> {
  const { terminal } = ctx;
  const check = checks.find(({ id }) => id === 'privilege');
  if (terminal.uid === 0) return settled(RIGHTS, 'root needs none');
  if (check?.status !== 'failed') return settled(RIGHTS, check?.detail ?? 'nothing more is needed');
  if (check.fix?.includes('usermod')) return joinPart({ ctx, journal });
  if (!check.fix?.includes('--sudoers')) return settled(RIGHTS, `${check.detail} ${check.fix ?? ''}`.trim());
  const { text } = await ctx.api.call('sudoers', {});
  // a file for each user: several of them use banger on one machine
  const path = join(SUDOERS_DIRECTORY, `banger-${terminal.uid}`);
  return {
    title: RIGHTS,
    plan: showFile(path, text),
    async apply() {
      await journal.add({ did: 'grant', path });
      const directory = await mkdtemp(join(tmpdir(), 'banger-setup-'));
      try {
        const file = join(directory, 'sudoers');
        await writeFile(file, text, { mode: 0o600 });
        // a mistake in there would lock everybody out of sudo
        await runOnTerminal(ctx, withRights(terminal, ['visudo', '-c', '-q', '-f', file]));
        await runOnTerminal(ctx, withRights(terminal, ['install', '-m', '0440', file, path]));
      } finally {
        await rm(directory, { recursive: true, force: true });
      }
    },
  };
}

/** The group counts from the next login on, so what is left to do is said. */
function joinPart({ ctx, journal }: Pick<SetupContext, 'ctx' | 'journal'>): Part {
  const user = userInfo().username;
  const argv: Argv = ['usermod', '--append', '--groups', HELPER_GROUP, user];
  return {
    title: RIGHTS,
    plan: [`run ${commandLine(withRights(ctx.terminal, argv))}`],
    async apply() {
      await journal.add({ did: 'join', group: HELPER_GROUP, user });
      await runOnTerminal(ctx, withRights(ctx.terminal, argv));
      ctx.talk('Log out and in again: a session keeps the groups that it began with. A daemon too: banger daemon stop');
    },
  };
}

/** @throws BangerError `command_failed` when it ends with an error, which it has told on the terminal */
export async function runOnTerminal({ terminal, talk }: SetupContext['ctx'], argv: Argv): Promise<void> {
  talk(`+ ${commandLine(argv)}`);
  // what the program says is talk: standard output is for the result
  const status = await terminal.runInteractive(argv, { output: 'stderr' });
  if (status === 0) return;
  throw new BangerError('command_failed', `\`${commandLine(argv)}\` ended with ${status}.`, {
    hint: `Run it by hand, then go on with: banger setup`,
  });
}

/** Names of all packages; none where there is no dpkg. */
async function installedPackages(runner: SetupContext['runner']): Promise<Set<string>> {
  const argv: Argv = ['dpkg-query', '-W', '-f', `\${db:Status-Abbrev} \${binary:Package}\n`];
  const { stdout } = await runner.run(argv).catch(() => ({ stdout: '' }));
  const lines = stdout.split('\n').filter((line) => line.startsWith('ii'));
  return new Set(lines.map((line) => line.slice(line.lastIndexOf(' ') + 1)));
}

function titles(checks: readonly CheckResult[]): string {
  return `${checks.map(({ title }) => title).join(', ')}; see banger doctor`;
}
