/** `banger vm rename`: another name for the same VM. */
import type { VmRenameResult } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['old', 'new'],
  completes: { old: ['vm'] },
  description: 'Address, disks and keys stay. A VM that runs keeps running, and its guest is told.',
  examples: ['vm rename web web-old'],
  async run(ctx, { args }) {
    const { result } = await perform(ctx, `rename ${args.old}`, () =>
      ctx.api.call('renameVm', { params: { name: args.old }, body: { name: args.new } }),
    );
    const { vm, hostname } = result as VmRenameResult;
    ctx.say(`${args.old} is now ${vm.name}`);
    if (vm.state === 'running' && hostname === 'at-next-start') {
      ctx.talk(`Inside, it calls itself ${args.old} until its next start.`);
    }
    return { ...vm, hostname };
  },
});
