/** `banger snapshot show`: one snapshot in full. */
import type { Snapshot } from '../../../api/snapshot.ts';
import { formatDuration, formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import { renderFields } from '../../output/table.ts';

export default defineCommand({
  positionals: ['name', 'snapshot'],
  completes: { name: ['vm'], snapshot: ['snapshot'] },
  examples: ['snapshot show web before-upgrade'],
  run: (ctx, { args: { name, snapshot } }) => ctx.api.call('showSnapshot', { params: { name, snapshot } }),
  print: (snapshot, ctx) => renderFields(fieldsOf(snapshot), ctx.paint),
});

function fieldsOf(snapshot: Snapshot): [string, string][] {
  const work = snapshot.workDiskBytes === 0 ? 'none' : formatSize(snapshot.workDiskBytes);
  return [
    ['VM', snapshot.vm],
    ['snapshot', snapshot.name],
    ['taken', `${snapshot.createdAt}, ${howTaken(snapshot)}`],
    ['automatic', snapshot.automatic ? 'yes, before a restore' : 'no'],
    ['memory', snapshot.memory ? 'yes' : 'no, disks only'],
    ['image', snapshot.image],
    ['root disk', formatSize(snapshot.rootDiskBytes)],
    ['work disk', work],
    ['on host', formatSize(snapshot.allocatedBytes)],
    ['directory', snapshot.directory],
  ];
}

function howTaken({ taken, pauseMs }: Snapshot): string {
  if (taken === 'at-rest') return 'while it did not run';
  return `while it ran; its guest could not write for ${formatDuration(pauseMs ?? 0)}`;
}
