/** Takes back what `banger setup` changed, newest first: exactly that, and nothing that was changed since by somebody else. */
import { readFile, rm, rmdir, stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { Config } from '../../config/schema.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { type Argv, commandLine } from '../../system/runner.ts';
import { perform } from '../shared/operations.ts';
import { configFiles, uninstallClientConfig } from '../shared/ssh-client-config.ts';
import { withRights } from '../shared/with-rights.ts';
import { runOnTerminal } from './host.ts';
import type { Action } from './journal.ts';
import { runAsRoot } from './names.ts';
import { digestOf, type SetupContext } from './part.ts';

export interface UndoStep {
  action: Action;
  /** what will be done, a line */
  plan: string;
  run(): Promise<void>;
}

export function undoSteps({ ctx, journal }: SetupContext, config: Config): UndoStep[] {
  return journal
    .actions()
    .toReversed()
    .map((action) => ({ action, ...undo(ctx, config, action) }));
}

function undo(ctx: SetupContext['ctx'], config: Config, action: Action): Omit<UndoStep, 'action'> {
  const command = (argv: Argv) => ({ plan: `run ${commandLine(argv)}`, run: () => runOnTerminal(ctx, argv) });
  switch (action.did) {
    case 'write':
      return { plan: `remove ${action.path}`, run: () => removeOurs(action.path, action.digest) };
    case 'make-directory':
      return { plan: `remove ${action.path} if it is empty`, run: () => removeEmpty(action.path) };
    case 'install':
      // unlike apt, dpkg removes nothing else, and nothing that others have come to need
      return command(withRights(ctx.terminal, ['dpkg', '--remove', ...action.packages]));
    case 'grant':
      return command(withRights(ctx.terminal, ['rm', '-f', action.path]));
    case 'join':
      return command(withRights(ctx.terminal, ['gpasswd', '--delete', action.user, action.group]));
    case 'linger':
      return command(['loginctl', 'disable-linger', action.user]);
    case 'resolve':
      return { plan: 'run banger dns setup --undo', run: () => undoResolver(ctx) };
    case 'include':
      return {
        plan: `take the included settings out of ${action.main}${action.created ? ', and remove it if nothing is left' : ''}`,
        run: () => undoInclude(config, action.main, action.created),
      };
  }
}

async function undoResolver(ctx: SetupContext['ctx']): Promise<void> {
  const plan = await ctx.api.call('planDns', { query: { undo: true } });
  if (plan.steps.length === 0) return;
  if (ctx.terminal.uid !== 0) await runAsRoot(ctx, plan.script);
  else await perform(ctx, 'dns setup --undo', () => ctx.api.call('setUpDns', { body: { undo: true } }));
}

async function undoInclude(config: Config, main: string, created: boolean): Promise<void> {
  await uninstallClientConfig(configFiles(config, main));
  if (!created) return;
  const left = await stat(main).catch(() => undefined);
  if (left?.size !== 0) return;
  await rm(main);
  await removeEmpty(dirname(main));
}

/** @throws BangerError `conflict` when it is not what was written any more */
async function removeOurs(path: string, digest: string): Promise<void> {
  const text = await readFile(path, 'utf8').catch((error) => {
    if (systemCode(error) === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return;
  if (digestOf(text) !== digest) {
    throw new BangerError('conflict', `${path} was changed since banger wrote it, so it stays.`, {
      hint: `rm ${path}`,
    });
  }
  await rm(path);
}

async function removeEmpty(path: string): Promise<void> {
  await rmdir(path).catch((error) => {
    if (!['ENOENT', 'ENOTEMPTY', 'EEXIST'].includes(systemCode(error) ?? '')) throw error;
  });
}
