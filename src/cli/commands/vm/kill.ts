/** `banger vm kill`: ends VMs without asking their guests. */
import type { Vm } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { forEachName, perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['names...'],
  completes: { names: ['vm'] },
  description: 'What the guest had not written to its disks is lost. `banger stop` asks it first.',
  examples: ['kill web'],
  async run(ctx, { args }) {
    return await forEachName(ctx, args.names, async (name) => {
      const { result } = await perform(ctx, `kill ${name}`, () => ctx.api.call('killVm', { params: { name } }));
      ctx.say(`${name} is stopped, hard`);
      return result as Vm;
    });
  },
});
