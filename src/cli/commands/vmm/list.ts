/** `banger vmm list`: each Firecracker there is, and which one VMs are started with. */
import { defineCommand } from '../../command.ts';
import { renderTable } from '../../output/table.ts';
import { nameLines } from '../../shared/if-running.ts';
import { releaseStore } from '../../shared/release-store.ts';
import { listReleases } from '../../shared/vmm-releases.ts';

export default defineCommand({
  options: { names: { type: 'flag', help: 'print only the versions that banger installed, one a line' } },
  examples: ['vmm list', 'vmm ls --json'],
  async run(ctx, { options }) {
    const store = await releaseStore(ctx);
    const releases = await listReleases(store.directory);
    const configured = options.names ? undefined : await store.configured();
    const installed = releases.map(({ version, isCurrent, directory }) => ({
      version: version as string | null,
      isUsed: isCurrent && configured === undefined,
      installed: true,
      path: `${directory}/firecracker`,
    }));
    if (configured === undefined) return installed;
    const version = await store.versionOf(configured);
    return [{ version: version ?? null, isUsed: true, installed: false, path: configured }, ...installed];
  },
  print(found, ctx, options) {
    if (options.names) return nameLines(found.map(({ version }) => version));
    if (found.length === 0) {
      ctx.talk('There is no Firecracker. Get it with: banger vmm install');
      return '';
    }
    const rows = found.map(({ version, isUsed, path }) => [version ?? '-', isUsed ? 'yes' : 'no', path]);
    return renderTable(['VERSION', 'USED', 'FILE'], rows, ctx.paint);
  },
});
