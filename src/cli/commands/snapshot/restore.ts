/** `banger snapshot restore`: the disks of a snapshot in the place of a VM's, or as a new VM. */
import type { Restored } from '../../../api/snapshot.ts';
import type { Vm } from '../../../api/vm.ts';
import { BangerError } from '../../../errors.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { RESTORE_OPTIONS, restoreRequest, undoCommand } from '../../shared/snapshot-options.ts';

export default defineCommand({
  positionals: ['name', 'snapshot'],
  options: {
    as: { type: 'text', placeholder: 'name', help: 'make a new VM of it, and leave this one alone' },
    diskOnly: { type: 'flag', help: 'leave the memory in it out: the VM boots' },
    ...RESTORE_OPTIONS,
  },
  completes: { name: ['vm'], snapshot: ['snapshot'] },
  description:
    'Root and work disk and the image are those of the snapshot again; name, address, keys and settings stay. With memory in it ' +
    'the VM goes on from there, its connections ended. What is there before ' +
    'becomes an automatic snapshot, which `banger snapshot undo NAME` puts back; the last three are kept. A new VM gets an address, ' +
    'keys and a machine id of its own.',
  examples: [
    'snapshot restore web before-upgrade',
    'snapshot restore web before-upgrade --force',
    'snapshot restore web before-upgrade --as web-old',
  ],
  async run(ctx, { args: { name, snapshot }, options }) {
    if (options.as !== undefined) {
      if (options.force || options.start) {
        throw new BangerError('invalid_input', '--as makes a new VM; --force and --no-start are for the other way.', {
          hint: `banger snapshot restore ${name} ${snapshot} --as ${options.as}`,
        });
      }
      const body = { name: options.as, ...(options.diskOnly ? { diskOnly: true } : {}) };
      const { result } = await perform(ctx, `copy ${snapshot}`, () =>
        ctx.api.call('copySnapshot', { params: { name, snapshot }, body }),
      );
      const vm = result as Vm;
      if (vm.state === 'running') {
        ctx.say(`${vm.name} goes on from ${snapshot} of ${name}, at ${vm.address}`);
        return vm;
      }
      ctx.say(`${vm.name} has the disks of ${snapshot} of ${name}, and the address ${vm.address}`);
      ctx.talk(`Start it with: banger start ${vm.name}`);
      return vm;
    }
    const { result } = await perform(ctx, `restore ${name}`, () =>
      ctx.api.call('restoreSnapshot', {
        params: { name, snapshot },
        body: { ...restoreRequest(options), ...(options.diskOnly ? { diskOnly: true } : {}) },
      }),
    );
    const restored = result as Restored;
    const { state } = restored.vm;
    const how = state === 'running' ? ', and runs' : state === 'suspended' ? ' with its memory, and is suspended' : '';
    ctx.say(`${name} has the disks of ${snapshot} again${how}`);
    ctx.talk(`What was there is ${restored.before}; have it back with: ${undoCommand(restored)}`);
    return restored;
  },
});
