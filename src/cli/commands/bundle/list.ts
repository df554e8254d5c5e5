/** `banger bundle list`: what VMs can boot from. */
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { listed, NAMES, nameLines } from '../../shared/if-running.ts';

export default defineCommand({
  options: NAMES,
  examples: ['bundle list', 'bundle ls --json'],
  run: (ctx, { options }) => listed(ctx, options.names, (api) => api.call('listBundles', {})),
  print(bundles, ctx, options) {
    if (options.names) return nameLines(bundles.map(({ name }) => name));
    if (bundles.length === 0) {
      ctx.talk('No bundles yet. Make one with: banger bundle build');
      return '';
    }
    const rows = bundles.map((bundle) => [
      bundle.isDefault ? `${bundle.name} (default)` : bundle.name,
      bundle.arch,
      bundle.kernelRelease ?? '-',
      String(bundle.usedBy.length),
      bundle.problem === null
        ? bundle.directory
        : { text: `cannot be used: ${bundle.problem}`, paint: (text: string) => ctx.paint('red', text) },
    ]);
    return renderTable(['NAME', 'ARCH', 'KERNEL', 'VMS', 'DIRECTORY'], rows, ctx.paint);
  },
});
