/** `banger vm start`: boots VMs side by side, each until it answers over SSH. */
import type { Vm } from '../../../api/vm.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  options: { timeout: { type: 'duration', short: 't', help: 'how long a VM may take to answer, e.g. 30s' } },
  completes: { names: ['vm'] },
  examples: ['start web', 'start web db cache', 'start web --timeout 2m'],
  async run(ctx, { args, options }) {
    const body = options.timeout === undefined ? {} : { timeoutMs: options.timeout };
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const { result } = await perform(ctx, `start ${name}`, () => ctx.api.call('startVm', { params: { name }, body }));
      const vm = result as Vm;
      ctx.say(`${name} is running at ${vm.address} (${formatDuration(performance.now() - begun)})`);
      return vm;
    });
  },
});
