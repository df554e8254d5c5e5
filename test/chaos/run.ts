/** One chaos run: a banger of its own on a small store of its own, random commands, and a last look at all data. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { createRunner } from '../../src/system/runner.ts';
import { TestHost } from '../support/host.ts';
import { leanBundle } from '../support/lean-bundle.ts';
import { chaosCommands, checkAllData, type Real } from './commands.ts';
import { emptyModel } from './model.ts';
import { verify } from './observe.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

export interface ChaosOptions {
  /** the same seed makes the same commands */
  seed: number;
  /** runs, each on a fresh banger */
  runs: number;
  /** commands per run at most */
  commands: number;
  /** `ms` after which a failing sequence is not made shorter any more */
  shrinkMs: number;
  /** where the bundle of these tests is kept */
  bundles: string;
  tell(text: string): void;
}

/**
 * @returns how many commands ran
 * @throws fast-check's report: seed, path and the shortest failing sequence found
 */
export async function chaos(options: ChaosOptions): Promise<number> {
  const bundle = await leanBundle(process.env.BANGER_TEST_BUNDLE ?? '', options.bundles);
  let count = 0;
  const commands = fc.commands(chaosCommands(), { maxCommands: options.commands, size: 'max' });
  await fc.assert(
    fc.asyncProperty(commands, async (sequence) => {
      options.tell('a new banger');
      await using host = await createHost(bundle);
      const real: Real = {
        host,
        tell: (text) => {
          count++;
          options.tell(text);
        },
      };
      const model = emptyModel();
      await host.daemon();
      await verify(host, model);
      await fc.asyncModelRun(() => ({ model, real }), sequence);
      await checkAllData(model, real);
    }),
    {
      ...{ seed: options.seed, numRuns: options.runs, endOnFailure: options.shrinkMs === 0 },
      ...(options.shrinkMs > 0 ? { interruptAfterTimeLimit: options.shrinkMs } : {}),
      verbose: 1,
    },
  );
  return count;
}

/** Its store is a file system of 1 GiB, so that it can be filled. */
async function createHost(bundle: string): Promise<TestHost> {
  const host = await TestHost.create({
    env: { BANGER_BUNDLE_DEFAULT: bundle, BANGER_DNS_ENABLED: 'false', BANGER_LIMITS_BOOT_TIMEOUT: '90s' },
  });
  const image = join(host.home, 'store.img');
  const store = join(host.home, 'state/store');
  await mkdir(store, { recursive: true });
  await runner.run(['truncate', '--size=1G', image]);
  await runner.run(['mkfs.xfs', '-q', image]);
  await runner.run(['mount', '-o', 'loop', image, store]);
  host.beforeLastLook(async () => {
    await runner.run(['umount', store]);
  });
  return host;
}
