/** `banger storage show`: where disks lie, how much room there is, what takes it. */
import type { Storage } from '../../../api/storage.ts';
import { formatSize } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { renderFields } from '../../output/table.ts';

export default defineCommand({
  examples: ['storage show', 'storage show --json | jq .freeBytes'],
  run: (ctx) => ctx.api.call('showStorage', {}),
  print: (storage, ctx) => renderStorage(storage, ctx.paint),
});

export function renderStorage(storage: Storage, paint: Paint): string {
  const clones = { true: 'share blocks', false: 'are sparse copies', null: 'unknown' }[`${storage.sharesBlocks}`];
  const notes: Record<Storage['state'], string> = {
    ok: '',
    low: '; nearly full',
    full: `; too full to start a VM, which needs ${formatSize(storage.minFreeBytes)}`,
  };
  const fields: [string, string][] = [
    ['store', storage.path],
    ['file system', storage.fileSystem],
    ['clones', clones ?? 'unknown'],
    ['size', formatSize(storage.sizeBytes)],
    ['free', `${formatSize(storage.freeBytes)}${notes[storage.state]}`],
    ...storage.usage.map(({ what, bytes }): [string, string] => [what, formatSize(bytes)]),
  ];
  if (storage.image) {
    const { path, sizeBytes, allocatedBytes, hostFreeBytes } = storage.image;
    fields.push(['image', path]);
    const room = `${formatSize(hostFreeBytes)} free around it`;
    fields.push(['image size', `${formatSize(sizeBytes)}, takes ${formatSize(allocatedBytes)}, ${room}`]);
  }
  return renderFields(fields, paint);
}
