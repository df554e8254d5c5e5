/** `banger vm resume`: suspended VMs go on where they stood. */
import type { Vm } from '../../../api/vm.ts';
import { formatDuration } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  completes: { names: ['vm'] },
  description:
    'What keeps a VM from going on is told, and nothing is deleted: `banger start --discard-memory` boots it instead.',
  examples: ['resume web', 'resume web db'],
  async run(ctx, { args }) {
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const { result } = await perform(ctx, `resume ${name}`, () => ctx.api.call('resumeVm', { params: { name } }));
      const vm = result as Vm;
      ctx.say(`${name} goes on at ${vm.address} (${formatDuration(performance.now() - begun)})`);
      return vm;
    });
  },
});
