/** `banger snapshot create`: the disks of a VM as they are at one moment. */
import type { Snapshot } from '../../../api/snapshot.ts';
import { formatDuration, formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';
import { PAUSE_OK } from '../../shared/snapshot-options.ts';

export default defineCommand({
  positionals: ['name', '[snapshot]'],
  options: {
    diskOnly: { type: 'flag', help: 'only the disks, which is all that is kept today' },
    pauseOk: PAUSE_OK,
  },
  completes: { name: ['vm'] },
  description:
    'Root and work disk are of one moment: the guest of a VM that runs is held still for it, which is told. Where the store shares ' +
    'blocks that takes a moment and no room; elsewhere the disks are copied (banger storage show). The name is made of the time ' +
    'when none is given.',
  examples: ['snapshot create web', 'snapshot create web before-upgrade', 'snapshot create db --pause-ok'],
  async run(ctx, { args: { name, snapshot }, options }) {
    const body = {
      ...(snapshot === undefined ? {} : { name: snapshot }),
      ...(options.pauseOk ? { pauseOk: true } : {}),
    };
    const { result } = await perform(ctx, `snapshot of ${name}`, () =>
      ctx.api.call('createSnapshot', { params: { name }, body }),
    );
    const taken = result as Snapshot;
    const pause = taken.pauseMs === null ? '' : `; its guest could not write for ${formatDuration(taken.pauseMs)}`;
    ctx.say(`${taken.name} is a snapshot of ${name} (${formatSize(taken.allocatedBytes)})${pause}`);
    ctx.talk(`Put it back with: banger snapshot restore ${name} ${taken.name}`);
    return taken;
  },
});
