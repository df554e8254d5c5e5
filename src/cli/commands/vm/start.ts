/** `banger vm start`: boots VMs side by side, each until it is ready; those that are suspended go on. */
import type { Vm, VmStartResult } from '../../../api/vm.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';
import { DISCARD_MEMORY, START_OPTIONS, settled, startRequest, startTimes } from '../../shared/start-options.ts';

export default defineCommand({
  positionals: ['names...'],
  options: { ...START_OPTIONS, discardMemory: DISCARD_MEMORY },
  completes: { names: ['vm'] },
  description: 'A suspended VM goes on where it stood, unless its memory is given up.',
  examples: [
    'start web',
    'start web db cache',
    'start web --timeout 2m',
    'start web --until reachable',
    'start --discard-memory web',
  ],
  async run(ctx, { args, options }) {
    const body = { ...startRequest(options), ...(options.discardMemory ? { discardMemory: true } : {}) };
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const { result } = await perform(ctx, `start ${name}`, () => ctx.api.call('startVm', { params: { name }, body }));
      const { resumed = false, ...reached } = result as Vm & Partial<VmStartResult>;
      const vm = await settled(ctx, reached, options.until, options.timeout);
      if (resumed) ctx.say(`${name} goes on at ${vm.address} (${formatDuration(performance.now() - begun)})`);
      else ctx.say(`${name} is running at ${vm.address} (${startTimes(vm)})`);
      return vm;
    });
  },
});
