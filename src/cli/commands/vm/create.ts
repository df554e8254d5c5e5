/** `banger vm create`: a VM with its disks, not started. */
import type { Vm } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { imageOf } from '../../shared/bring-up.ts';
import { perform } from '../../shared/operations.ts';
import { AUTOSTART_HINT, VM_OPTIONS, vmCreateRequest } from '../../shared/vm-options.ts';

export default defineCommand({
  positionals: ['name'],
  options: VM_OPTIONS,
  description: "The name is a DNS label: a-z, 0-9 and inner dashes. It is also the VM's host name.",
  examples: [
    'create web',
    'create web --vcpus 2 --memory 2G --work-disk 20G',
    'create scratch --work-disk none --no-nat',
  ],
  async run(ctx, { args, options }) {
    const body = vmCreateRequest(args.name, { ...options, image: await imageOf(ctx, options.image) });
    const { result } = await perform(ctx, `create ${args.name}`, () => ctx.api.call('createVm', { body }));
    ctx.say(`${args.name} is created; start it with: banger start ${args.name}`);
    if (options.autostart) ctx.talk(AUTOSTART_HINT);
    return result as Vm;
  },
});
