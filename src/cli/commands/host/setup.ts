/** `banger setup`: this machine, rights, names, ssh and completion in one go, shown before and taken back by `--undo`. */

import { join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { loadConfig } from '../../../config/load.ts';
import { asBangerError, BangerError } from '../../../errors.ts';
import { createRunner } from '../../../system/runner.ts';
import { defineCommand } from '../../command.ts';
import type { Context } from '../../context.ts';
import { machinePart, rightsPart } from '../../setup/host.ts';
import { openJournal } from '../../setup/journal.ts';
import { resolverPart, sshPart } from '../../setup/names.ts';
import type { Part, SetupContext } from '../../setup/part.ts';
import { completionPart, lingerPart } from '../../setup/session.ts';
import { undoSteps } from '../../setup/undo.ts';

interface Result {
  title: string;
  /** `todo` after --dry-run only */
  state: 'settled' | 'todo' | 'done' | 'failed' | 'undone';
  detail: string;
}

export default defineCommand({
  options: {
    yes: { type: 'flag', short: 'y', help: 'do it without asking' },
    dryRun: { type: 'flag', short: 'n', help: 'show what would be done, and do nothing' },
    undo: { type: 'flag', help: 'take back what setup did, and nothing else' },
  },
  description:
    'Does what `doctor --fix`, `doctor --sudoers`, `dns setup`, `ssh-config --install` and `completion` offer. All of it is shown ' +
    'first and asked for once; what is done already is left as it is. Programs that need root are run with sudo.',
  examples: ['setup', 'setup --dry-run', 'setup --yes', 'setup --undo'],
  async run(ctx, { options }): Promise<Result[]> {
    const { env, uid } = ctx.terminal;
    const { config } = await loadConfig({ env, uid });
    const journal = await openJournal(join(config.paths.state, 'setup.json'));
    const setup: SetupContext = { ctx, runner: createRunner(env), journal };
    if (options.undo) {
      const steps = undoSteps(setup, config);
      if (steps.length === 0) ctx.say('Setup has changed nothing here.');
      else {
        ctx.say(['This is taken back:', ...steps.map(({ plan }) => `  ${plan}`)].join('\n'));
        if (options.dryRun) return steps.map(({ plan }) => ({ title: plan, state: 'todo', detail: '' }));
        await agree(ctx, options.yes, 'setup --undo --yes');
      }
      return await each(ctx, steps, async ({ action, plan, run }) => {
        await run();
        await journal.remove(action);
        return { title: plan, state: 'undone', detail: '' };
      });
    }

    const report = await ctx.api.call('doctor', {});
    const parts = [
      machinePart(setup, report),
      await rightsPart(setup, report),
      await resolverPart(setup, config),
      await sshPart(setup, config),
      await completionPart(setup),
      await lingerPart(setup),
    ];
    ctx.say(parts.map(showPart).join('\n'));
    const open = parts.filter((part) => part.settled === undefined);
    if (options.dryRun || open.length === 0) {
      if (open.length === 0) ctx.say('\nNothing is left to set up.');
      return parts.map((part) => result(part, 'todo'));
    }
    await agree(ctx, options.yes, 'setup --yes');
    return await each(ctx, parts, async (part) => {
      if (part.settled === undefined) await part.apply();
      return result(part, 'done');
    });
  },
  print(results) {
    const count = (state: Result['state']) => results.filter((each) => each.state === state).length;
    if (count('failed') > 0) return `\nNot everything could be done: ${count('failed')} of ${results.length} failed.`;
    if (count('undone') > 0) return '\nEverything is as it was.';
    return count('done') > 0 ? '\nDone. Take it back with: banger setup --undo\nNow: banger run NAME' : '';
  },
});

/** Each for itself: what fails is told, and the others are done all the same. */
async function each<T>(ctx: Context, items: readonly T[], work: (item: T) => Promise<Result>): Promise<Result[]> {
  const results: Result[] = [];
  for (const item of items) {
    try {
      results.push(await work(item));
    } catch (error) {
      const failure = asBangerError(error);
      ctx.fail(failure);
      results.push({ title: titleOf(item), state: 'failed', detail: failure.message });
    }
  }
  return results;
}

function titleOf(item: unknown): string {
  const { title, plan } = item as { title?: string; plan?: unknown };
  return title ?? String(plan);
}

function result(part: Part, state: 'todo' | 'done'): Result {
  if (part.settled !== undefined) return { title: part.title, state: 'settled', detail: part.settled };
  return { title: part.title, state, detail: part.plan.join('\n') };
}

function showPart({ title, settled, plan }: Part): string {
  if (settled !== undefined) return `ok    ${title}: ${settled}`;
  return [`to do ${title}:`, ...plan.map((line) => `        ${line}`)].join('\n');
}

/** @throws BangerError `cancelled` at a no, `invalid_input` when there is nobody to ask */
async function agree({ terminal }: Context, yes: boolean, command: string): Promise<void> {
  if (yes) return;
  if (!terminal.stdin.isTTY) {
    throw new BangerError('invalid_input', 'Nothing was done: there is no terminal to ask on.', {
      hint: `banger ${command}`,
    });
  }
  const lines = createInterface({ input: terminal.stdin, output: terminal.stderr });
  try {
    const answer = (await lines.question('\nDo this? [Y/n] ')).trim().toLowerCase();
    if (['', 'y', 'yes'].includes(answer)) return;
  } finally {
    lines.close();
  }
  throw new BangerError('cancelled', 'Nothing was done.', {
    hint: 'Parts of it by hand: banger doctor, banger dns setup, banger ssh-config',
  });
}
