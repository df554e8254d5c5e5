/** `banger snapshot import`: a VM made of an exported snapshot. */
import { resolve } from 'node:path';
import type { Vm } from '../../../api/vm.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['file', 'name'],
  options: {
    image: {
      type: 'text',
      short: 'i',
      placeholder: 'name',
      completes: ['image', 'bundle'],
      help: 'image or bundle to boot with',
      default: 'the one it was made with',
    },
  },
  completes: { file: ['file'] },
  description:
    'The new VM has the disks, processors and memory of the one that was exported, and an address, keys and a machine id of its own.',
  examples: ['snapshot import web.tar.zst web', 'snapshot import web.tar.zst web2 --image dev'],
  async run(ctx, { args: { file, name }, options }) {
    const body = {
      file: resolve(ctx.terminal.cwd, file),
      name,
      ...(options.image === undefined ? {} : { image: options.image }),
    };
    const { result } = await perform(ctx, `import ${name}`, () => ctx.api.call('importSnapshot', { body }));
    const vm = result as Vm;
    ctx.say(`${vm.name} is made, and has the address ${vm.address}`);
    ctx.talk(`Start it with: banger start ${vm.name}`);
    return vm;
  },
});
