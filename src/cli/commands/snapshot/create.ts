/** `banger snapshot create`: a VM as it is at one moment, its disks and, when it runs, its memory. */
import type { Snapshot } from '../../../api/snapshot.ts';
import { formatDuration, formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { PAUSE_OK } from '../../shared/snapshot-options.ts';

export default defineCommand({
  positionals: ['name', '[snapshot]'],
  options: {
    diskOnly: { type: 'flag', help: 'only the disks, not the memory of a guest that runs' },
    pauseOk: PAUSE_OK,
  },
  completes: { name: ['vm'] },
  description:
    'Memory, root and work disk are of one moment: the guest of a VM that runs is held still for it, which is told. Where the ' +
    'store shares blocks the disks take a moment and no room; elsewhere they are copied (banger storage show). The name is made ' +
    'of the time when none is given.',
  examples: ['snapshot create web', 'snapshot create web before-upgrade --disk-only', 'snapshot create db --pause-ok'],
  async run(ctx, { args: { name, snapshot }, options }) {
    const body = {
      ...(snapshot === undefined ? {} : { name: snapshot }),
      ...(options.pauseOk ? { pauseOk: true } : {}),
      ...(options.diskOnly ? { diskOnly: true } : {}),
    };
    const { result } = await perform(ctx, `snapshot of ${name}`, () =>
      ctx.api.call('createSnapshot', { params: { name }, body }),
    );
    const taken = result as Snapshot;
    const held = taken.memory ? 'its guest stood still for' : 'its guest could not write for';
    const pause = taken.pauseMs === null ? '' : `; ${held} ${formatDuration(taken.pauseMs)}`;
    ctx.say(
      `${taken.name} is a snapshot of ${name}${taken.memory ? ' with its memory' : ''} (${formatSize(taken.allocatedBytes)})${pause}`,
    );
    ctx.talk(`Put it back with: banger snapshot restore ${name} ${taken.name}`);
    return taken;
  },
});
