/** What a dead daemon, or a power cut, left of the replacement of a bundle. */
import { rm } from 'node:fs/promises';
import { settleReplaced } from '../../bundle/debian/work-dir.ts';
import type { Host } from '../host.ts';

/** For the start of a daemon, when nobody builds or imports yet. */
export async function sweepBundles({ config, log }: Pick<Host, 'config' | 'log'>): Promise<void> {
  const { bundles } = config.paths;
  const restored = await settleReplaced(bundles, async (paths) => {
    for (const path of paths) {
      log.info({ path }, 'removing a bundle that was replaced');
      await rm(path, { recursive: true, force: true });
    }
  });
  for (const name of restored) log.warn({ bundle: name }, 'a bundle is put back: its replacement was cut short');
}
