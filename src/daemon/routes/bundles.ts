/** Handlers for bundles. */
import { join, resolve } from 'node:path';
import { readAgentProgram } from '../../bundle/boot/agent-program.ts';
import { useFirstBundle } from '../../bundle/store/catalogue.ts';
import { readHelperScripts } from '../../bundle/store/helper-scripts.ts';
import { bundleDirectory, chooseBundle, viewBundleDetail, viewBundles } from '../../control/bundles/access.ts';
import { buildBundle } from '../../control/bundles/build.ts';
import { adopt, type BundleHost, exportToFile, importToStore, verify } from '../../control/bundles/transfer.ts';
import type { Host } from '../../control/host.ts';
import type { Handlers } from '../server.ts';

const DEFAULT_SUITE = 'bookworm';

type BundleHandlers = Pick<
  Handlers,
  | 'listBundles'
  | 'buildBundle'
  | 'showBundle'
  | 'useBundle'
  | 'verifyBundle'
  | 'importBundle'
  | 'exportBundle'
  | 'adoptBundle'
>;

export function bundleHandlers(
  host: BundleHost & Pick<Host, 'operations' | 'system' | 'now' | 'checks'>,
): BundleHandlers {
  const { config, operations } = host;
  return {
    listBundles: async () => await viewBundles(config, host.stores.vms),
    showBundle: async ({ query }) => await viewBundleDetail(config, host.stores.vms, query.name),
    useBundle: async ({ body }) => await chooseBundle(config, host.stores.vms, body.name),
    verifyBundle: async ({ body }) => {
      const directory = await bundleDirectory(config, body.name);
      return operations.start({
        kind: 'bundle.verify',
        target: `bundle ${directory}`,
        joinable: true,
        run: async (progress, signal) => await verify(host, directory, progress, signal),
      });
    },
    importBundle: async ({ body }) =>
      operations.start({
        kind: 'bundle.import',
        target: `bundle ${body.name === undefined ? body.source : join(config.paths.bundles, body.name)}`,
        run: async (progress, signal) => await importToStore(host, body, progress, signal),
      }),
    exportBundle: async ({ body }) => {
      const directory = await bundleDirectory(config, body.name);
      return operations.start({
        kind: 'bundle.export',
        target: `bundle ${directory}`,
        run: async (progress, signal) => await exportToFile(host, directory, resolve(body.file), progress, signal),
      });
    },
    adoptBundle: async ({ body }) => {
      const directory = resolve(body.directory);
      return operations.start({
        kind: 'bundle.adopt',
        target: `bundle ${directory}`,
        run: async (progress, signal) => await adopt(host, directory, progress, signal),
      });
    },
    buildBundle: async ({ body }) => {
      const suite = body.suite ?? DEFAULT_SUITE;
      const name = body.name ?? `debian-${suite}`;
      const output = body.output ?? join(config.paths.bundles, name);
      return operations.start({
        kind: 'bundle.build',
        target: `bundle ${output}`,
        run: async (progress, signal) => {
          await host.checks.beforeBundleBuild(progress.warn);
          const deps = {
            runner: host.system.runner,
            programs: config.programs,
            cacheDir: config.paths.cache,
            env: host.system.env,
            uid: host.system.uid,
            helpers: await readHelperScripts(),
            agent: await readAgentProgram(),
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
