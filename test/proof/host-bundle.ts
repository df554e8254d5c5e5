/**
 * What the rig boots: a bundle whose root has all that host tests need. It is laid out by mmdebstrap on the machine itself,
 * because installing the same packages inside an emulated guest is much slower.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { buildBundle } from '../../src/control/bundles/build.ts';
import { checkRecipe, readToml } from '../../src/image/recipe.ts';
import { createRunner } from '../../src/system/runner.ts';
import { parseSize } from '../../src/units.ts';

const RECIPE = join(import.meta.dirname, 'proof-host.toml');

/** Packages of the recipe, as they are written there. */
export function hostRecipe(): { name: string; packages: string[]; sizeBytes: number } {
  const { name, packages, size } = checkRecipe(readToml(readFileSync(RECIPE, 'utf8'), RECIPE), RECIPE);
  if (name === undefined || size === undefined) throw new Error(`${RECIPE} has no name or no size.`);
  return { name, packages, sizeBytes: parseSize(size) };
}

/**
 * Builds it unless it is there and nothing it is made from has changed.
 * @returns its directory, below `directory`
 */
export async function hostBundle(directory: string, signal?: AbortSignal): Promise<string> {
  const { name, packages, sizeBytes } = hostRecipe();
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  const { bundle } = await buildBundle(
    {
      runner: createRunner(env),
      programs: { mmdebstrap: 'mmdebstrap', mke2fs: 'mke2fs', xz: 'xz', lz4: 'lz4' },
      cacheDir: join(directory, 'cache'),
      env,
      uid: process.getuid?.() ?? 0,
      helpers: {},
      now: () => new Date(),
    },
    { suite: 'bookworm', name, output: join(directory, name), packages, sizeBytes },
    undefined,
    signal,
  );
  return bundle.dir;
}
