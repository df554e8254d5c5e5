/** `banger vm suspend`: the memory of VMs goes to disk, and nothing of them runs until they are wanted again. */
import type { Vm } from '../../../api/vm.ts';
import { formatDuration, formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  completes: { names: ['vm'] },
  description:
    'A suspended VM takes no memory, no processor and no network device. It goes on where it stood by `banger resume`,\n' +
    'and by `start`, `run`, `ssh`, `exec` and `cp` as well, also after a restart of the host.',
  examples: ['suspend web', 'suspend web db'],
  async run(ctx, { args }) {
    return await forEachName(ctx, args.names, async (name) => {
      const begun = performance.now();
      const { result } = await perform(ctx, `suspend ${name}`, () => ctx.api.call('suspendVm', { params: { name } }));
      const vm = result as Vm;
      const room = vm.suspended === null ? '' : `, takes ${formatSize(vm.suspended.memoryBytes)} on disk`;
      ctx.say(`${name} is suspended${room} (${formatDuration(performance.now() - begun)})`);
      return vm;
    });
  },
});
