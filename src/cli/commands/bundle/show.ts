/** `banger bundle show`: one bundle in full, with what a VM made from it gets. */
import type { BundleDetail } from '../../../api/bundle.ts';
import { formatSize, MIB } from '../../../units.ts';
import { defineCommand } from '../../command.ts';
import type { Paint } from '../../output/paint.ts';
import { renderFields } from '../../output/table.ts';
import { bundleRef } from '../../shared/bundle-ref.ts';

export default defineCommand({
  positionals: ['[bundle]'],
  completes: { bundle: ['bundle', 'directory'] },
  description: 'A bundle is named by its name or by a path with a slash; without either it is the default one.',
  examples: ['bundle show', 'bundle show debian-trixie --json', 'bundle show ./my-bundle'],
  run: (ctx, { args }) =>
    ctx.api.call('showBundle', args.bundle === undefined ? {} : { query: { name: bundleRef(ctx, args.bundle) } }),
  print(bundle, ctx) {
    if (bundle.notice !== null) ctx.talk(bundle.notice);
    return renderBundle(bundle, ctx.paint);
  },
});

function renderBundle(bundle: BundleDetail, paint: Paint): string {
  const { defaults } = bundle;
  const fields: [string, string | null][] = [
    ['name', bundle.isDefault ? `${bundle.name} (default)` : bundle.name],
    ['arch', bundle.arch],
    ['created', bundle.createdAt],
    ['directory', bundle.directory],
    ['kernel', bundle.kernel],
    ['release', bundle.kernelRelease],
    ['initrd', bundle.initrd],
    ['root disk', bundle.rootfs],
    ['modules', bundle.modules],
    ['packages', bundle.packages],
    ['helpers', bundle.helpers.length === 0 ? null : bundle.helpers.join(' ')],
    ['used by', bundle.usedBy.length === 0 ? null : bundle.usedBy.join(' ')],
    ['processors', String(defaults.vcpus)],
    ['memory', formatSize(defaults.memoryMib * MIB)],
    ['disks', `root ${formatSize(defaults.rootDiskBytes)}, work ${formatSize(defaults.workDiskBytes)}`],
    ['boot args', defaults.bootArgs],
  ];
  return renderFields(
    fields.filter((field): field is [string, string] => field[1] !== null),
    paint,
  );
}
