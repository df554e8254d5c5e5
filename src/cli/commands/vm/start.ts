/** `banger vm start`: boots VMs side by side, each until it is ready. */
import type { Vm } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';
import { START_OPTIONS, settled, startRequest, startTimes } from '../../shared/start-options.ts';

export default defineCommand({
  positionals: ['names...'],
  options: START_OPTIONS,
  completes: { names: ['vm'] },
  examples: ['start web', 'start web db cache', 'start web --timeout 2m', 'start web --until reachable'],
  async run(ctx, { args, options }) {
    const body = startRequest(options);
    return await forEachName(ctx, args.names, async (name) => {
      const { result } = await perform(ctx, `start ${name}`, () => ctx.api.call('startVm', { params: { name }, body }));
      const vm = await settled(ctx, result as Vm, options.until, options.timeout);
      ctx.say(`${name} is running at ${vm.address} (${startTimes(vm)})`);
      return vm;
    });
  },
});
