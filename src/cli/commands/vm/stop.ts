/** `banger vm stop`: asks guests to shut down and makes sure that they do. */
import type { Vm } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { askYes } from '../../shared/ask.ts';
import { forEachName, perform } from '../../shared/operations.ts';
import { DISCARD_MEMORY } from '../../shared/start-options.ts';

export default defineCommand({
  positionals: ['names...'],
  options: {
    timeout: { type: 'duration', short: 't', help: 'how long a guest may take to shut down before it is killed' },
    discardMemory: DISCARD_MEMORY,
  },
  completes: { names: ['vm'] },
  examples: ['stop web', 'stop web db --timeout 5s', 'stop --discard-memory web'],
  async run(ctx, { args, options }) {
    const timeout = options.timeout === undefined ? {} : { timeoutMs: options.timeout };
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const stop = (discardMemory: boolean) => {
        const body = { ...timeout, ...(discardMemory ? { discardMemory } : {}) };
        return perform(ctx, `stop ${name}`, () => ctx.api.call('stopVm', { params: { name }, body }));
      };
      const { result } = await stop(options.discardMemory).catch(async (error) => {
        if (!isSuspended(error) || !(await askYes(ctx, `${error.message} Give that up?`))) throw error;
        return await stop(true);
      });
      ctx.say(`${name} is stopped (${formatDuration(performance.now() - begun)})`);
      return result as Vm;
    });
  },
});

/** Whether the daemon wants to be told that the memory of a suspended VM is given up. */
function isSuspended(error: unknown): error is BangerError {
  return error instanceof BangerError && error.details?.suspended === true;
}
