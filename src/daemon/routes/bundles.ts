/** Handlers for bundles. */
import { join } from 'node:path';
import { useFirstBundle } from '../../bundle/catalog.ts';
import { readHelperScripts } from '../../bundle/helper-scripts.ts';
import { buildBundle } from '../../control/build-bundle.ts';
import { viewBundles } from '../../control/bundle-access.ts';
import type { Host } from '../../control/host.ts';
import type { Handlers } from '../server.ts';

const DEFAULT_SUITE = 'bookworm';

export function bundleHandlers(host: Host): Pick<Handlers, 'listBundles' | 'buildBundle'> {
  const { config, operations } = host;
  return {
    listBundles: async () => await viewBundles(config, host.vms),
    buildBundle: async ({ body }) => {
      const suite = body.suite ?? DEFAULT_SUITE;
      const name = body.name ?? `debian-${suite}`;
      const output = body.output ?? join(config.paths.bundles, name);
      return operations.start({
        kind: 'bundle.build',
        target: `bundle ${output}`,
        run: async (progress, signal) => {
          const deps = {
            runner: host.runner,
            programs: config.programs,
            cacheDir: config.paths.cache,
            env: host.env,
            uid: host.uid,
            helpers: await readHelperScripts(),
            now: host.now,
          };
          let phase = '';
          const { bundle, built, reason } = await buildBundle(
            deps,
            { suite, output, name, sizeBytes: body.rootDiskBytes, force: body.force },
            (event) => {
              if (event.phase !== phase) progress.step(event.phase.replaceAll(' ', '-'), event.phase);
              phase = event.phase;
              progress.report({ label: event.phase, detail: event.detail, done: event.done, total: event.total });
            },
            signal,
          );
          if (body.output === undefined) await useFirstBundle(config.paths.bundles, name);
          return { name, directory: bundle.dir, built, reason };
        },
      });
    },
  };
}
