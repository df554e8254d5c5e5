/** `banger vmm remove`: a Firecracker that banger installed, away again. */
import { defineCommand } from '../../command.ts';
import { releaseStore } from '../../shared/release-store.ts';
import { releaseVersion, removeRelease } from '../../shared/vmm-releases.ts';

export default defineCommand({
  positionals: ['version'],
  completes: { version: ['vmm-release'] },
  description: 'VMs that run keep what they were started with. The newest of the others is used from then on.',
  examples: ['vmm remove 1.13.1'],
  async run(ctx, { args }) {
    const version = releaseVersion(args.version);
    const { directory } = await releaseStore(ctx);
    const next = await removeRelease(directory, version);
    ctx.say(`Firecracker ${version} is gone${next === undefined ? '' : `; ${next} is used now`}`);
    return { version, current: next ?? null };
  },
});
