/**
 * What the rig has beside the bundle it boots: the files of the packages that host tests need and the bundle lacks. They are
 * unpacked on the machine itself and configured nowhere, because all that is wanted of them are their programs; the rig lays
 * them over its own /usr.
 */

import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import {
  type Apt,
  type ArchivePackage,
  downloadPackages,
  prepareApt,
  resolvePackages,
  updateLists,
} from '../../src/bundle/debian/apt.ts';
import { readBundle } from '../../src/bundle/store/manifest.ts';
import { checkRecipe, readToml } from '../../src/image/recipe.ts';
import { createRunner, type Runner } from '../../src/system/runner.ts';

const RECIPE = join(import.meta.dirname, 'proof-host.toml');
/** Of all packages, and of those without compilers. */
const PREFIX = { all: 'files-', few: 'few-files-' };
const MERGED = ['bin', 'sbin', 'lib', 'lib64'];

/** They are as large as half of the others, and some host tests compile a program for their guests. */
const COMPILERS = ['gcc', 'musl-tools'];

/** Packages of the recipe, as they are written there. */
export function hostPackages(): string[] {
  return checkRecipe(readToml(readFileSync(RECIPE, 'utf8'), RECIPE), RECIPE).packages;
}

/**
 * Unpacks them unless they are there in the archive's present versions.
 * @param bundle what the rig boots
 * @param compilers whether there are to be any
 * @returns the directory of the files, below `directory`, laid out as a root is
 */
export async function hostFiles(
  directory: string,
  bundle: string,
  compilers: boolean,
  signal?: AbortSignal,
): Promise<string> {
  const prefix = compilers ? PREFIX.all : PREFIX.few;
  const env = { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` };
  const runner = createRunner(env);
  mkdirSync(directory, { recursive: true });
  const apt = await prepareApt(runner, { suite: 'bookworm', arch: 'amd64', dir: join(directory, 'apt'), env });
  const [present] = readdirSync(directory).filter((name) => name.startsWith(prefix));
  try {
    await updateLists(runner, apt, signal);
  } catch (error) {
    if (present === undefined) throw error;
    return join(directory, present); // without a network the last ones will do
  }
  const wanted = hostPackages().filter((name) => compilers || !COMPILERS.includes(name));
  const packages = await missingPackages(runner, apt, bundle, wanted);
  const digest = createHash('sha256').update(packages.join('\n')).digest('hex');
  const target = join(directory, `${prefix}${digest.slice(0, 12)}`);
  if (existsSync(target)) return target;
  if (present !== undefined) rmSync(join(directory, present), { recursive: true });
  const work = mkdtempSync(join(directory, 'unpack-'));
  try {
    await unpack(runner, apt, packages, work, signal);
    renameSync(join(work, 'tree'), target);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return target;
}

async function missingPackages(runner: Runner, apt: Apt, bundle: string, wanted: string[]): Promise<string[]> {
  const { packages: list } = await readBundle(bundle);
  if (list === undefined) throw new Error(`${bundle} does not say which packages it has.`);
  return missingIn(readFileSync(list, 'utf8'), await resolvePackages(runner, apt, wanted));
}

/** `name=version` of those that a bundle with this list of packages lacks. */
export function missingIn(list: string, packages: readonly ArchivePackage[]): string[] {
  const there = new Set(list.split('\n').map((line) => line.split(' ')[0]));
  return packages.filter(({ name }) => !there.has(name)).map(({ name, version }) => `${name}=${version}`);
}

async function unpack(runner: Runner, apt: Apt, packages: string[], work: string, signal?: AbortSignal): Promise<void> {
  const [archives, tree] = [join(work, 'archives'), join(work, 'tree')];
  mkdirSync(archives);
  await downloadPackages(runner, apt, packages, archives, signal);
  for (const name of readdirSync(archives)) {
    await runner.run(['dpkg-deb', '--extract', join(archives, name), tree], signal ? { signal } : {});
  }
  await mergeUsr(runner, tree);
}

/** Moves what packages have in `/bin` and the like to `/usr`, of which these are links in a Debian of today. */
export async function mergeUsr(runner: Runner, tree: string): Promise<void> {
  for (const name of MERGED) {
    const from = join(tree, name);
    if (!existsSync(from)) continue;
    mkdirSync(join(tree, 'usr', name), { recursive: true });
    await runner.run(['cp', '-a', '--link', '--', `${from}/.`, join(tree, 'usr', name)]);
    rmSync(from, { recursive: true });
  }
}
