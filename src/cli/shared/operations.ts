/** Long actions from the client's side: shown while they run, undone on Ctrl-C, judged when they end. */
import type { Operation } from '../../api/operation.ts';
import { fromProblem } from '../../api/problem.ts';
import { followOperation } from '../../client/follow-operation.ts';
import { asBangerError, BangerError } from '../../errors.ts';
import { commandLine } from '../../system/runner.ts';
import type { Context } from '../context.ts';
import type { TaskView } from '../output/progress.ts';

/**
 * Requests a long action and stays with it to its end.
 * @param label what it is, e.g. `start web`
 * @param options.output what happens to lines of output: part of the view unless shown in full or left out
 * @returns the operation, succeeded
 * @throws BangerError what made it fail; `cancelled` after Ctrl-C, undone or left to others
 */
export async function perform(
  ctx: Context,
  label: string,
  request: () => Promise<Operation>,
  options: { output?: 'all' | 'none' } = {},
): Promise<Operation> {
  const interrupts = ctx.interrupts();
  const begun = (await ctx.view()).begin(label);
  const task: TaskView = {
    ...begun,
    ...(options.output ? { log: options.output === 'all' ? ctx.talk : () => {} } : {}),
  };
  const following = new AbortController();
  try {
    return await Promise.race([
      performTo(ctx, label, task, request, following.signal),
      interrupts.second.then(() => {
        throw new BangerError('cancelled', `Left ${label} to the daemon, which still undoes it.`, {
          hint: 'banger operation list',
        });
      }),
    ]);
  } catch (error) {
    task.fail();
    throw error;
  } finally {
    following.abort();
    task.end();
  }
}

async function performTo(
  ctx: Context,
  label: string,
  task: TaskView,
  request: () => Promise<Operation>,
  signal: AbortSignal,
): Promise<Operation> {
  const asked = request();
  // what its events are read by takes as long to load as the daemon takes to begin
  void import('../../client/open-stream.ts');
  const operation = await asked;
  if (operation.joined) task.step('already under way, waiting with who began it');
  let shown = task;
  const ended = await Promise.race([
    followOperation(ctx.api, operation.id, (event) => showEvent(shown, event), signal),
    cancelOnInterrupt(ctx, label, operation, () => {
      task.step('undoing; Ctrl-C again leaves that to the daemon');
      // what it says from now on is about the undo
      shown = { ...task, step: (text) => task.step(`undoing: ${text}`), progress: () => {} };
    }),
  ]);
  return succeeded(ctx, label, ended);
}

function showEvent(task: TaskView, event: Parameters<Parameters<typeof followOperation>[2]>[0]): void {
  switch (event.type) {
    case 'step':
      task.step(event.label);
      break;
    case 'progress':
      task.progress(event);
      break;
    case 'log':
      task.log(event.line);
      break;
    case 'warning':
      task.warn(event.message);
      break;
  }
}

/** Asks for the undo at the first Ctrl-C; rejects when others wait for the operation too, and so it goes on. */
async function cancelOnInterrupt(
  ctx: Context,
  label: string,
  operation: Operation,
  onUndo: () => void,
): Promise<never> {
  await ctx.interrupts().first;
  const goesOn = () =>
    new BangerError('cancelled', `${label} goes on: another client waits for it too.`, {
      hint: `banger operation wait ${operation.id}`,
    });
  if (operation.joined) throw goesOn();
  onUndo();
  const { cancelled, watchers } = await ctx.api.call('cancelOperation', { params: { id: operation.id } });
  if (!cancelled && watchers > 0) throw goesOn();
  return await new Promise<never>(() => {}); // the operation's last event tells how it ended
}

function succeeded(ctx: Context, label: string, operation: Operation): Operation {
  switch (operation.state) {
    case 'succeeded':
      return operation;
    case 'cancelled':
      throw new BangerError('cancelled', `${label} was cancelled, and what it had done is undone.`, {
        hint: commandLine(['banger', ...ctx.argv]),
      });
    case 'interrupted':
      throw operation.error
        ? fromProblem(operation.error)
        : new BangerError('internal', `${label} was interrupted: the daemon ended meanwhile.`, {
            hint: commandLine(['banger', ...ctx.argv]),
          });
    default:
      throw operation.error
        ? fromProblem(operation.error)
        : new BangerError('internal', `${label} ended as ${operation.state} without an explanation.`, {
            hint: `banger operation show ${operation.id}`,
          });
  }
}

/**
 * Does the same for several names side by side. What fails is shown at once and sets the exit status; it
 * keeps none of the others from going on.
 * @returns the results of those that succeeded, in the order of the names
 */
export async function forEachName<T>(
  ctx: Context,
  names: readonly string[],
  action: (name: string) => Promise<T>,
): Promise<T[]> {
  const outcomes = await Promise.all(
    [...new Set(names)].map(async (name) => {
      try {
        return [await action(name)];
      } catch (error) {
        ctx.fail(asBangerError(error));
        return [];
      }
    }),
  );
  return outcomes.flat();
}
