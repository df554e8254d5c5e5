/** A host without VMs' processes: real files, real records in memory, real programs. */
import { copyFile, mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import type { Host } from '../../../src/control/host.ts';
import { importImage } from '../../../src/control/images/import.ts';
import { createOperations, type Progress } from '../../../src/control/operations.ts';
import { type Database, openDatabase } from '../../../src/state/database.ts';
import { createOperationStore } from '../../../src/state/operations.ts';
import { createStores } from '../../../src/state/stores.ts';
import { imageFiles } from '../../../src/storage/layout.ts';
import { sampleBundle } from '../../bundle/sample-bundle.ts';
import { hostSystem } from '../../support/host-system.ts';
import { PASSED_CHECKS } from '../../support/passed-checks.ts';
import { tempDir } from '../../support/temp-dir.ts';

export type ImageTestHost = Pick<Host, 'config' | 'checks' | 'log' | 'now' | 'operations' | 'stores' | 'system'>;

export interface ImagePlace {
  dir: string;
  /** directory of the default bundle */
  bundle: string;
  /** root file system of the user's own */
  rootfs: string;
  /** directory of all images */
  store: string;
  database: Database;
  host: ImageTestHost;
  /** warnings so far */
  warnings: string[];
  progress: Progress;
  import(request: Partial<Parameters<typeof importImage>[1]>): ReturnType<typeof importImage>;
  /** names in the directory of all images */
  inStore(): Promise<string[]>;
}

export async function imagePlace(t: TestContext): Promise<ImagePlace> {
  const dir = await tempDir(t);
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin`, HOME: dir, BANGER_HOME: dir };
  const { config } = await loadConfig({ env, uid: 0 });
  const bundle = join(config.paths.bundles, 'sample');
  await sampleBundle(bundle);
  const rootfs = join(dir, 'rootfs.ext4');
  await copyFile(join(bundle, 'rootfs.ext4'), rootfs);
  const database = openDatabase(':memory:');
  t.after(() => database.close());
  const now = () => new Date('2026-05-01T00:00:00.000Z');
  const host: ImageTestHost = {
    config: { ...config, bundle: { ...config.bundle, default: bundle } },
    checks: PASSED_CHECKS,
    system: hostSystem(env),
    log: { info: () => {}, warn: () => {}, error: () => {} },
    now,
    stores: createStores(database),
    operations: createOperations(createOperationStore(database), now),
  };
  const store = join(imageFiles(config.paths.store, 'x').directory, '..');
  await mkdir(store, { recursive: true });
  const warnings: string[] = [];
  const progress: Progress = {
    step: () => {},
    report: () => {},
    line: () => {},
    warn: (message) => void warnings.push(message),
  };
  return {
    ...{ dir, bundle, rootfs, store, database, host, warnings, progress },
    import: (request) => importImage(host, { source: rootfs, ...request }, progress, new AbortController().signal),
    inStore: async () => (await readdir(store)).sort(),
  };
}
