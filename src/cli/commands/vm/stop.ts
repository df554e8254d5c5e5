/** `banger vm stop`: asks guests to shut down and makes sure that they do. */
import type { Vm } from '../../../api/vm.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  options: {
    timeout: { type: 'duration', short: 't', help: 'how long a guest may take to shut down before it is killed' },
  },
  completes: { names: ['vm'] },
  examples: ['stop web', 'stop web db --timeout 5s'],
  async run(ctx, { args, options }) {
    const body = options.timeout === undefined ? {} : { timeoutMs: options.timeout };
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const { result } = await perform(ctx, `stop ${name}`, () => ctx.api.call('stopVm', { params: { name }, body }));
      ctx.say(`${name} is stopped (${formatDuration(performance.now() - begun)})`);
      return result as Vm;
    });
  },
});
