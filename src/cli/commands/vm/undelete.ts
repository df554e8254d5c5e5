/** `banger vm undelete`: a deleted VM back from the trash. */
import { defineCommand } from '../../command.ts';

export default defineCommand({
  positionals: ['name'],
  completes: { name: ['trashed-vm'] },
  options: { as: { type: 'text', placeholder: 'name', help: 'another name for it, when a VM has its own by now' } },
  description: 'The name, or the id when several deleted VMs had it; `banger trash list` shows both.',
  examples: ['vm undelete web', 'vm undelete web --as web-old'],
  async run(ctx, { args: { name }, options }) {
    const body = options.as === undefined ? {} : { as: options.as };
    const { vm, lostAddress } = await ctx.api.call('undeleteVm', { params: { name }, body });
    ctx.say(`${vm.name} is back; start it with: banger start ${vm.name}`);
    if (lostAddress !== null) ctx.warn(`another VM has ${lostAddress} by now: ${vm.name} got ${vm.address}`);
    return vm;
  },
});
