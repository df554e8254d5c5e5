/** `banger snapshot diff`: which files are other than in a snapshot. */
import type { SnapshotDiff } from '../../../api/snapshot.ts';
import { defineCommand } from '../../command.ts';
import type { Colour, Paint } from '../../output/paint.ts';
import { perform } from '../../shared/operations.ts';
import { PAUSE_OK } from '../../shared/snapshot-options.ts';

type Change = SnapshotDiff['changes'][number];

const SIGNS: Record<Change['change'], { sign: string; colour: Colour }> = {
  added: { sign: '+', colour: 'green' },
  removed: { sign: '-', colour: 'red' },
  changed: { sign: '~', colour: 'yellow' },
};

export default defineCommand({
  positionals: ['name', 'snapshot', '[other]'],
  options: { pauseOk: PAUSE_OK },
  completes: { name: ['vm'], snapshot: ['snapshot'], other: ['snapshot'] },
  description:
    'Compares with another snapshot, or with the disks as they are; those of a VM that runs are cloned for it as by ' +
    '`banger snapshot create`. A file counts as changed when its content, owner, mode or times are others. Names are shown, content ' +
    'is not read; bytes that are no UTF-8 are written as \\xHH.',
  examples: ['snapshot diff web before-upgrade', 'snapshot diff web first second --json'],
  async run(ctx, { args: { name, snapshot, other }, options }) {
    const body = { ...(other === undefined ? {} : { to: other }), ...(options.pauseOk ? { pauseOk: true } : {}) };
    const { result } = await perform(ctx, `diff ${name}`, () =>
      ctx.api.call('diffSnapshot', { params: { name, snapshot }, body }),
    );
    return result as SnapshotDiff;
  },
  print(diff, ctx) {
    const count = (change: Change['change']) => diff.changes.filter((each) => each.change === change).length;
    const more = diff.omitted === 0 ? '' : `, and ${diff.omitted} more that are not shown`;
    ctx.talk(`${count('added')} added, ${count('removed')} removed, ${count('changed')} changed${more}`);
    return diff.changes.map((each) => line(each, ctx.paint)).join('\n');
  },
});

function line({ path, change, kind }: Change, paint: Paint): string {
  const { sign, colour } = SIGNS[change];
  return paint(colour, `${sign} ${path}${kind === 'directory' ? '/' : ''}`);
}
