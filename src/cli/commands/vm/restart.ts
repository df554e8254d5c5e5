/** `banger vm restart`: shuts VMs down and boots them again. */
import type { Vm } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';
import { DISCARD_MEMORY, START_OPTIONS, settled, startRequest, startTimes } from '../../shared/start-options.ts';

export default defineCommand({
  positionals: ['names...'],
  options: { ...START_OPTIONS, discardMemory: DISCARD_MEMORY },
  completes: { names: ['vm'] },
  examples: ['restart web', 'restart web db --timeout 2m'],
  async run(ctx, { args, options }) {
    const body = { ...startRequest(options), ...(options.discardMemory ? { discardMemory: true } : {}) };
    return await forEachName(ctx, args.names, async (name) => {
      const { result } = await perform(ctx, `restart ${name}`, () =>
        ctx.api.call('restartVm', { params: { name }, body }),
      );
      const vm = await settled(ctx, result as Vm, options.until, options.timeout);
      ctx.say(`${name} is running again at ${vm.address} (${startTimes(vm)})`);
      return vm;
    });
  },
});
