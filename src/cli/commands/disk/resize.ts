/** `banger disk resize`: larger disks, of a stopped VM or of a running one. */
import type { Disk } from '../../../api/disk.ts';
import { BangerError } from '../../../errors.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name'],
  options: {
    work: { type: 'size', help: 'new size of the work disk, e.g. 20G' },
    root: { type: 'size', help: 'new size of the root disk' },
    online: { type: 'flag', help: 'also while the VM runs; its guest needs resize2fs, perl or python3' },
  },
  completes: { name: ['vm'] },
  description: 'Disks only grow. A growth that is cut off is finished by the next start.',
  examples: ['disk resize web --work 20G', 'disk resize web --work 50G --root 16G --online'],
  async run(ctx, { args: { name }, options }) {
    if (options.work === undefined && options.root === undefined) {
      throw new BangerError('invalid_input', 'Which disk, and how large?', {
        hint: `For example: banger disk resize ${name} --work 20G`,
      });
    }
    const body = {
      workBytes: options.work,
      rootBytes: options.root,
      online: options.online,
    };
    const { result } = await perform(ctx, `resize ${name}`, () =>
      ctx.api.call('resizeDisks', { params: { name }, body }),
    );
    const disks = result as Disk[];
    for (const { role, apparentBytes } of disks)
      ctx.say(`The ${role} disk of ${name} has ${formatSize(apparentBytes)}`);
    if (options.work !== undefined && !disks.some(({ role }) => role === 'work')) {
      ctx.say(`The work disk of ${name} will have ${formatSize(options.work)}: its first start makes it`);
    }
    return disks;
  },
});
