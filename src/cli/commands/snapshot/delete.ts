/** `banger snapshot delete`: snapshots for good. */
import { defineCommand } from '../../command.ts';
import { perform } from '../../shared/operations.ts';

export default defineCommand({
  positionals: ['name', 'snapshots...'],
  completes: { name: ['vm'], snapshots: ['snapshot'] },
  description: 'The VM and its other snapshots lose nothing by that.',
  examples: ['snapshot delete web before-upgrade', 'snapshot rm web first second'],
  async run(ctx, { args: { name, snapshots } }) {
    // one after the other: each is an operation on the VM
    for (const snapshot of new Set(snapshots)) {
      await perform(ctx, `delete ${snapshot}`, () => ctx.api.call('deleteSnapshot', { params: { name, snapshot } }));
      ctx.say(`The snapshot ${snapshot} of ${name} is deleted`);
    }
    return snapshots.map((snapshot) => ({ vm: name, name: snapshot, deleted: true }));
  },
});
