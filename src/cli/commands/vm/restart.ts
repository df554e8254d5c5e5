/** `banger vm restart`: shuts VMs down and boots them again. */
import type { Vm } from '../../../api/vm.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  options: { timeout: { type: 'duration', short: 't', help: 'how long a VM may take to answer again, e.g. 30s' } },
  completes: { names: ['vm'] },
  examples: ['restart web', 'restart web db --timeout 2m'],
  async run(ctx, { args, options }) {
    const body = options.timeout === undefined ? {} : { timeoutMs: options.timeout };
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const { result } = await perform(ctx, `restart ${name}`, () =>
        ctx.api.call('restartVm', { params: { name }, body }),
      );
      const vm = result as Vm;
      ctx.say(`${name} is running again at ${vm.address} (${formatDuration(performance.now() - begun)})`);
      return vm;
    });
  },
});
